"""Lookups by slab against Python's own sort, which is stable too."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.handle_sort import SLAB_COUNTS, bag_of, group_by_slab, handle_of
from embedding_table.hash_index import ABSENT
from embedding_table.row_layout import ROW_BITS
from model_contract.compiled import lean_kernel

SLAB_BITS = 32 - ROW_BITS

Lookup = tuple[int, int]  # handle, number of its bag


@lean_kernel
def _grouped(
    handles: np.ndarray,
    offsets: np.ndarray,
    bags: tuple[int, int, int],
    share: tuple[np.uint64, np.uint64, np.uint64],
    keys: np.ndarray,
    other: np.ndarray,
    counts: np.ndarray,
    found_handles: np.ndarray,
    found_bags: np.ndarray,
) -> int:
    held, count = group_by_slab(handles, offsets, bags, share, keys, other, counts)
    for place in range(count):
        found_handles[place], found_bags[place] = handle_of(held[place]), bag_of(held[place])
    return int(count)


def grouped(
    handles: np.ndarray, offsets: np.ndarray, bags: tuple[int, int, int], share: tuple[int, int, int] = (0, 1, 1)
) -> list[Lookup]:
    keys, other = np.full((2, handles.size + 1), 5, np.uint64)
    counts = np.full(SLAB_COUNTS, 77, np.uint32)
    found_handles, found_bags = np.empty(handles.size, np.uint32), np.empty(handles.size, np.uint64)
    parts = (np.uint64(share[0]), np.uint64(share[1]), np.uint64(share[2]))
    count = _grouped(handles, offsets, bags, parts, keys, other, counts, found_handles, found_bags)
    assert (keys[count + 1 :] == 5).all()  # what is not wanted goes to one place
    return list(zip(found_handles[:count].tolist(), found_bags[:count].tolist(), strict=True))


def in_order(handles: np.ndarray, offsets: np.ndarray, bags: tuple[int, int, int]) -> list[Lookup]:
    lists = [handles[offsets[bag] : offsets[bag + 1]].tolist() for bag in range(*bags)]
    lists = [listed for listed in lists if listed]
    return [(handle, number) for number, listed in enumerate(lists) for handle in listed if handle != ABSENT]


def slab_of(lookup: Lookup) -> int:
    return lookup[0] >> ROW_BITS


def runs(found: list[Lookup]) -> int:
    slabs = [slab_of(lookup) for lookup in found]
    return sum(a != b for a, b in zip(slabs, slabs[1:], strict=False)) + bool(slabs)


_HANDLES = st.integers(0, 2**32 - 2) | st.integers(0, 99_999) | st.just(int(ABSENT))


@settings(deadline=None)
@given(st.lists(st.lists(_HANDLES, max_size=9), max_size=12), st.integers(0, 2), st.integers(1, 3))
def test_brings_slabs_together_and_keeps_the_order_in_each(lists: list[list[int]], first: int, step: int) -> None:
    handles = np.array([handle for listed in lists for handle in listed], np.uint32)
    offsets = np.cumsum([0, *map(len, lists)])
    bags = (first, len(lists), step)
    found = grouped(handles, offsets, bags)
    assert runs(found) == len(set(map(slab_of, found)))
    assert sorted(found, key=slab_of) == sorted(in_order(handles, offsets, bags), key=slab_of)


@pytest.mark.parametrize("bits", [1, 12, 13, 14, SLAB_BITS])
@pytest.mark.parametrize(("bag_size", "lookups"), [(1, 5_000), (9, 5_000), (1000, 600_000)])
def test_slabs_near_and_far_few_lookups_and_many(bits: int, bag_size: int, lookups: int) -> None:
    generator = np.random.default_rng(bits)
    handles = (generator.integers(0, 2**bits, lookups) << ROW_BITS | generator.integers(0, 3, lookups)).astype(
        np.uint32
    )
    handles[generator.random(lookups) < 0.01] = ABSENT
    offsets = np.minimum(np.arange(0, lookups + bag_size, bag_size), lookups)
    bags = (0, offsets.size - 1, 1)
    found = grouped(handles, offsets, bags)
    assert runs(found) == len(set(map(slab_of, found)))
    assert sorted(found, key=slab_of) == sorted(in_order(handles, offsets, bags), key=slab_of)


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("slabs", [1, 2, 40, 9_000])
def test_shares_make_up_the_whole_and_no_slab_is_in_two(parts: int, slabs: int) -> None:
    generator = np.random.default_rng(parts)
    handles = (generator.integers(0, slabs, 3_000) << ROW_BITS).astype(np.uint32)
    offsets = np.arange(0, 3_001, 5)
    bags = (0, 600, 1)
    shares = [grouped(handles, offsets, bags, (part, part + 1, parts)) for part in range(parts)]
    together = [lookup for share in shares for lookup in share]
    assert sorted(together, key=slab_of) == sorted(in_order(handles, offsets, bags), key=slab_of)
    assert runs(together) == len(set(map(slab_of, together)))
    assert sum(len({slab_of(lookup) for lookup in share}) for share in shares) == len(set(map(slab_of, together)))
    if slabs >= 40:
        assert max(map(len, shares)) < 3_000 / parts * 1.3


def test_a_share_of_nothing_is_empty() -> None:
    handles, offsets = np.full(4, ABSENT), np.array([0, 4])
    assert grouped(handles, offsets, (0, 1, 1)) == []
    assert grouped(handles[:0], offsets[:1], (0, 0, 1)) == []
    assert grouped(np.zeros(4, np.uint32), offsets, (0, 1, 1), (3, 3, 9)) == []
