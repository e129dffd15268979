"""The index against a dict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.entry_search import ENTRIES_A_LINE, LINE_WORDS
from embedding_table.hash_index import ABSENT, BYTES_PER_ID, HashIndex, _home_and_bit

_IDS = st.integers(1, 60) | st.integers(1, 2**64 - 1)  # few that meet often, and any at all
_CALLS = st.lists(st.tuples(st.sampled_from(["insert", "erase"]), st.lists(_IDS, max_size=40)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(calls=_CALLS)
def test_behaves_as_a_dict(calls: list[tuple[str, list[int]]]) -> None:
    index, model = HashIndex(), {}
    for name, listed in calls:
        ids = np.array(sorted(set(listed)), np.uint64)
        if name == "insert":
            handles = np.arange(len(model), len(model) + ids.size, dtype=np.uint32)
            added = index.insert(ids, handles)
            assert added == len(set(ids.tolist()) - model.keys())
            model.update(zip(ids.tolist(), handles.tolist(), strict=True))
        else:
            assert index.erase(ids) == len(set(ids.tolist()) & model.keys())
            for feature_id in ids.tolist():
                model.pop(feature_id, None)
        assert len(index) == len(model)
    asked = np.array([*model, *range(1, 100)], np.uint64)
    expected = [model.get(feature_id, int(ABSENT)) for feature_id in asked.tolist()]
    np.testing.assert_array_equal(index.find(asked), np.array(expected, np.uint32))
    ids, handles = index.items()
    assert dict(zip(ids.tolist(), handles.tolist(), strict=True)) == model


@pytest.mark.parametrize("seed", range(5))
def test_grows_and_forgets_at_high_load(seed: int) -> None:
    rng = np.random.default_rng(seed)
    index, model = HashIndex(), {}
    for _ in range(40):
        ids = np.unique(rng.integers(1, 2**64, 3000, dtype=np.uint64))
        handles = rng.integers(0, 2**32 - 1, ids.size, dtype=np.uint32)
        index.insert(ids, handles)
        model.update(zip(ids.tolist(), handles.tolist(), strict=True))
        gone = rng.permutation(np.array(list(model), np.uint64))[:1000]
        assert index.erase(gone) == gone.size
        for feature_id in gone.tolist():
            del model[feature_id]
    known = np.array(list(model), np.uint64)
    np.testing.assert_array_equal(index.find(known), np.array(list(model.values()), np.uint32))
    assert (index.find(known ^ np.uint64(1 << 63)) == ABSENT).all()


def test_ids_that_collide_in_every_bit_but_one_stay_apart() -> None:
    ids = np.concatenate(
        [np.uint64(1) << np.arange(64, dtype=np.uint64), ~(np.uint64(1) << np.arange(64, dtype=np.uint64))]
    )
    index = HashIndex()
    index.insert(ids, np.arange(128, dtype=np.uint32))
    np.testing.assert_array_equal(index.find(ids), np.arange(128))


def test_find_into_writes_a_part() -> None:
    index = HashIndex()
    index.insert(np.array([5, 6], np.uint64), np.array([50, 60], np.uint32))
    out = np.zeros(4, np.uint32)
    index.find_into(np.array([6, 9], np.uint64), out[1:3])
    np.testing.assert_array_equal(out, [0, 60, ABSENT, 0])


def test_accounts_for_its_bytes_before_and_after_growing() -> None:
    index = HashIndex()
    ids = np.arange(1, 100_001, dtype=np.uint64)
    expected = index.bytes_after(ids.size)
    index.insert(ids, np.arange(ids.size, dtype=np.uint32))
    assert index.bytes_used == expected
    assert ids.size * BYTES_PER_ID <= expected <= ids.size * BYTES_PER_ID * 1.6


def test_reserve_makes_room_for_just_so_many() -> None:
    index = HashIndex()
    index.reserve(50_000)
    before = index.bytes_used
    assert 0 <= index.room - 50_000 < 4  # a line holds 3.75
    index.insert(np.arange(1, 50_001, dtype=np.uint64), np.zeros(50_000, np.uint32))
    assert index.bytes_used == before
    index.reserve(10)
    assert index.bytes_used == before


def test_replace_gives_known_ids_other_handles_and_never_grows() -> None:
    index = HashIndex()
    ids = np.arange(1, index.room + 1, dtype=np.uint64)
    index.insert(ids, np.arange(ids.size, dtype=np.uint32))
    held = index.bytes_used
    assert index.room == 0
    index.replace(ids[::2], ids[::2].astype(np.uint32) + np.uint32(7))
    assert index.bytes_used == held
    assert len(index) == ids.size
    np.testing.assert_array_equal(index.find(ids[::2]), ids[::2] + np.uint64(7))
    np.testing.assert_array_equal(index.find(ids[1::2]), np.arange(1, ids.size, 2))


def assert_bits_of_those_away(index: HashIndex) -> None:
    """Every id away from home has its bit there, and a line with an empty entry has no bit."""
    words = index._entries
    lines = words.reshape(-1, LINE_WORDS)
    entries = lines[:, : 3 * ENTRIES_A_LINE].reshape(-1, 3, ENTRIES_A_LINE)
    full = (entries[:, 2] != 0).all(axis=1)
    assert not lines[~full, -1].any()
    needed = np.zeros(full.size, np.uint32)
    for line, place in zip(*np.nonzero(entries[:, 2]), strict=True):
        low, high, _ = entries[line, :, place].tolist()
        home, bit = divmod(int(_home_and_bit(np.uint64(high << 32 | low), np.uint64(words.size))), 32)
        if home != line * LINE_WORDS:
            needed[home // LINE_WORDS] |= np.uint32(1 << bit)
    assert needed.any()
    assert not (needed & ~lines[:, -1]).any()


def test_a_full_line_says_who_is_elsewhere() -> None:
    rng = np.random.default_rng(0)
    index = HashIndex()
    ids = rng.integers(1, 2**64, 100 * index.room, dtype=np.uint64)
    for _ in range(3):
        index.insert(ids[: index.room], np.arange(index.room, dtype=np.uint32))
        assert_bits_of_those_away(index)
        held, _ = index.items()
        index.erase(held[::2])
        ids = ids[index.room :]
        index.insert(ids[: index.room], np.arange(index.room, dtype=np.uint32))
        assert_bits_of_those_away(index)
    held, handles = index.items()
    np.testing.assert_array_equal(index.find(held), handles)
    assert (index.find(ids[index.room + held.size :]) == ABSENT).all()


def test_a_search_that_goes_round_the_end() -> None:
    index = HashIndex()
    words = np.uint64(index._entries.size)
    rng = np.random.default_rng(1)
    last: list[int] = []
    while len(last) < 12:  # more than two lines hold, all at home in the last one
        feature_id = int(rng.integers(1, 2**64, dtype=np.uint64))
        if int(_home_and_bit(np.uint64(feature_id), words)) // 32 == int(words) - LINE_WORDS:
            last.append(feature_id)
    ids = np.array(last, np.uint64)
    index.insert(ids, np.arange(12, dtype=np.uint32))
    np.testing.assert_array_equal(index.find(ids), np.arange(12))
    assert index.erase(ids[:1]) == 1
    np.testing.assert_array_equal(index.find(ids), [int(ABSENT), *range(1, 12)])
    index.erase(ids[1:8])
    np.testing.assert_array_equal(index.find(ids), [int(ABSENT)] * 8 + [8, 9, 10, 11])
    assert not index._entries.reshape(-1, LINE_WORDS)[:, -1].any()  # the four are at home again


@pytest.mark.parametrize("size", [1, 31, 32, 33, 255, 256, 257, 1000])
def test_batches_of_any_size_in_any_order(size: int) -> None:
    rng = np.random.default_rng(size)
    index = HashIndex()
    ids = np.unique(rng.integers(1, 2**64, 3 * size, dtype=np.uint64))
    handles = rng.integers(0, 2**32 - 1, ids.size, dtype=np.uint32)
    index.insert(ids, handles)
    asked = rng.integers(0, ids.size, size)
    np.testing.assert_array_equal(index.find(ids[asked]), handles[asked])
    assert (index.find(ids[asked] ^ np.uint64(1 << 40)) == ABSENT).all()
