"""Rows as 4-bit or 8-bit codes: value = scale * code + bias, with scale and bias in one of three forms.

The forms and the bytes of a row stand in `packed_words`: HALF is each row's own pair of binary16, CODED each row's own
pair out of two codebooks, BLOCK one pair for all rows.

Knows one block's rows and what they share; how that is learned stands in `scale_codebook`. What is shared is f32 (512,)
for CODED (256 scales, 256 biases, each ascending, filled up with the last one), f32 (2,) for BLOCK.

Invariant: packing what was unpacked, with the same shared values, gives the same bytes. For HALF see `row_ranges`. For
CODED the least value of a row always takes code 0, so that the bias is found again by being nearest to itself, and the
greatest one never a code so low that a smaller scale of the codebook would do.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.code_words import write_int2, write_int4, write_int8
from embedding_table.machine_words import add_scaled_row, sum_of_squares
from embedding_table.packed_words import BLOCK, CODED, HALF, range_at, set_half_at, set_unpacked
from embedding_table.row_ranges import Ends
from embedding_table.row_scales import RowScales, scales_of
from embedding_table.thread_parts import in_parts
from model_contract.compiled import kernel

__all__ = ["code_bytes", "pack", "range_bytes", "unpack"]

_ZERO, _ONE = np.float32(0), np.float32(1)
_ONE_BIT, _TWO_BITS = np.uint64(1), np.uint64(2)


def code_bytes(bits: int, width: int) -> int:
    """Bytes of the codes of one row."""
    return (bits * width + 7) // 8


def range_bytes(form: int) -> int:
    """Bytes of scale and bias in one row."""
    return {HALF: 4, CODED: 2, BLOCK: 0}[form]


@kernel
def _hold_ends(
    values: NDArray[np.float32],
    start: np.uint64,
    width: np.uint64,
    low: np.float32,
    high: np.float32,
    least: np.uint32,
    bits: int,
    data: NDArray[np.uint8],
    at: np.uint64,
) -> None:
    """Gives code 0 to the row's least value and `least` at least to its greatest."""
    for column in range(width):
        value = values[start + column]
        if value != low and value != high:  # noqa: PLR1714 - a kernel would make a tuple of them
            continue
        place, shift, mask = at + column, np.uint64(0), np.uint64(255)
        if bits == 4:
            place, shift, mask = at + (column >> _ONE_BIT), (column & _ONE_BIT) << _TWO_BITS, np.uint64(15)
        elif bits == 2:
            place, shift, mask = at + (column >> _TWO_BITS), (column & np.uint64(3)) << _ONE_BIT, np.uint64(3)
        held = np.uint64(data[place])
        code = max((held >> shift) & mask, np.uint64(least)) if value != low else np.uint64(0)
        data[place] = (held & ~(mask << shift)) | (code << shift)


@kernel
def _write_row(
    values: NDArray[np.float32],
    row: np.uint64,
    width: np.uint64,
    scale: np.float32,
    bias: np.float32,
    bits: int,
    form: int,
    data: NDArray[np.uint8],
    row_bytes: np.uint64,
) -> np.uint64:
    """Writes codes, and scale and bias if they are binary16; answers where the codes end."""
    levels = np.float32((1 << bits) - 1)
    start, at = row * width, row * row_bytes
    if bits == 4:
        write_int4(data, at, values, start, width, bias, _ONE / scale, levels)
        at += (width + np.uint64(1)) >> np.uint64(1)
    elif bits == 2:
        write_int2(data, at, values, start, width, bias, _ONE / scale, levels)
        at += (width + np.uint64(3)) >> np.uint64(2)
    else:
        write_int8(data, at, values, start, width, bias, _ONE / scale, levels)
        at += width
    if form == HALF:
        set_half_at(data, at, scale)
        set_half_at(data, at + np.uint64(2), bias)
    return at


@kernel
def _write_rows(
    values: NDArray[np.float32],
    width: int,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    scales: RowScales,
    bits: int,
    form: int,
    chosen: NDArray[np.bool_],
    data: NDArray[np.uint8],
    row_bytes: int,
) -> None:
    """Writes the chosen rows."""
    # Taken out of their tuple once: taking one out counts references, which costs more than writing a row.
    scale, bias, least = scales.scale, scales.bias, scales.least
    scale_code, bias_code = scales.scale_code, scales.bias_code
    columns, size = np.uint64(width), np.uint64(row_bytes)
    for number in range(chosen.size):
        row = np.uint64(number)
        if not chosen[row]:
            continue
        end = _write_row(values, row, columns, scale[row], bias[row], bits, form, data, size)
        if form == CODED:
            data[end], data[end + np.uint64(1)] = scale_code[row], bias_code[row]
            _hold_ends(values, row * columns, columns, low[row], high[row], least[row], bits, data, row * size)


@kernel
def _row_errors(
    values: NDArray[np.float32],
    width: int,
    scales: RowScales,
    bits: int,
    data: NDArray[np.uint8],
    row_bytes: int,
    errors: NDArray[np.float32],
) -> None:
    """Squared error of each row as it is written."""
    scale, bias = scales.scale, scales.bias
    columns, start = np.uint64(width), np.uint64(0)
    decoded = np.empty(width, np.float32)
    for number in range(errors.size):
        row = np.uint64(number)
        at = row * np.uint64(row_bytes)
        set_unpacked(decoded, start, data, at, columns, np.uint64(bits), scale[row], bias[row])
        add_scaled_row(decoded, start, values, row * columns, columns, np.float32(-1))
        errors[row] = sum_of_squares(decoded, start, columns)


@kernel
def _unpack_rows(
    data: NDArray[np.uint8],
    width: int,
    row_bytes: int,
    bits: int,
    form: int,
    shared: NDArray[np.float32],
    first: int,
    last: int,
    out: NDArray[np.float32],
) -> None:
    size = np.uint64((bits * width + 7) // 8)
    for row in range(first, last):
        start, to = np.uint64(row * row_bytes), np.uint64(row * width)
        scale, bias = range_at(data, start + size, np.uint64(form), shared, np.uint64(0))
        set_unpacked(out, to, data, start, np.uint64(width), np.uint64(bits), scale, bias)


def pack(
    values: NDArray[np.float32],
    ends: Ends,
    narrower: Ends | None,
    bits: int,
    form: int,
    shared: NDArray[np.float32],
    threads: int,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Packs rows.

    Args:
        values: f32 (n, d), C order, d > 0.
        ends: least and greatest values of the rows.
        narrower: other ranges for their codes to cover, used in the rows where they lose less; None to try none.
        bits: 2, 4 or 8.
        form: of scale and bias.
        shared: f32, what the form shares; empty for HALF.
        threads: how many share the rows.

    Returns:
        u8 (n, row bytes), zeros where a row does not fit, and bool (n,), which rows fit: scale and bias can be held.
    """
    rows, width = values.shape
    row_bytes = code_bytes(bits, width) + range_bytes(form)
    data = np.zeros((rows, row_bytes), np.uint8)
    fits = np.zeros(rows, np.bool_)

    def pack_part(part: int) -> None:
        first, last = rows * part // threads, rows * (part + 1) // threads
        lines, out = values[first:last].reshape(-1), data[first:last].reshape(-1)
        low, high = ends[0][first:last], ends[1][first:last]

        def write(scales: RowScales, chosen: NDArray[np.bool_]) -> None:
            _write_rows(lines, width, low, high, scales, bits, form, chosen, out, row_bytes)

        def errors(scales: RowScales) -> NDArray[np.float32]:
            found = np.empty(last - first, np.float32)
            _row_errors(lines, width, scales, bits, out, row_bytes, found)
            return found

        whole = scales_of((low, high), bits, form, shared)
        sound = whole.scale > 0
        write(whole, sound)
        fits[first:last] = sound
        if narrower is not None:
            other = scales_of((narrower[0][first:last], narrower[1][first:last]), bits, form, shared)
            tried = sound & (other.scale > 0) & ((other.scale != whole.scale) | (other.bias != whole.bias))
            before = errors(whole)
            write(other, tried)
            write(whole, tried & ~(errors(other) < before))  # strictly: what was decoded keeps its whole range

    in_parts(pack_part, threads)
    return data, fits


def unpack(
    data: NDArray[np.uint8], width: int, bits: int, form: int, shared: NDArray[np.float32], threads: int
) -> NDArray[np.float32]:
    """Rows f32 (n, width) of `data` u8 (n, row bytes), as `pack` made it with the same bits, form and shared values."""
    rows, row_bytes = data.shape
    out = np.empty((rows, width), np.float32)
    flat, packed = out.reshape(-1), data.reshape(-1)

    def unpack_part(part: int) -> None:
        first, last = rows * part // threads, rows * (part + 1) // threads
        _unpack_rows(packed, width, row_bytes, bits, form, shared, first, last, flat)

    in_parts(unpack_part, threads)
    return out
