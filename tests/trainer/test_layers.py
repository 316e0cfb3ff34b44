"""Pools with ties, pools that hang over, layers in columns: against plain loops."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.layers import ColumnLinear, average_pool, max_pool, pooled_side

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
