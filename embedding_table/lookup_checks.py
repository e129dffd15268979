"""Whether arrays handed to a table agree with each other and with its shape.

Knows shapes and ranges only. Invariant: what passes is safe for kernels, which check nothing; what does not is named
in the message, with what was expected.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadLookups

__all__ = ["check_bags", "check_bands", "check_ids"]


def check_ids(ids: NDArray[np.uint64], slots: NDArray[np.int32], slot_count: int) -> None:
    """Asks whether ids u64 (n,) above 0 have slots i32 (n,) below `slot_count`.

    Raises:
        BadLookups: they do not.
    """
    if ids.shape != slots.shape:
        message = f"ids have shape {ids.shape}, slots {slots.shape}: expected the same"
        raise BadLookups(message)
    if ids.size and (np.any(ids == 0) or slots.min() < 0 or slots.max() >= slot_count):
        message = f"ids or slots out of range: expected ids above 0 and slots below {slot_count}"
        raise BadLookups(message)


def check_bands(bands: NDArray[np.int32], shape: tuple[int, ...], band_count: int) -> None:
    """Asks whether bands i32 have this shape and are below `band_count`.

    Raises:
        BadLookups: they do not.
    """
    if bands.shape != shape or np.any(bands < 0) or np.any(bands >= band_count):
        message = f"bands have shape {bands.shape}: expected {shape}, all below {band_count}"
        raise BadLookups(message)


def check_bags(
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling_codes: NDArray[np.int8],
    pooled: NDArray[np.float32],
    slots: int,
    dim: int,
) -> int:
    """Asks whether handles (L,), offsets (B*F + 1,), pooling (F,) and rows (B, F, D) agree; answers B*F.

    Raises:
        BadLookups: they do not.
    """
    bags = offsets.size - 1
    fits = (
        pooling_codes.shape == (slots,)
        and pooled.shape == (bags // slots, slots, dim)
        and bags % slots == 0
        and pooled.flags.c_contiguous
        and offsets[-1] <= handles.size
    )
    if not fits:
        message = (
            f"{handles.size} handles, {bags} bags up to {offsets[-1:]}, pooling {pooling_codes.shape}, rows "
            f"{pooled.shape}: expected (B, {slots}, {dim}) in C order and bags of B samples"
        )
        raise BadLookups(message)
    return bags
