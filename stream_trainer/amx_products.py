"""Matrices packed for AMX, and their product: bfloat16 factors, float32 sums.

Knows no layer. A packed factor is cut into panels of 32 rows (of the left factor) or columns (of the right one); a
panel holds, for every 32 of the summed dimension, two tiles. What a matrix lacks to whole panels is zero. Every way of
packing reads float32 and may be given a part of the summed dimension, so that a factor can be put together bit by bit.

Invariant: a factor's place depends on its sizes alone, so one piece of memory serves factors of any smaller size;
nothing is allocated. `multiply` runs between `amx_code.configure_tiles` and `release_tiles`.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import kernel
from stream_trainer.amx_code import (
    BLOCK,
    TILE,
    multiply_block,
    pack_pairs,
    pack_pairs_turned,
    pack_rows,
    pack_rows_turned,
)

__all__ = [
    "CORNER",
    "aligned_empty",
    "blocks",
    "multiply",
    "pack_left",
    "pack_left_turned",
    "pack_right",
    "pack_right_turned",
    "packed_size",
]

CORNER = BLOCK * BLOCK
"""Floats of the working memory of `multiply`."""

_ONE, _BLOCK, _TILE = np.uint64(1), np.uint64(BLOCK), np.uint64(TILE)
_HALF = _BLOCK >> _ONE
_PAIR = _TILE << _ONE  # both tiles of a panel for 32 of the summed dimension
_GROUP_STEPS = np.uint64(512)  # of the left factor's panels: 1 MiB that stays in the cache while the right one passes
_LINE_BYTES = 64

Number = TypeVar("Number", np.float32, np.uint16)


def aligned_empty(size: int, dtype: type[Number]) -> NDArray[Number]:
    """An uninitialised vector that starts on a cache line: a tile's rows are lines then."""
    width = np.dtype(dtype).itemsize
    whole = np.empty(size * width + _LINE_BYTES, np.uint8)
    start = -whole.ctypes.data % _LINE_BYTES
    return whole[start : start + size * width].view(dtype)


@kernel
def blocks(size: int | np.uint64) -> np.uint64:
    """Panels of so many rows or columns; steps of so much of the summed dimension."""
    return (np.uint64(size) + _BLOCK - _ONE) // _BLOCK


def packed_size(outer: int, summed: int) -> int:
    """Elements of a packed factor with `outer` rows (left) or columns (right)."""
    return -(-outer // BLOCK) * -(-summed // BLOCK) * 2 * TILE


@kernel
def _left_after(size: np.uint64, position: np.uint64) -> np.uint64:
    return size - position if size > position else np.uint64(0)


@kernel
def pack_left(matrix: NDArray[np.float32], packed: NDArray[np.uint16]) -> None:
    """The left factor of `matrix` (m, k) times something: all of it."""
    rows, columns = np.uint64(matrix.shape[0]), np.uint64(matrix.shape[1])
    flat = matrix.reshape(-1)
    place = np.uint64(0)
    for panel in range(blocks(rows)):
        for step in range(blocks(columns)):
            for half in range(np.uint64(2)):
                row, column = panel * _BLOCK + half * _HALF, step * _BLOCK
                there = _left_after(rows, row)
                pack_rows(flat, row * columns + column, columns, there, columns - column, packed, place)
                place += _TILE


@kernel
def pack_right_turned(
    matrix: NDArray[np.float32], packed: NDArray[np.uint16], first: np.uint64, last: np.uint64
) -> None:
    """The right factor of something times the transpose of `matrix` (n, k): its panels first .. last, f32 rows of n."""
    rows, columns = np.uint64(matrix.shape[0]), np.uint64(matrix.shape[1])
    flat = matrix.reshape(-1)
    place = first * blocks(columns) * _PAIR
    for panel in range(first, last):
        for step in range(blocks(columns)):
            for half in range(np.uint64(2)):
                row, column = panel * _BLOCK + half * _HALF, step * _BLOCK
                there = _left_after(rows, row)
                pack_rows_turned(flat, row * columns + column, columns, there, columns - column, packed, place)
                place += _TILE


@kernel
def pack_right(
    matrix: NDArray[np.float32],
    first: np.uint64,
    last: np.uint64,
    packed: NDArray[np.uint16],
    step: np.uint64,
    steps: np.uint64,
) -> None:
    """The right factor of something times (k, n): rows first .. last of `matrix` become its steps from `step` on.

    Args:
        matrix: f32, rows of n columns.
        first: row to begin with.
        last: behind the last row; first + 32 j, or the end of the summed dimension.
        packed: the factor, of which only these steps are written.
        step: number of the first.
        steps: blocks of the whole summed dimension.
    """
    columns = np.uint64(matrix.shape[1])
    flat = matrix.reshape(-1)
    for row in range(first, last, _BLOCK):
        for panel in range(blocks(columns)):
            place = (panel * steps + step) * _PAIR
            for half in range(np.uint64(2)):
                column = panel * _BLOCK + half * _HALF
                there = _left_after(columns, column)
                pack_pairs(flat, row * columns + column, columns, last - row, there, packed, place + half * _TILE)
        step += _ONE


@kernel
def pack_left_turned(
    matrix: NDArray[np.float32], packed: NDArray[np.uint16], step: np.uint64, steps: np.uint64
) -> None:
    """The left factor of the transpose of (k, m) times something: `matrix` becomes its steps from `step` on."""
    rows, columns = np.uint64(matrix.shape[0]), np.uint64(matrix.shape[1])
    flat = matrix.reshape(-1)
    for row in range(np.uint64(0), rows, _BLOCK):
        for panel in range(blocks(columns)):
            place = (panel * steps + step) * _PAIR
            for half in range(np.uint64(2)):
                column = panel * _BLOCK + half * _HALF
                there = _left_after(columns, column)
                pack_pairs_turned(
                    flat, row * columns + column, columns, rows - row, there, packed, place + half * _TILE
                )
        step += _ONE


@kernel
def multiply(
    left: NDArray[np.uint16],
    right: NDArray[np.uint16],
    steps: np.uint64,
    out: NDArray[np.float32],
    corner: NDArray[np.float32],
) -> None:
    """Product of two packed factors.

    Args:
        left: u16, m rows.
        right: u16, n columns.
        steps: blocks of the summed dimension, at least 1.
        out: f32 (m, n), written.
        corner: f32 (CORNER,), overwritten.
    """
    rows, columns = np.uint64(out.shape[0]), np.uint64(out.shape[1])
    flat = out.reshape(-1)
    panel_size = steps * _PAIR
    panels = blocks(rows)
    together = max(_GROUP_STEPS // steps, _ONE)
    for group in range(np.uint64(0), panels, together):
        for column in range(np.uint64(0), columns, _BLOCK):
            start = (column // _BLOCK) * panel_size
            for panel in range(group, min(panels, group + together)):
                row = np.uint64(panel * _BLOCK)
                if row + _BLOCK <= rows and column + _BLOCK <= columns:
                    multiply_block(left, panel * panel_size, right, start, steps, flat, row * columns + column, columns)
                else:
                    multiply_block(left, panel * panel_size, right, start, steps, corner, np.uint64(0), _BLOCK)
                    _copy_corner(corner, out, row, np.uint64(column))


@kernel
def _copy_corner(corner: NDArray[np.float32], out: NDArray[np.float32], row: np.uint64, column: np.uint64) -> None:
    height = min(_BLOCK, np.uint64(out.shape[0]) - row)
    width = min(_BLOCK, np.uint64(out.shape[1]) - column)
    for i in range(height):
        for j in range(width):
            out[row + i, column + j] = corner[i * _BLOCK + j]
