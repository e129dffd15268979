"""Matrices packed for AMX, and their product: factors of one or three bfloat16 terms, float32 sums.

Knows no layer. A packed factor is cut into panels of 32 rows (of the left factor) or columns (of the right one); a
panel holds, for every 32 of the summed dimension, two tiles of each term. What a matrix lacks to whole panels is zero.
Every way of packing reads float32 and may be given a part of the summed dimension, so that a factor can be put together
bit by bit.

Invariant: a factor's place depends on its sizes alone, so one piece of memory serves factors of any smaller size;
nothing is allocated. `multiply` runs between `amx_code.configure_tiles` and `release_tiles`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import kernel, lean_fast_kernel
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
    "ADD_AND_STOP",
    "BLOCK_FLOATS",
    "NOTHING",
    "STOP_SILENT",
    "Ending",
    "blocks",
    "multiply",
    "pack_left",
    "pack_left_turned",
    "pack_right",
    "pack_right_turned",
    "packed_size",
]

BLOCK_FLOATS = BLOCK * BLOCK
"""Working memory of `multiply`."""

NOTHING, ADD_AND_STOP, STOP_SILENT = 0, 1, 2
"""Kinds of `Ending`."""

_ONE, _BLOCK, _TILE = np.uint64(1), np.uint64(BLOCK), np.uint64(TILE)
_HALF = _BLOCK >> _ONE
_PAIR = _TILE << _ONE  # both tiles of a panel for 32 of the summed dimension, in one term
_GROUP_STEPS = np.uint64(768)  # of the left factor's panels: 1.5 MiB that stay in the cache while the right one passes


@kernel
def blocks(size: int | np.uint64) -> np.uint64:
    """Panels of so many rows or columns; steps of so much of the summed dimension."""
    return (np.uint64(size) + _BLOCK - _ONE) // _BLOCK


def packed_size(outer: int, summed: int, terms: int) -> int:
    """Elements of a packed factor with `outer` rows (left) or columns (right), in so many terms."""
    return -(-outer // BLOCK) * -(-summed // BLOCK) * 2 * TILE * terms


@kernel
def _left_after(size: np.uint64, position: np.uint64) -> np.uint64:
    return size - position if size > position else np.uint64(0)


@kernel
def pack_left(matrix: NDArray[np.float32], packed: NDArray[np.uint16], terms: np.uint64) -> None:
    """The left factor of `matrix` (m, k) times something: all of it."""
    rows, columns = np.uint64(matrix.shape[0]), np.uint64(matrix.shape[1])
    flat = matrix.reshape(-1)
    place = np.uint64(0)
    for panel in range(blocks(rows)):
        for step in range(blocks(columns)):
            for half in range(np.uint64(2)):
                row, column = panel * _BLOCK + half * _HALF, step * _BLOCK
                there = _left_after(rows, row)
                pack_rows(flat, row * columns + column, columns, there, columns - column, packed, place, terms)
                place += _TILE * terms


@kernel
def pack_right_turned(
    matrix: NDArray[np.float32], packed: NDArray[np.uint16], first: np.uint64, last: np.uint64, terms: np.uint64
) -> None:
    """The right factor of something times the transpose of `matrix` (n, k): its panels first .. last, f32 rows of n."""
    rows, columns = np.uint64(matrix.shape[0]), np.uint64(matrix.shape[1])
    flat = matrix.reshape(-1)
    place = first * blocks(columns) * _PAIR * terms
    for panel in range(first, last):
        for step in range(blocks(columns)):
            for half in range(np.uint64(2)):
                row, column = panel * _BLOCK + half * _HALF, step * _BLOCK
                there = _left_after(rows, row)
                pack_rows_turned(flat, row * columns + column, columns, there, columns - column, packed, place, terms)
                place += _TILE * terms


@kernel
def pack_right(
    matrix: NDArray[np.float32],
    first: np.uint64,
    last: np.uint64,
    packed: NDArray[np.uint16],
    step: np.uint64,
    steps: np.uint64,
    terms: np.uint64,
) -> None:
    """The right factor of something times (k, n): rows first .. last of `matrix` become its steps from `step` on.

    Args:
        matrix: f32, rows of n columns.
        first: row to begin with.
        last: behind the last row; first + 32 j, or the end of the summed dimension.
        packed: the factor, of which only these steps are written.
        step: number of the first.
        steps: blocks of the whole summed dimension.
        terms: of each value, as everywhere here.
    """
    columns = np.uint64(matrix.shape[1])
    flat = matrix.reshape(-1)
    for row in range(first, last, _BLOCK):
        for panel in range(blocks(columns)):
            place = (panel * steps + step) * _PAIR * terms
            for half in range(np.uint64(2)):
                column = panel * _BLOCK + half * _HALF
                there = _left_after(columns, column)
                pack_pairs(
                    flat,
                    row * columns + column,
                    columns,
                    last - row,
                    there,
                    packed,
                    place + half * _TILE * terms,
                    terms,
                )
        step += _ONE


@kernel
def pack_left_turned(
    matrix: NDArray[np.float32], packed: NDArray[np.uint16], step: np.uint64, steps: np.uint64, terms: np.uint64
) -> None:
    """The left factor of the transpose of (k, m) times something: `matrix` becomes its steps from `step` on."""
    rows, columns = np.uint64(matrix.shape[0]), np.uint64(matrix.shape[1])
    flat = matrix.reshape(-1)
    for row in range(np.uint64(0), rows, _BLOCK):
        for panel in range(blocks(columns)):
            place = (panel * steps + step) * _PAIR * terms
            for half in range(np.uint64(2)):
                column = panel * _BLOCK + half * _HALF
                there = _left_after(columns, column)
                pack_pairs_turned(
                    flat,
                    row * columns + column,
                    columns,
                    rows - row,
                    there,
                    packed,
                    place + half * _TILE * terms,
                    terms,
                )
        step += _ONE


class Ending(NamedTuple):
    """What is done to each block of a product while it is in the cache.

    Attributes:
        kind: NOTHING; ADD_AND_STOP: out = relu(out + bias); STOP_SILENT: out is zero where `outputs` is, and its
            columns are added to `sums`.
        bias: f32 (n,), or empty.
        outputs: f32 (m * n,), or empty.
        sums: f32 (n,), or empty.
    """

    kind: int
    bias: NDArray[np.float32]
    outputs: NDArray[np.float32]
    sums: NDArray[np.float32]


@kernel
def multiply(
    left: NDArray[np.uint16],
    right: NDArray[np.uint16],
    steps: np.uint64,
    out: NDArray[np.float32],
    block: NDArray[np.float32],
    terms: np.uint64,
    ending: Ending,
) -> None:
    """Product of two packed factors.

    Args:
        left: u16, m rows.
        right: u16, n columns.
        steps: blocks of the summed dimension, at least 1.
        out: f32 (m, n), written.
        block: f32 (BLOCK_FLOATS,), overwritten.
        terms: of both factors.
        ending: of every block.
    """
    rows, columns = np.uint64(out.shape[0]), np.uint64(out.shape[1])
    flat = out.reshape(-1)
    panel_size = steps * _PAIR * terms
    panels = blocks(rows)
    together = max(_GROUP_STEPS // (steps * terms), _ONE)
    for group in range(np.uint64(0), panels, together):
        for column in range(np.uint64(0), columns, _BLOCK):
            start = (column // _BLOCK) * panel_size
            for panel in range(group, min(panels, group + together)):
                row = np.uint64(panel * _BLOCK)
                here = row * columns + column
                height, width = min(_BLOCK, rows - row), min(_BLOCK, np.uint64(columns - column))
                multiply_block(left, panel * panel_size, right, start, steps, block, terms)
                if width == _BLOCK:  # a loop of known length runs in whole vectors
                    _finish(block, flat, here, columns, height, _BLOCK, ending, np.uint64(column))
                else:
                    _finish(block, flat, here, columns, height, width, ending, np.uint64(column))


@lean_fast_kernel
def _finish(
    block: NDArray[np.float32],
    out: NDArray[np.float32],
    here: np.uint64,
    stride: np.uint64,
    height: np.uint64,
    width: np.uint64,
    ending: Ending,
    column: np.uint64,
) -> None:
    """Writes a block of sums to out[here] and on; `column` is its first."""
    zero = np.float32(0)
    if ending.kind == ADD_AND_STOP:
        bias = ending.bias[column : column + width]
        for i in range(height):
            for j in range(width):
                out[here + i * stride + j] = max(block[i * _BLOCK + j] + bias[j], zero)
    elif ending.kind == STOP_SILENT:
        outputs, total = ending.outputs, ending.sums[column : column + width]
        for i in range(height):
            for j in range(width):
                at = here + i * stride + j
                out[at] = block[i * _BLOCK + j] = block[i * _BLOCK + j] if outputs[at] > zero else zero
        for i in range(height):
            for j in range(width):
                total[j] += block[i * _BLOCK + j]
    else:
        for i in range(height):
            for j in range(width):
                out[here + i * stride + j] = block[i * _BLOCK + j]
