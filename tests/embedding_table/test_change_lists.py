"""What is listed, through erasure, reuse and compaction."""

from collections.abc import Callable

import numpy as np

from embedding_table.table import ABSENT, EmbeddingTable


def _train(table: EmbeddingTable, ids: np.ndarray) -> None:
    offsets = np.arange(ids.size + 1, dtype=np.int64)
    table.update(table.find(ids), offsets, np.zeros(1, np.int8), np.ones((ids.size, 1, 4), np.float32), 0.1, 1e-6, 1)


def test_a_place_reused_while_listed_is_listed_once(twins: Callable) -> None:
    table, _ = twins(1, 4)
    slot = np.zeros(1, np.int32)
    first = table.insert(np.array([10], np.uint64), slot, 0)
    table.take_changes()
    _train(table, np.array([10, 10], np.uint64))
    table.erase(first)
    again = table.insert(np.array([11], np.uint64), slot, 0)
    assert again == first
    _train(table, np.array([11], np.uint64))
    changes = table.take_changes()
    assert [block.ids.tolist() for block in changes.blocks] == [[11]]
    assert changes.erased_ids.tolist() == [10]
    assert table.take_changes().rows == 0


def test_an_id_erased_and_born_again_is_no_tombstone(twins: Callable) -> None:
    table, plain = twins(1, 4)
    ids = np.array([10, 12], np.uint64)
    handles = table.insert(ids, np.zeros(2, np.int32), 0)
    _train(table, ids)
    table.take_changes()
    assert table.erase(handles).tolist() == [10, 12]
    table.insert(ids[:1], np.zeros(1, np.int32), 77)
    changes = table.take_changes()
    plain.insert(10, 0, 77)
    plain.assert_same(changes, {10})  # as fresh as on the first day
    assert changes.erased_ids.tolist() == [12]


def test_marks_follow_rows_that_are_moved(twins: Callable) -> None:
    table, _ = twins(1, 4)
    ids = np.arange(1, 40_001, dtype=np.uint64)
    handles = table.insert(ids, np.zeros(ids.size, np.int32), 0)
    table.take_changes()
    rng = np.random.default_rng(0)
    kept = np.sort(rng.permutation(ids)[:9000])
    trained = kept[::3]
    _train(table, trained)
    table.erase(handles[~np.isin(ids, kept)])
    born = np.arange(50_000, 50_100, dtype=np.uint64)
    table.insert(born, np.zeros(born.size, np.int32), 0)
    before = table.bytes_used
    assert table.compact() > 0
    assert table.bytes_used < before
    assert (table.find(kept) != ABSENT).all()
    _train(table, trained[::2])
    changes = table.take_changes()
    assert sorted(changes.blocks[0].ids.tolist()) == sorted([*trained.tolist(), *born.tolist()])
    assert table.take_changes().rows == 0
    _train(table, kept)
    assert table.take_changes().rows == kept.size


def test_a_marked_row_that_is_restored_stays_listed_once(twins: Callable) -> None:
    table, _ = twins(1, 4)
    ids = np.array([10, 11], np.uint64)
    table.insert(ids, np.zeros(2, np.int32), 0)
    rows = table.all_rows()
    table.take_changes()
    _train(table, ids)
    table.restore_rows(rows)
    _train(table, ids)
    assert sorted(table.take_changes().blocks[0].ids.tolist()) == [10, 11]
    table.restore_rows(rows)
    assert table.take_changes().rows == 0


def test_births_in_a_slab_that_held_wider_rows_are_listed() -> None:
    """Where a wide row had its values, a narrow one has its state, the dirty bit among it."""
    missing = np.array([1, 2], np.uint64)
    columns = [np.arange(32, dtype=np.uint16), np.arange(1, dtype=np.uint16)]
    table = EmbeddingTable(2, 32, 2 << 20, 3, 0.1, 0.1, missing, columns=columns)
    wide = np.arange(10, 20_000, dtype=np.uint64)
    handles = table.insert(wide, np.zeros(wide.size, np.int32), 0)
    assert (handles == ABSENT).any()
    table.erase(handles)
    table.take_changes()
    narrow = np.arange(10**6, 10**6 + 20_000, dtype=np.uint64)
    assert (table.insert(narrow, np.ones(narrow.size, np.int32), 0) != ABSENT).all()
    assert sorted(table.take_changes().blocks[0].ids.tolist()) == narrow.tolist()


def test_rows_of_slabs_given_back_are_listed_no_more(twins: Callable) -> None:
    """Births and trained rows in slabs that a resize empties, while others stay."""
    table, _ = twins(2, 4)
    ids = np.arange(10, 9000, dtype=np.uint64)
    table.insert(ids, (ids % np.uint64(2)).astype(np.int32), 0)
    listed_bytes = table.memory_use().fixed_bytes
    table.begin_resize([np.arange(4, dtype=np.uint16), np.arange(2, dtype=np.uint16)])
    assert table.resize_some(10**6) == 4496
    assert table.memory_use().fixed_bytes < listed_bytes
    changes = table.take_changes()
    assert sorted(i for block in changes.blocks for i in block.ids.tolist() if i < 1 << 40) == ids.tolist()
    assert table.take_changes().rows == 0
