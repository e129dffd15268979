"""The sort against Python's own, which is stable too."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.handle_sort import DIGIT_COUNTS, handle_of, key_of, low_half, sort_by_handle
from model_contract.compiled import kernel


def ordered(keys: np.ndarray, count: int) -> np.ndarray:
    room = np.full(keys.size, 5, np.uint64)
    counts = np.full(DIGIT_COUNTS, -3, np.int64)
    return sort_by_handle(keys.copy(), room, np.uint64(count), counts)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.integers(0, 2**32 - 2), st.integers(0, 9)), st.integers(0, 2**32 - 1))),
    st.integers(0, 3),
)
def test_sorts_by_handle_and_keeps_the_order_of_equals(pairs: list[tuple[int, int]], spare: int) -> None:
    keys = np.array([handle << 32 | low for handle, low in pairs] + [0] * spare, np.uint64)
    expected = sorted((key for key in keys[: len(pairs)].tolist()), key=lambda key: key >> 32)
    assert ordered(keys, len(pairs))[: len(pairs)].tolist() == expected


@pytest.mark.parametrize("bits", [1, 11, 12, 22, 23, 32])
def test_handles_of_any_length(bits: int) -> None:
    generator = np.random.default_rng(bits)
    keys = generator.integers(0, 2**bits, 5000).astype(np.uint64) << np.uint64(32) | np.arange(5000, dtype=np.uint64)
    assert np.array_equal(ordered(keys, 5000)[:5000], np.sort(keys))


@kernel
def _halves(handle: np.uint32, low: np.uint64) -> tuple[np.uint32, np.uint64]:
    key = key_of(handle, low)
    return handle_of(key), low_half(key)


def test_a_key_holds_both_halves() -> None:
    for handle, low in ((0, 0), (2**32 - 1, 7), (5, 2**32 - 1)):
        assert _halves(np.uint32(handle), np.uint64(low)) == (handle, low)
