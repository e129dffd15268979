"""The rule for scale and bias: what it promises about its own results."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.row_ranges import FINEST, coded_step, half_range, row_ends, short_floats, spacing
from model_contract.compiled import kernel

ends = st.floats(-60000, 60000, width=32)


@kernel
def _half_range(low: np.float32, high: np.float32, levels: np.float32) -> tuple[np.float32, np.float32]:
    return half_range(low, high, levels)


@settings(deadline=None)  # the first example compiles
@given(one=ends, other=ends, bits=st.sampled_from([4, 8]))
def test_scale_and_bias_of_decoded_ends_are_the_same_again(one: float, other: float, bits: int) -> None:
    low, high = np.float32(min(one, other)), np.float32(max(one, other))
    levels = np.float32((1 << bits) - 1)

    scale, bias = (np.float32(value) for value in _half_range(low, high, levels))
    last = np.rint(np.minimum(np.maximum((high - bias) / scale, 0), levels))
    again = _half_range(bias, np.float32(scale * last + bias), levels)

    assert again == (scale, bias)
    assert abs(low - bias) <= scale / 2
    assert np.float16(scale) == scale >= FINEST[bits]
    assert np.float16(bias) == bias


@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1))
def test_short_floats_have_eleven_bits_and_are_nearest(values: list[float]) -> None:
    full = np.array(values, np.float32)
    short = short_floats(full)
    normal = np.abs(full) > 1e-30
    assert (short.view(np.uint32) & 0x1FFF == 0).all()
    assert (np.abs(short.astype(np.float64) - full) <= np.abs(full) * 2.0**-11)[normal].all()
    assert (spacing(np.float32(1.5)), spacing(np.float32(-4))) == (2.0**-10, 2.0**-8)


def test_a_constant_row_asks_for_the_least_step() -> None:
    assert coded_step(np.float32(1), np.float32(1), np.float32(0.5), np.float32(15)) == spacing(np.float32(0.5))
    assert coded_step(np.float32(1), np.float32(2), np.float32(0.5), np.float32(15)) == np.float32(0.1)


def test_ends_of_all_rows_and_which_are_finite() -> None:
    values = np.random.default_rng(0).standard_normal((37, 5)).astype(np.float32)
    values[[3, 20, 36], [0, 4, 2]] = [np.nan, np.inf, -np.inf]
    for threads in (1, 2):
        (low, high), finite = row_ends(values, threads)
        np.testing.assert_array_equal(finite, np.isfinite(values).all(axis=1))
        np.testing.assert_array_equal(low[finite], values[finite].min(axis=1))
        np.testing.assert_array_equal(high[finite], values[finite].max(axis=1))
