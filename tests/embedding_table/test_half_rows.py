"""Halves there and back."""

import numpy as np

from embedding_table.half_rows import pack_half, unpack_half


def test_there_and_back() -> None:
    rows = np.array([[1, -2.0002], [65519, 1e-30], [65520, 0], [np.nan, 1], [np.inf, 0]], np.float32)
    data, fits = pack_half(rows)
    assert fits.tolist() == [True, True, False, False, False]
    assert data.shape == (5, 4)
    back = unpack_half(data[:2], 2)
    np.testing.assert_array_equal(back, rows[:2].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(pack_half(back)[0], data[:2])
