"""Slot, band, traffic and last use of the rows asked about."""

from collections.abc import Callable

import numpy as np

from embedding_table.row_statistics import row_statistics


def test_statistics_of_chosen_rows(twins: Callable) -> None:
    table, _ = twins(2, 4, bands=3, birth_bands=[2, 1])
    ids, slots = np.arange(10, 20, dtype=np.uint64), (np.arange(10) % 2).astype(np.int32)
    handles = table.insert(ids, slots, 3)
    lookups = handles[[0, 1, 0, 3]]
    grad = np.ones((2, 2, 4), np.float32)
    table.update(lookups, np.arange(5, dtype=np.int64), np.zeros(2, np.int8), grad, 0.1, 1e-6, 50)
    asked = np.concatenate([handles[:4], table.missing_handles])
    rows = row_statistics(table.views(), asked, 3, table.missing_handles)
    np.testing.assert_array_equal(rows.handles, handles[:4])
    assert rows.slots.tolist() == [0, 1, 0, 1]
    assert rows.bands.tolist() == [2, 1, 2, 1]
    assert rows.slots.dtype == rows.bands.dtype == np.int32
    assert rows.counts.tolist() == [2, 1, 0, 1]
    assert rows.last_seen_s.tolist() == [50, 50, 3, 50]
    assert row_statistics(table.views(), asked[:0], 3, table.missing_handles).handles.size == 0


def test_changed_rows_are_those_of_the_next_changes(twins: Callable) -> None:
    table, _ = twins(1, 4)
    ids = np.arange(10, 20, dtype=np.uint64)
    handles = table.insert(ids, np.zeros(10, np.int32), 3)
    assert sorted(table.changed_rows().handles.tolist()) == sorted(handles.tolist())
    table.take_changes()
    grad = np.ones((3, 1, 4), np.float32)
    table.update(handles[2:5], np.arange(4, dtype=np.int64), np.zeros(1, np.int8), grad, 0.1, 1e-6, 9)
    table.erase(handles[3:4])
    for _ in range(2):  # marks stay
        assert sorted(table.changed_rows().handles.tolist()) == sorted(handles[[2, 4]].tolist())
    assert table.take_changes().rows == 2
    assert table.changed_rows().handles.size == 0
