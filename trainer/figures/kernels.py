"""Kernels of the first layer become one picture (figure 3 of the paper). In: float weights. Out: uint8 RGB pixels.

The paper's network has two columns: the kernels of the first stand above those of the second.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
PER_ROW, TILE = 16, 66
GAP, COLUMN_GAP = 2, 14
WHITE = 255


def kernel_sheet(weights: torch.Tensor, columns: int = 1) -> Pixels:
    """uint8 (height, width, 3): the kernels of conv1, (n, 3, k, k), sixteen a row, each on its own scale.

    Grey is zero; the largest value of a kernel, positive or negative, is full light or dark in its channel. With two
    columns the first n / 2 kernels stand above a wider gap, the others below.
    """
    tiles = _tiles(weights.detach().float().permute(0, 2, 3, 1).numpy())
    blocks = [_block(part) for part in np.split(tiles, columns)]
    gap = np.full((COLUMN_GAP, blocks[0].shape[1], 3), WHITE, np.uint8)
    return np.concatenate([part for block in blocks for part in (block, gap)][:-1])


def columns_of(network: Mapping[str, torch.Tensor]) -> int:
    """2 if conv2 is grouped, so that each half of conv1 feeds a column of its own; 1 otherwise."""
    first, second = network["conv1.weight"], network.get("conv2.weight")
    return 2 if second is not None and 2 * second.shape[1] == first.shape[0] else 1


def _tiles(kernels: Floats) -> Pixels:
    """uint8 (n, side, side, 3) of (n, k, k, 3): every weight a square, as large as fits."""
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    tiles = (127.5 + 127.5 * kernels / np.where(largest > 0, largest, 1)).round().astype(np.uint8)
    scale = max(1, TILE // kernels.shape[1])
    return tiles.repeat(scale, 1).repeat(scale, 2)


def _block(tiles: Pixels) -> Pixels:
    """Rows of tiles with a gap around each."""
    side, per_row = tiles.shape[1], min(PER_ROW, len(tiles))
    rows = -(-len(tiles) // per_row)
    block = np.full((rows * (side + GAP) + GAP, per_row * (side + GAP) + GAP, 3), WHITE, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // per_row * (side + GAP), GAP + i % per_row * (side + GAP)
        block[top : top + side, left : left + side] = tile
    return block
