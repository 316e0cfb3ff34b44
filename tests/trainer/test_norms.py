"""Norms of gradients, weights and updates equal NumPy's in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from trainer.norms import StepNorms, all_finite, norms


def float64_norm(tensor: torch.Tensor) -> float:
    return float(np.sqrt((tensor.detach().numpy().astype(np.float64) ** 2).sum()))


def test_norms_of_many_numbers_are_those_of_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    fc6 = torch.randn(4096, 1200, generator=generator) * 1e-3
    maps = torch.randn(64, 48, 5, 5, generator=generator).to(memory_format=torch.channels_last)
    assert norms([fc6, maps]) == pytest.approx([float64_norm(fc6), float64_norm(maps)], rel=1e-5)
    part = fc6[1000:2000]  # gradients lie within a larger buffer
    assert norms([part]) == pytest.approx([float64_norm(part)], rel=1e-5)


def test_a_norm_is_not_finite_exactly_if_a_number_is_not() -> None:
    large = torch.full((3,), 1e30)  # its squares overflow in float32
    assert norms([large]) == pytest.approx([1e30 * 3**0.5], rel=1e-6)
    assert all_finite([large, torch.zeros(2)])
    for value in (float("nan"), float("inf"), -float("inf")):
        assert not all_finite([torch.zeros(2), torch.tensor([0.0, value])])


def test_a_step_norm_is_of_all_gradients_and_a_layer_s_of_its_weights() -> None:
    network = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 4))
    rng = np.random.default_rng(0)
    before = {name: p.detach().numpy().copy() for name, p in network.named_parameters()}
    gradients = {name: rng.standard_normal(p.shape) for name, p in network.named_parameters()}
    for name, parameter in network.named_parameters():
        parameter.grad = torch.from_numpy(gradients[name]).float()
    step = StepNorms(network)
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)
    assert step.gradient_norm == pytest.approx(np.sqrt(sum((g**2).sum() for g in gradients.values())), rel=1e-6)
    assert step.by_layer() == {
        layer: {
            "weight_norm": pytest.approx(np.linalg.norm(before[w] - 0.1 * gradients[w]), rel=1e-4),
            "gradient_norm": pytest.approx(np.linalg.norm(gradients[w]), rel=1e-5),
            "update_ratio": pytest.approx(0.1 * np.linalg.norm(gradients[w]) / np.linalg.norm(before[w]), rel=1e-4),
        }
        for layer, w in (("0", "0.weight"), ("1", "1.weight"))
    }


def test_of_a_large_layer_the_update_is_estimated_to_a_hundredth_and_of_zeros_there_is_no_ratio() -> None:
    first, last = nn.Linear(1000, 1000), nn.Linear(1000, 2)
    network = nn.Sequential(first, last)
    generator = torch.Generator().manual_seed(3)
    update = torch.randn(1000, 1000, generator=generator) * 1e-4
    with torch.no_grad():
        first.weight.normal_(0, 0.01, generator=generator)
        last.weight.zero_()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step = StepNorms(network)
    with torch.no_grad():
        first.weight.add_(update)
    layers = step.by_layer()
    assert layers["0"]["update_ratio"] == pytest.approx(1e-4 / 0.01, rel=0.01)
    assert layers["0"]["gradient_norm"] == 0
    assert layers["1"] == {"weight_norm": 0, "gradient_norm": 0, "update_ratio": None}
