"""The index against a dict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.hash_index import ABSENT, BYTES_PER_ID, HashIndex

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
    assert 0 <= index.room - 50_000 < 3
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
