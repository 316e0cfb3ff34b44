"""Response normalisation equals the formulas of the paper and of the released source, outputs and gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainer.normalisation import across_channels, within_maps

COLUMN = (10.0, -20.0, 30.0, 40.0, -50.0, 60.0, 70.0, 80.0)
# (k, factor on the sum of squares): eight channels, computed in float64 from the paper's formula.
GOLDEN = {
    (2.0, 1e-4): (
        5.651837543488, -10.708635064209, 14.866752773557, 17.999543588309,
        -20.192328318362, 21.619855906625, 26.028212177133, 31.330759058306,
    ),
    (2.0, 2e-5): (
        5.884357322387, -11.631335432362, 17.135998412192, 22.295520782363,
        -27.036508837720, 31.312556914105, 36.904087437469, 42.862497098848,
    ),
    (1.0, 2e-5): (
        9.795016321646, -19.144789550352, 27.741441276971, 35.330394422248,
        -41.794315191365, 47.123977025236, 55.953933307089, 65.786073761049,
    ),
}  # fmt: skip
Formula = Callable[[torch.Tensor], torch.Tensor]


def numbers(*shape: int, seed: int = 0, scale: float = 50.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def torch_norm(k: float, factor: float, groups: int) -> Formula:
    """The same by torch's own module, in which alpha is the factor times the window's size."""
    norm = nn.LocalResponseNorm(5, 5 * factor, 0.75, k)
    return lambda x: torch.cat([norm(part) for part in x.chunk(groups, 1)], 1)


def plain_maps(x: torch.Tensor) -> torch.Tensor:
    """The spatial normalisation of the released network: shifted copies, added up."""
    height, width = x.shape[2:]
    padded = F.pad(x * x, (2, 2, 2, 2))
    total = sum(padded[:, :, i : i + height, j : j + width] for i in range(5) for j in range(5))
    return x / (1 + 0.001 / 25 * total) ** 0.75


def assert_same(ours: Formula, formula: Formula, x: torch.Tensor) -> None:
    """Outputs in float32, and gradients of a random weighting of them, against the formula in float64."""
    weights = numbers(*x.shape, seed=1, scale=1.0)
    exact_in, our_in = x.double().requires_grad_(), x.clone().requires_grad_()
    exact, found = formula(exact_in), ours(our_in)
    (exact * weights).sum().backward()
    (found * weights).sum().backward()
    assert found.dtype == torch.float32
    assert exact_in.grad is not None
    assert our_in.grad is not None
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(our_in.grad.double(), exact_in.grad, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("k", "factor"), GOLDEN)
def test_a_column_of_eight_channels_equals_its_golden_values(k: float, factor: float) -> None:
    x = torch.tensor(COLUMN).view(1, 8, 1, 1)
    assert across_channels(x, k, factor, 1).flatten().tolist() == pytest.approx(GOLDEN[k, factor], rel=1e-6)


def test_a_constant_map_equals_its_golden_values() -> None:
    found = within_maps(torch.full((1, 1, 13, 13), 10.0))[0, 0]
    corner, edge, inside = found[0, 0].item(), found[0, 6].item(), found[6, 6].item()
    assert (corner, edge, inside) == pytest.approx((9.738233494288, 9.572394775176, 9.310124446222), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(3, 24), side=st.integers(1, 6), groups=st.sampled_from([1, 2]),
    k=st.sampled_from([1.0, 2.0]), factor=st.sampled_from([0.0, 2e-5, 1e-4, 1e-2]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_channels_are_normalised_by_the_formula_whole_or_in_halves(
    channels: int, side: int, groups: int, k: float, factor: float, seed: int
) -> None:
    x = numbers(2, channels * groups, side, side, seed=seed)
    assert_same(lambda v: across_channels(v, k, factor, groups), torch_norm(k, factor, groups), x)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(3, 13), width=st.integers(3, 13), seed=st.integers(0, 1000))
def test_maps_are_normalised_by_the_formula(height: int, width: int, seed: int) -> None:
    assert_same(within_maps, plain_maps, numbers(2, 3, height, width, seed=seed))


def test_a_half_does_not_see_the_other() -> None:
    x = numbers(1, 96, 4, 4)
    changed = x.clone()
    changed[:, :48] *= 3
    for groups, same in ((2, True), (1, False)):
        one, other = (across_channels(v, 2.0, 1e-4, groups)[:, 48:] for v in (x, changed))
        assert torch.equal(one, other) == same


@pytest.mark.parametrize("ours", [lambda v: across_channels(v, 2.0, 2e-5, 2), within_maps], ids=["channels", "maps"])
def test_normalisation_stays_in_float32_whatever_is_around_it(ours: Formula) -> None:
    x = numbers(2, 8, 5, 5).bfloat16()
    before = x.clone()
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, ours(x.float()))
    assert torch.equal(x, before)
