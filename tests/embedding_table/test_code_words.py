"""Ends and codes of rows against numpy, at widths that fill no vector and at values that no code reaches."""

import numpy as np
import pytest

from embedding_table.code_words import ends_of_row, write_int2, write_int4, write_int8
from model_contract.compiled import kernel

WIDTHS = [1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 17, 31, 32, 40]


@kernel
def _ends(values: np.ndarray, width: int) -> tuple[np.float32, np.float32, np.float32]:
    return ends_of_row(values, 3, width)


@kernel
def _write(data: np.ndarray, values: np.ndarray, width: int, bits: int, bias: np.float32, inverse: np.float32) -> None:
    if bits == 4:
        write_int4(data, 2, values, 3, width, bias, inverse, np.float32(15))
    elif bits == 2:
        write_int2(data, 2, values, 3, width, bias, inverse, np.float32(3))
    else:
        write_int8(data, 2, values, 3, width, bias, inverse, np.float32(255))


@pytest.mark.parametrize("width", WIDTHS)
def test_ends(width: int) -> None:
    values = np.random.default_rng(width).standard_normal(60).astype(np.float32)
    values[[0, 1, 2, width + 3]] = [9, -9, np.nan, np.inf]
    row = values[3 : width + 3]

    assert _ends(values, width) == (row.min(), row.max(), 0)
    for bad in (np.nan, np.inf, -np.inf):
        row[width // 2] = bad
        assert np.isnan(_ends(values, width)[2])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("width", WIDTHS)
def test_codes(width: int, bits: int) -> None:
    rng = np.random.default_rng(width)
    values = (rng.standard_normal(60) * 100).astype(np.float32)
    values[3], values[width + 2] = 1e30, -1e30
    values[3 + width // 2] = 0.5  # halfway between two codes: to the even one
    bias, inverse, levels = np.float32(-2), np.float32(1), (1 << bits) - 1
    data = np.full(60, 0xA5, np.uint8)

    _write(data, values, width, bits, bias, inverse)

    codes = np.clip(np.rint((values[3 : width + 3] - bias) * inverse), 0, levels).astype(np.uint8)
    size, share = (bits * width + 7) // 8, 8 // bits
    parts = np.append(codes, np.zeros(size * share - width, np.uint8)).reshape(size, share)
    codes = np.bitwise_or.reduce(parts << (bits * np.arange(share)).astype(np.uint8), axis=1)
    np.testing.assert_array_equal(data, np.concatenate([data[:2], codes, np.full(58 - size, 0xA5, np.uint8)]))
