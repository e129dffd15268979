"""Columns mapped onto others: kept bit by bit, new ones zero, the rest lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_table.column_change import column_places, copy_changed, values_in_columns
from embedding_table.row_arena import RowArena
from embedding_table.row_layout import COUNT, DIRTY_BIT, TRAINED_STATE_WORDS, state_offset

_SOME_COLUMNS = st.sets(st.integers(0, 11)).map(lambda chosen: np.array(sorted(chosen), np.uint16))
_ODD = np.array([-0.0, np.nan, np.inf, 1e-42, 1.5], np.float32)


@given(old=_SOME_COLUMNS, new=_SOME_COLUMNS)
def test_places_name_each_new_column_among_the_old(old: np.ndarray, new: np.ndarray) -> None:
    listed = old.tolist()
    expected = [listed.index(column) if column in listed else -1 for column in new.tolist()]
    assert column_places(old, new).tolist() == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([0, 1, 2, 3], [0, 1]),
        ([0, 1], [0, 1, 2, 3]),
        ([2, 5], [0, 2, 4, 5, 7]),
        ([0, 2, 4, 5, 7], [2, 5]),
        ([0, 1, 6], [0, 1, 3, 6, 7]),
        ([1, 2], [3, 4]),
        ([], [1, 2]),
        ([1, 2], []),
        ([], []),
    ],
)
def test_rows_copied_are_rows_mapped(old: list[int], new: list[int]) -> None:
    arena = RowArena(8, 1 << 19, state_words=TRAINED_STATE_WORDS, max_blocks=2, track_changes=True)
    blocks = [arena.define_block(np.array(columns, np.uint16)) for columns in (old, new)]
    source, target = (arena.allocate(block, 40) for block in blocks)
    ids = np.arange(1, 41, dtype=np.uint64) << np.uint64(30)
    values = np.random.default_rng(0).choice(_ODD, (40, len(old))).astype(np.float32)
    arena.write(source, ids, values)
    views = arena.views()
    states = [[int(state_offset(handle, TRAINED_STATE_WORDS)) for handle in some] for some in (source, target)]
    for k, state in enumerate(states[0]):
        views.words[state + 2 : state + 5] = (100 + k, 200 + k, 300 + k)
    for state in states[1][:10]:
        views.words[state + int(COUNT)] = DIRTY_BIT  # listed already, by a row that is gone
    views.dirty_length[0] = 3
    places = column_places(np.array(old, np.uint16), np.array(new, np.uint16))
    copied = np.empty(40, np.uint64)
    copy_changed(views, source, target, places, len(old), copied)
    np.testing.assert_array_equal(copied, ids)
    wide = np.zeros((40, 8), np.float32)
    wide[:, old] = values
    found_ids, found = arena.read(target, len(new))
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_array_equal(found.view(np.uint32), wide[:, new].view(np.uint32))
    np.testing.assert_array_equal(found.view(np.uint32), values_in_columns(values, places).view(np.uint32))
    for k, state in enumerate(states[1]):
        assert views.words[state + 2 : state + 5].tolist() == [100 + k, (200 + k) | int(DIRTY_BIT), 300 + k]
    np.testing.assert_array_equal(views.dirty[3 : int(views.dirty_length[0])], target[10:])
