"""Which packed rows decode to finite numbers, told by their bytes: nothing is decoded.

Knows rows of one codec and width. Invariant: a row passes exactly if none of the values that its codes could stand for
is NaN or infinite, so a row that an encoder wrote always passes.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadPacking
from embedding_table.packed_words import BLOCK, CODED, CODES
from embedding_table.row_codecs import RowCodec

__all__ = ["finite_rows"]


def finite_rows(codec: RowCodec, width: int, data: NDArray[np.uint8], shared: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows are finite.

    Args:
        codec: of the rows.
        width: d, columns of a row.
        data: u8 (n, row bytes).
        shared: f32 (k,), what the rows share.

    Returns:
        bool (n,).

    Raises:
        BadPacking: rows of another number of bytes than the codec's, or shared values that no codec makes.
    """
    row_bytes = codec.bytes_per_row(width)
    if data.ndim != 2 or data.dtype != np.uint8 or data.shape[1] != row_bytes:
        message = f"rows of {codec.name} are {data.dtype} {data.shape}: expected u8, {row_bytes} bytes at width {width}"
        raise BadPacking(message)
    common = codec.checked_shared(shared)
    rows, levels = data.shape[0], np.float32((1 << min(codec.bits, 8)) - 1)
    if width == 0 or rows == 0:
        return np.ones(rows, np.bool_)
    if codec.bits == 32:
        return np.asarray(np.isfinite(_as_floats(data, "<f4")).all(axis=1))
    if codec.bits == 16:
        return np.asarray(np.isfinite(_as_floats(data, "<f2")).all(axis=1))
    ends = (codec.bits * width + 7) // 8  # of the codes
    with np.errstate(over="ignore", invalid="ignore"):
        if codec.form == BLOCK:
            return np.full(rows, np.isfinite(common[0] * levels + common[1]))
        if codec.form == CODED:
            top = common[data[:, ends]] * levels + common[data[:, ends + 1].astype(np.intp) + CODES]
            return np.asarray(np.isfinite(top))
        return np.asarray(np.isfinite(_as_floats(data[:, ends:], "<f2")).all(axis=1))  # 255 * 65504 fits a float32


def _as_floats(data: NDArray[np.uint8], form: str) -> NDArray[np.floating]:
    return np.ascontiguousarray(data).view(form)
