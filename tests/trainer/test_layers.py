"""Pools with ties, pools that hang over, layers in columns: against plain loops."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.layers import ColumnLinear, FullLinear, average_pool, max_pool, pooled_side

Floats = npt.NDArray[np.float64]


def pooled(x: Floats, grad: Floats, size: int, ties: str) -> tuple[Floats, Floats]:
    """Output and input gradient of a max-pool of one map, by loops; windows step by 2 and may hang over the edge."""
    out, spread = np.zeros_like(grad), np.zeros_like(x)
    for i, j in np.ndindex(grad.shape):
        window = x[2 * i : 2 * i + size, 2 * j : 2 * j + size]
        out[i, j] = window.max()
        places = np.argwhere(window == window.max())
        for y, x_ in places if ties == "all" else places[:1]:
            spread[2 * i + y, 2 * j + x_] += grad[i, j]
    return out, spread


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 12), st.sampled_from([2, 3]), st.sampled_from(["ceil", "floor"]), st.sampled_from(["all", "first"]),
       st.integers(0, 10_000))  # fmt: skip
def test_a_pool_and_its_gradient_equal_plain_loops(side: int, size: int, rounding: str, ties: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(0, 4, (side, side)).astype(float)  # few values: many ties
    over = (side - size) / 2
    out_side = 1 + int(np.ceil(over) if rounding == "ceil" else np.floor(over))
    grad = random.normal(size=(out_side, out_side))
    images = torch.from_numpy(x).view(1, 1, side, side).requires_grad_()
    found = max_pool(images, size, rounding, ties)
    assert pooled_side(side, size, rounding) == found.shape[2] == out_side
    found.backward(torch.from_numpy(grad).view(1, 1, out_side, out_side))
    expected, spread = pooled(x, grad, size, ties)
    assert images.grad is not None
    np.testing.assert_array_equal(found.detach().numpy()[0, 0], expected)
    np.testing.assert_allclose(images.grad.numpy()[0, 0], spread, atol=1e-12)


def test_an_average_counts_only_values_inside_the_map() -> None:
    (found,) = average_pool(torch.arange(16.0).view(1, 1, 4, 4))[0]
    assert found.tolist() == [[5.0, 6.5], [11.0, 12.5]]


@pytest.mark.parametrize("columns", [1, 2])
def test_a_layer_in_columns_is_that_many_layers_side_by_side(columns: int) -> None:
    layer = ColumnLinear(6, 4, columns)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(5, 6)
    whole = torch.block_diag(*layer.weight.chunk(columns))
    torch.testing.assert_close(layer(x), x @ whole.T + layer.bias)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("laid_out", [False, True], ids=["made", "laid out"])
def test_a_full_layer_adds_the_gradients_of_a_plain_one(precision: torch.dtype, laid_out: bool) -> None:
    layer = FullLinear(6, 4)
    room = torch.zeros(24)
    if laid_out:
        layer.weight.grad = room.view(4, 6)
    seen: list[torch.Tensor] = []
    layer.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    x = torch.randn(5, 6)
    weights = torch.randn(5, 4).to(precision).float()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    rounded = [
        layer.weight.detach().to(precision).double().requires_grad_(),
        layer.bias.detach().double().requires_grad_(),
    ]
    for _ in range(2):  # the second time something lies there
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            found = layer(ours)
        (found.float() * weights).sum().backward()
        (F.linear(theirs.to(precision).double(), *rounded) * weights).sum().backward()
    assert found.dtype == precision
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
    for mine, plain in zip((layer.weight.grad, layer.bias.grad), (w.grad for w in rounded), strict=True):
        assert mine is not None
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), plain, **close)
    torch.testing.assert_close(
        ours.grad, theirs.grad, **(close if precision == torch.float32 else {"rtol": 2e-2, "atol": 2e-2})
    )
    assert len(seen) == 2
    assert layer.weight.grad is not None
    assert torch.equal(seen[-1], layer.weight.grad)
    assert torch.equal(room.view(4, 6), layer.weight.grad) == laid_out


def test_weights_that_are_frozen_get_no_gradient() -> None:
    layer = FullLinear(6, 4)
    layer.weight.grad = torch.zeros(4, 6)
    layer.weight.requires_grad_(False)
    layer(torch.randn(2, 6)).sum().backward()
    assert not layer.weight.grad.any()
    assert layer.bias.grad is not None
