"""Keys by slab against Python's own sort, which is stable too."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.handle_sort import SLAB_COUNTS, handle_of, key_of, low_half, sort_by_slab
from embedding_table.row_layout import ROW_BITS
from model_contract.compiled import kernel

SLAB_BITS = 32 - ROW_BITS


def together(keys: np.ndarray, count: int) -> np.ndarray:
    room = np.full(keys.size, 5, np.uint64)
    counts = np.full(SLAB_COUNTS, 77, np.uint32)
    return sort_by_slab(keys.copy(), room, np.uint64(count), counts)[:count]


def slab_of_key(key: int) -> int:
    return key >> (32 + ROW_BITS)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.integers(0, 2**32 - 2), st.integers(0, 99999)), st.integers(0, 2**32 - 1))),
    st.integers(0, 3),
)
def test_brings_slabs_together_and_keeps_the_order_in_each(pairs: list[tuple[int, int]], spare: int) -> None:
    given_keys = [handle << 32 | low for handle, low in pairs]
    found = together(np.array(given_keys + [0] * spare, np.uint64), len(pairs)).tolist()
    slabs = [slab_of_key(key) for key in found]
    assert sum(a != b for a, b in zip(slabs, slabs[1:], strict=False)) == max(0, len(set(slabs)) - 1)
    assert sorted(found, key=slab_of_key) == sorted(given_keys, key=slab_of_key)


@pytest.mark.parametrize("bits", [1, 12, 13, 14, SLAB_BITS])
@pytest.mark.parametrize("lowest", [0, 5000, 8191])
def test_slabs_far_apart_and_in_any_window(bits: int, lowest: int) -> None:
    generator = np.random.default_rng(bits)
    slabs = (generator.integers(0, 2**bits, 5000) + lowest) % 2**SLAB_BITS
    keys = slabs.astype(np.uint64) << np.uint64(32 + ROW_BITS) | np.arange(5000, dtype=np.uint64)
    found = together(keys, 5000)
    ascending = np.sort(keys)
    turn = int(np.argmax(ascending == found[0])) if bits <= 13 else 0  # one pass starts anywhere in the window
    assert np.array_equal(found, np.roll(ascending, -turn))


@kernel
def _halves(handle: np.uint32, low: np.uint64) -> tuple[np.uint32, np.uint64]:
    key = key_of(handle, low)
    return handle_of(key), low_half(key)


def test_a_key_holds_both_halves() -> None:
    for handle, low in ((0, 0), (2**32 - 1, 7), (5, 2**32 - 1)):
        assert _halves(np.uint32(handle), np.uint64(low)) == (handle, low)
