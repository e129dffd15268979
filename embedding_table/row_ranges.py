"""Ends of rows, and the rule that makes a scale and a bias of a range: what every integer codec has in common.

Knows float32 rows and ranges; no codes, no bytes and no codebooks. A scale and a bias are *short* floats, with the 11
significant bits of a binary16. The bias is the lower end, rounded; the scale is (upper end - bias) / levels, rounded,
but never below two limits:

    spacing(bias), the distance of short floats there, so that the lower end itself gets code 0 whatever its rounding;
    a finest step, under which a binary16 has too few bits left to give the upper end the last code.

Invariant: scale and bias of the values that a row decodes to are the row's own again, since code 0 decodes to the bias
exactly and the last code to a value whose distance from it, divided and rounded, is the scale. That makes encoding
idempotent.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.code_words import ends_of_row
from embedding_table.packed_words import as_half
from embedding_table.thread_parts import in_parts
from model_contract.compiled import kernel

__all__ = [
    "FINEST",
    "LARGEST_SHORT",
    "SHORT_FINEST",
    "Ends",
    "coded_step",
    "half_range",
    "row_ends",
    "short_floats",
    "spacing",
]

_EXPONENT = np.uint32(0x7F800000)
_CUT = np.uint32(0xFFFFE000)  # the 13 bits of a float32 that a short float does not have are cleared
_BELOW_HALF, _ONE, _CUT_BITS = np.uint32(0x0FFF), np.uint32(1), np.uint32(13)
_SHORT_ULP = np.float32(2.0**-10)
SHORT_FINEST = np.float32(2.0**-100)  # finest step where a scale has the exponents of a float32
FINEST = {bits: np.float32((1 << bits) * 2.0**-23) for bits in (2, 4, 8)}  # where it is a binary16, by bits of a code
LARGEST_SHORT = np.float32(65504 * 2.0**112)
_ZERO = np.float32(0)

Ends = tuple[NDArray[np.float32], NDArray[np.float32]]


@kernel
def spacing(bias: np.float32) -> np.float32:
    """Distance of the short floats around a value, as if none were subnormal."""
    exponent = np.uint32(np.float32(bias).view(np.uint32) & _EXPONENT)
    return np.float32(exponent.view(np.float32) * _SHORT_ULP)


def short_floats(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The short floats nearest to values of any shape, ties to even; the largest one for larger values."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    bits = (bits + _BELOW_HALF + ((bits >> _CUT_BITS) & _ONE)) & _CUT
    return np.clip(bits.view(np.float32), -LARGEST_SHORT, LARGEST_SHORT)


@kernel
def half_range(low: np.float32, high: np.float32, levels: np.float32) -> tuple[np.float32, np.float32]:
    """Scale and bias of a range as binary16; either is infinite where a binary16 cannot hold it."""
    bias = as_half(low) + _ZERO  # no negative zero: it would come back as zero
    finest = np.float32((levels + np.float32(1)) * np.float32(2.0**-23))
    step = max((high - bias) / levels, spacing(bias), finest)
    return as_half(step), bias


@kernel
def coded_step(low: np.float32, high: np.float32, bias: np.float32, levels: np.float32) -> np.float32:
    """What the scale of a row should be, given its bias; for a row of one value, whatever that is, the least one."""
    step = max(spacing(bias), SHORT_FINEST)
    return max((high - bias) / levels, step) if high > low else step


@kernel
def _ends(
    values: NDArray[np.float32],
    width: int,
    first: int,
    last: int,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    finite: NDArray[np.bool_],
) -> None:
    columns = np.uint64(width)
    for number in range(first, last):
        row = np.uint64(number)
        low[row], high[row], poison = ends_of_row(values, row * columns, columns)
        finite[row] = poison == _ZERO


def row_ends(values: NDArray[np.float32], threads: int) -> tuple[Ends, NDArray[np.bool_]]:
    """Least and greatest value of each row of f32 (n, d), both f32 (n,), and which rows hold finite numbers alone."""
    rows, width = values.shape
    low, high, finite = np.zeros(rows, np.float32), np.zeros(rows, np.float32), np.ones(rows, np.bool_)
    if width:
        flat = values.reshape(-1)

        def measure(part: int) -> None:
            _ends(flat, width, rows * part // threads, rows * (part + 1) // threads, low, high, finite)

        in_parts(measure, threads)
    return (low, high), finite
