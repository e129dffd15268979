"""The linear alignment's backward pass, and how the running statistics of its batch norm move it.

Knows no table and no optimizer. Invariant: gradients are exact (up to float32 rounding) with the statistics taken as
constants; nothing is allocated.

Statistics are those of all micro-batches before, never of the one that is predicted: a prediction must not depend on
the samples beside it, and must be the server's. They are first only measured, as plain means over the first
`SETTLED_AFTER` micro-batches, so that beginning changes nothing; from then on they are running means of as many, and
scale and shift follow them, which is batch norm: gamma and beta stay when mean and variance drift.
"""

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import fast_kernel
from model_contract.row_alignment import BATCHES, MEAN, SCALE, SHIFT, VARIANCE, slot_rows, slot_weight

__all__ = ["EPSILON", "SETTLED_AFTER", "align_back", "follow_statistics"]

SETTLED_AFTER = 1000
"""Micro-batches of which statistics are the running mean."""

EPSILON = 1e-3
"""Added to a variance: a column that had none and grows must not be scaled to nothing."""


@fast_kernel
def align_back(
    align: NDArray[np.int64],
    flat: NDArray[np.float32],
    emb: NDArray[np.float32],
    projected: NDArray[np.float32],
    aligned_grad: NDArray[np.float32],
    piece: NDArray[np.float32],
    piece_grad: NDArray[np.float32],
    grad: NDArray[np.float32],
    emb_grad: NDArray[np.float32],
) -> None:
    """Reverse of `row_alignment.align_rows`; leaves sums for `follow_statistics` in the statistics' places of `grad`.

    Args:
        align: see `row_alignment.alignment_places`.
        flat: f32 (P,), the parameters that `align_rows` used.
        emb: f32 (b, F, D), x.
        projected: f32 (b, F * D), z as `align_rows` left it; overwritten.
        aligned_grad: f32 (b, F, D), by y.
        piece: f32 (b, D), overwritten.
        piece_grad: f32 (b, D), overwritten.
        grad: f32 (P,), whose alignment part is overwritten.
        emb_grad: f32 (b, F, D), overwritten: by x.
    """
    rows, slots, dim = emb.shape
    grad[align[SCALE] :] = np.float32(0)
    grad[align[BATCHES]] = rows
    for slot in range(slots):
        z = slot_rows(projected, slot, dim)
        at = slot * dim
        for row in range(rows):
            for column in range(dim):
                slope = aligned_grad[row, slot, column]
                value = z[row, column]
                apart = value - flat[align[MEAN] + at + column]
                grad[align[SCALE] + at + column] += slope * value
                grad[align[SHIFT] + at + column] += slope
                grad[align[MEAN] + at + column] += apart
                grad[align[VARIANCE] + at + column] += apart * apart
                piece[row, column] = emb[row, slot, column]
                piece_grad[row, column] = slope * flat[align[SCALE] + at + column]
        np.dot(piece.T, piece_grad, slot_weight(align, grad, slot))
        np.dot(piece_grad, slot_weight(align, flat, slot).T, z)
        for row in range(rows):
            for column in range(dim):
                emb_grad[row, slot, column] = z[row, column]


@fast_kernel
def follow_statistics(align: NDArray[np.int64], flat: NDArray[np.float32], sums: NDArray[np.float32]) -> None:
    """Moves the running statistics by one micro-batch, and scale and shift after them; after the optimizer's step.

    Args:
        align: see `row_alignment.alignment_places`; empty for none.
        flat: f32 (P,), changed.
        sums: f32 (P,), in the statistics' places what `align_back` left, of all parts of the micro-batch together.
    """
    if align.size == 0 or sums[align[BATCHES]] == 0:
        return
    rows, seen = sums[align[BATCHES]], flat[align[BATCHES]]
    settled = seen >= SETTLED_AFTER
    rate = np.float32(1) / min(seen + np.float32(1), np.float32(SETTLED_AFTER))
    kept, eps, zero = np.float32(1) - rate, np.float32(EPSILON), np.float32(0)
    flat[align[BATCHES]] = min(seen + np.float32(1), np.float32(SETTLED_AFTER))
    for index in range(align[VARIANCE] - align[MEAN]):
        mean, variance = flat[align[MEAN] + index], flat[align[VARIANCE] + index]
        step = rate * sums[align[MEAN] + index] / rows
        square = rate * sums[align[VARIANCE] + index] / rows
        moved = max(kept * variance + square - step * step, zero)
        flat[align[MEAN] + index] = mean + step
        flat[align[VARIANCE] + index] = moved
        if settled:
            scale = flat[align[SCALE] + index]
            scaled = scale * np.sqrt((variance + eps) / (moved + eps))
            flat[align[SHIFT] + index] += scale * mean - scaled * (mean + step)
            flat[align[SCALE] + index] = scaled
