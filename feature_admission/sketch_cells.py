"""Kernels of the decayed count-min sketch: hash, weigh, add, estimate.

Know no threshold and no settings class. Time is cut into ticks, 1024 to a half-life; an observation at tick t weighs
2^((t - landmark) / 1024), and an estimate is the smallest cell divided by the weight of now. Since the weight depends
on the tick alone, cutting a stream into other batches gives the same cells, byte for byte. Invariant: weights lie
in [1, 2^64 * 2), so a cell capped at COUNT_CAP fits a float32 many times over.

Source: see count_min.
"""

import math

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import kernel

__all__ = ["add_counts", "estimate_counts", "weight_at"]

_TICK_BITS = 10  # ticks per half-life, as a power of two
_TICK_MASK = (1 << _TICK_BITS) - 1
_TICK_SCALES = 2.0 ** (np.arange(1 << _TICK_BITS) / (1 << _TICK_BITS))
_REBASE_TICKS = 64 << _TICK_BITS  # scale back before weights leave the range of float32
_FORGOTTEN = 2.0**-30  # smaller counts become zero when scaling back, so that no cell is ever denormal

_SHIFT_32 = np.uint64(32)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_27 = np.uint64(27)
_SHIFT_30 = np.uint64(30)


@kernel
def _cell_of(id_: int, seed: int, width: int) -> int:
    """Column of an id in the row of `seed`: splitmix64's finaliser, its high half scaled to the width."""
    z = np.uint64(id_) ^ np.uint64(seed)
    z = (z ^ (z >> _SHIFT_30)) * _MIX_1
    z = (z ^ (z >> _SHIFT_27)) * _MIX_2
    return np.int64(((z >> _SHIFT_32) * np.uint64(width)) >> _SHIFT_32)  # type: ignore[return-value]


@kernel
def _tick(clock: NDArray[np.int64], half_life: int) -> int:
    if half_life == 0:
        return 0
    return int(clock[0] << _TICK_BITS) // half_life


@kernel
def weight_at(clock: NDArray[np.int64], half_life: int) -> float:
    """Weight of an observation made now, on the scale of the cells.

    Args:
        clock: int64 (2,): observations or milliseconds so far, tick of weight 1.
        half_life: in the clock's unit; 0 means that nothing is forgotten.
    """
    ticks = _tick(clock, half_life) - clock[1]
    return math.ldexp(_TICK_SCALES[ticks & _TICK_MASK], ticks >> _TICK_BITS)


@kernel
def _scale_back(
    cells: NDArray[np.float32],
    dirty: NDArray[np.uint8],
    clock: NDArray[np.int64],
    total: NDArray[np.float64],
    half_lives: int,
) -> None:
    """Divides all weights by 2^half_lives, exactly; what lies below any use becomes zero."""
    scale = np.float32(math.ldexp(1.0, -min(half_lives, 126)))
    if half_lives > 126:
        scale = np.float32(0.0)
    for i in range(len(cells)):
        scaled = cells[i] * scale
        cells[i] = scaled if scaled >= np.float32(_FORGOTTEN) else np.float32(0.0)
    dirty[:] = 1
    total[0] = total[0] * scale
    clock[1] += half_lives << _TICK_BITS


@kernel
def _current_weight(
    cells: NDArray[np.float32],
    dirty: NDArray[np.uint8],
    clock: NDArray[np.int64],
    total: NDArray[np.float64],
    half_life: int,
) -> float:
    """As `weight_at`, after scaling back when the weight has grown too far."""
    ticks = _tick(clock, half_life) - clock[1]
    if ticks >= _REBASE_TICKS:
        _scale_back(cells, dirty, clock, total, ticks >> _TICK_BITS)
    return weight_at(clock, half_life)


@kernel
def _raise_cells(
    cells: NDArray[np.float32],
    dirty: NDArray[np.uint8],
    places: NDArray[np.int64],
    added: float,
    cap: float,
    conservative: bool,
) -> None:
    """Adds to one id's cells; both are on the scale of the cells."""
    lowest = cells[places[0]]
    for row in range(1, len(places)):
        lowest = min(lowest, cells[places[row]])
    target = np.float32(min(lowest + added, cap))
    for place in places:
        value = cells[place]
        if conservative:
            raised = max(value, target)
        else:
            raised = np.float32(min(value + added, cap))
        if raised != value:
            cells[place] = raised
            dirty[place >> 6] = 1


@kernel
def add_counts(
    cells: NDArray[np.float32],
    dirty: NDArray[np.uint8],
    clock: NDArray[np.int64],
    total: NDArray[np.float64],
    ids: NDArray[np.uint64],
    counts: NDArray[np.uint32],
    seeds: NDArray[np.uint64],
    width: int,
    half_life: int,
    now_ms: int,
    conservative: bool,
    cap: float,
) -> None:
    """Counts ids one after another, moving the clock.

    Args:
        cells: float32, `len(seeds)` rows of `width` cells and some to spare.
        dirty: uint8, one mark for 64 cells.
        clock: int64 (2,), see `weight_at`.
        total: float64 (1,), weight of all observations.
        ids: uint64 (n,).
        counts: uint32 (n,), or (0,) for once each.
        seeds: uint64 (depth,), one a row.
        width: cells a row.
        half_life: in the clock's unit; 0 for none.
        now_ms: milliseconds since the epoch where those are the clock's unit, else -1.
        conservative: raise only the cells below the new estimate.
        cap: largest decayed count of a cell.
    """
    if now_ms >= 0:
        clock[0] = max(clock[0], now_ms)
    weight = _current_weight(cells, dirty, clock, total, half_life)
    changes_at = ((_tick(clock, half_life) + 1) * half_life + _TICK_MASK) >> _TICK_BITS
    places = np.empty(len(seeds), np.int64)
    for i in range(len(ids)):
        if now_ms < 0 and half_life > 0 and clock[0] >= changes_at:
            weight = _current_weight(cells, dirty, clock, total, half_life)
            changes_at = ((_tick(clock, half_life) + 1) * half_life + _TICK_MASK) >> _TICK_BITS
        count = np.int64(1) if len(counts) == 0 else np.int64(counts[i])
        if count == 0:
            continue
        for row in range(len(seeds)):
            places[row] = row * width + _cell_of(ids[i], seeds[row], width)
        _raise_cells(cells, dirty, places, count * weight, cap * weight, conservative)
        total[0] += count * weight
        if now_ms < 0:
            clock[0] += count


@kernel
def estimate_counts(
    cells: NDArray[np.float32], ids: NDArray[np.uint64], seeds: NDArray[np.uint64], width: int, weight: float
) -> NDArray[np.float32]:
    """Float32 (n,): the smallest cell of each id, divided by the weight of now."""
    estimates = np.empty(len(ids), np.float32)
    for i in range(len(ids)):
        lowest = cells[_cell_of(ids[i], seeds[0], width)]
        for row in range(1, len(seeds)):
            lowest = min(lowest, cells[row * width + _cell_of(ids[i], seeds[row], width)])
        estimates[i] = lowest / weight
    return estimates
