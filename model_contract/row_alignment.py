"""Linear alignment: a learned map of each slot's pooled rows into the space where all slots meet, with batch norm.

For slot s, x (D,) its pooled row, zero in the columns that the row has not got, and W_s (D, D):

    z = x W_s;  y = scale_s * z + shift_s

Only the rows of W_s that belong to active columns act, so W_s holds the d -> D maps of all nested bands at once; and
since a linear map commutes with pooling, it is applied once a bag. Batch norm is kept folded: with running mean m and
variance v of z, y = gamma (z - m) / sqrt(v + eps) + beta is the y above for scale = gamma / sqrt(v + eps) and
shift = beta - scale m. So a prediction needs neither m nor v, and no prediction depends on the samples beside it; how
m and v move scale and shift is the trainer's (`stream_trainer.alignment_backward`).

Knows no table, no optimizer and no torch. Invariant: at its start (W the identity, scale 1, shift 0) y equals x bit for
bit, but for the sign of zeros; `model_contract.dlrm.Alignment` is the definition, equal to rounding; nothing is
allocated.
Source: Ioffe and Szegedy 2015, arXiv 1502.03167; to align widths: Zhao et al. 2020, arXiv 2002.11252 (AutoEmb).
"""

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import fast_kernel
from model_contract.dense_layout import AlignmentEntry

__all__ = [
    "BATCHES",
    "MEAN",
    "SCALE",
    "SHIFT",
    "VARIANCE",
    "align_rows",
    "alignment_places",
    "alignment_widths",
    "slot_rows",
    "slot_weight",
]

_SLOTS, _DIM, _WEIGHT = 0, 1, 2
SCALE, SHIFT, MEAN, VARIANCE, BATCHES = 3, 4, 5, 6, 7  # of `alignment_places`


def alignment_places(entry: AlignmentEntry | None) -> NDArray[np.int64]:
    """What kernels need of an alignment: i64 (8,), F, D and the offset of each tensor; (0,) for none."""
    if entry is None:
        return np.empty(0, np.int64)
    offsets = (entry.weight, entry.scale, entry.shift, entry.mean, entry.variance, entry.batches)
    return np.array([entry.slots, entry.dim, *offsets], np.int64)


def alignment_widths(entry: AlignmentEntry | None) -> list[int]:
    """Floats that its three stages take per sample: z, y, and one slot's x in one piece."""
    return [] if entry is None else [entry.slots * entry.dim, entry.slots * entry.dim, entry.dim]


@fast_kernel
def slot_weight(align: NDArray[np.int64], flat: NDArray[np.float32], slot: int) -> NDArray[np.float32]:
    """The view W_s f32 (D, D) of the parameters or of their gradient."""
    dim = align[_DIM]
    start = align[_WEIGHT] + slot * dim * dim
    return flat[start : start + dim * dim].reshape(dim, dim)


@fast_kernel
def slot_rows(stage: NDArray[np.float32], slot: int, dim: int) -> NDArray[np.float32]:
    """The view f32 (b, D) of one slot in a stage f32 (b, F * D) that is kept slot by slot."""
    rows = stage.shape[0]
    return stage.reshape(stage.size)[slot * rows * dim : (slot + 1) * rows * dim].reshape(rows, dim)


@fast_kernel
def align_rows(
    align: NDArray[np.int64],
    flat: NDArray[np.float32],
    emb: NDArray[np.float32],
    projected: NDArray[np.float32],
    aligned: NDArray[np.float32],
    piece: NDArray[np.float32],
) -> None:
    """Maps the rows of b samples.

    Args:
        align: see `alignment_places`.
        flat: f32 (P,).
        emb: f32 (b, F, D), x.
        projected: f32 (b, F * D), written: z, slot by slot, each (b, D).
        aligned: f32 (b, F, D), written: y.
        piece: f32 (b, D), overwritten.
    """
    rows, slots, dim = emb.shape
    for slot in range(slots):
        for row in range(rows):
            for column in range(dim):
                piece[row, column] = emb[row, slot, column]
        z = slot_rows(projected, slot, dim)
        np.dot(piece, slot_weight(align, flat, slot), z)
        scale = flat[align[SCALE] + slot * dim : align[SCALE] + (slot + 1) * dim]
        shift = flat[align[SHIFT] + slot * dim : align[SHIFT] + (slot + 1) * dim]
        for row in range(rows):
            for column in range(dim):
                aligned[row, slot, column] = z[row, column] * scale[column] + shift[column]
