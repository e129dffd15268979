"""Rows as binary16: each value rounded to 11 significant bits, two bytes a value and nothing else.

Knows float32 rows. Invariant: what fits comes back within half a spacing of halves, and packing what was unpacked gives
the same bytes.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_half", "unpack_half"]


def pack_half(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Packs rows f32 (n, d): u8 (n, 2 d), and which rows fit, bool (n,): those below 65520 in every value."""
    with np.errstate(over="ignore", under="ignore"):
        halves = values.astype("<f2")
    return halves.view(np.uint8).reshape(values.shape[0], 2 * values.shape[1]), np.isfinite(halves).all(axis=1)


def unpack_half(data: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
    """Rows f32 (n, width) of u8 (n, 2 * width)."""
    return np.ascontiguousarray(data).view("<f2").reshape(-1, width).astype(np.float32)
