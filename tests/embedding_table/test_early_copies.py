"""Changes copied in slices while training goes on equal those of one copy at the cut."""

import numpy as np
import pytest

from embedding_table.early_copies import EarlyCopy, decay_early, settled
from embedding_table.table import ABSENT, EmbeddingTable, TableChanges

SLOTS, DIM = 2, 8


def new_table() -> EmbeddingTable:
    missing = np.array([1, 2], np.uint64)
    return EmbeddingTable(SLOTS, DIM, 4 << 20, 3, 0.1, 0.1, missing, bands=2, threads=1)


def insert(table: EmbeddingTable, ids: np.ndarray) -> None:
    table.insert(ids, (ids % SLOTS).astype(np.int32), 5)


def train(table: EmbeddingTable, ids: np.ndarray, generator: np.random.Generator) -> None:
    handles = table.find(ids)
    offsets = np.minimum(np.arange(-(-ids.size // SLOTS) * SLOTS + 1), ids.size)
    grad = generator.standard_normal((offsets.size // SLOTS, SLOTS, DIM)).astype(np.float32)
    table.update(handles, offsets, np.zeros(SLOTS, np.int8), grad, 0.1, 1e-6, 9)


def by_id(changes: TableChanges) -> dict[int, tuple[object, ...]]:
    found: dict[int, tuple[object, ...]] = {}
    for block in changes.blocks:
        for k, i in enumerate(block.ids.tolist()):
            assert i not in found
            row = (block.values[k].tobytes(), block.columns.tobytes(), float(block.accumulators[k]))
            found[i] = (block.slot, block.band, *row, float(block.counts[k]), int(block.last_seen_s[k]))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_slices_and_one_copy_hold_the_same(seed: int) -> None:
    whole, sliced = new_table(), new_table()
    operations = np.random.default_rng(seed)
    for _cut in range(3):
        copies: list[EarlyCopy] = []
        for _ in range(12):
            ids = operations.integers(10, 200, operations.integers(1, 80)).astype(np.uint64)
            what = operations.integers(0, 6)
            pick = int(operations.integers(0, 1 << 30))
            for table in (whole, sliced):
                generator = np.random.default_rng(pick)
                if what <= 1:
                    insert(table, np.unique(ids))
                elif what == 2:
                    train(table, ids, generator)
                elif what == 3:
                    table.erase(table.find(np.unique(ids)))
                    table.compact()
                elif what == 4:
                    handles = table.find(np.unique(ids))
                    table.move_rows(handles, generator.integers(0, 2, handles.size).astype(np.int32))
                else:
                    table.decay_counts(0.75)
                    if table is sliced:
                        decay_early(copies, 0.75)
            copies.append(sliced.copy_changes(int(operations.integers(0, 60))))
        expected = whole.take_changes()
        found = settled(copies, sliced.take_changes())
        assert by_id(found) == by_id(expected)
        assert found.erased_ids.tolist() == expected.erased_ids.tolist()
        places = [(block.slot, block.band) for block in found.blocks]
        assert places == sorted(set(places))
    assert sliced.take_changes().rows == 0


def test_slices_while_columns_change_keep_the_columns_apart() -> None:
    table = new_table()
    ids = np.arange(10, 110, dtype=np.uint64)
    insert(table, ids)
    narrow = [np.arange(3, dtype=np.uint16)] * (SLOTS * 2)
    copies = [table.copy_changes(30)]
    table.begin_resize(narrow)
    table.resize_some(20)
    copies.append(table.copy_changes(40))
    found = settled(copies, table.take_changes())

    rows = by_id(found)
    assert rows.keys() >= set(ids.tolist())
    table_rows = by_id(table.all_rows())
    assert rows == {i: table_rows[i] for i in rows}
    assert {block.columns.size for block in found.blocks} == {3, DIM}


def test_each_slice_is_as_long_as_asked_and_the_cut_holds_the_rest() -> None:
    table = new_table()
    table.take_changes()
    ids = np.arange(10, 110, dtype=np.uint64)
    insert(table, ids)
    assert table.changes_listed == 100
    first = table.copy_changes(30)
    assert sum(block.ids.size for block in first) == 30
    assert table.changes_listed == 70
    train(table, first[0].ids[:4], np.random.default_rng(0))
    assert table.changes_listed == 74
    table.erase(table.find(first[0].ids[:1]))
    last = table.take_changes()
    assert last.rows == 73
    assert last.erased_ids.tolist() == first[0].ids[:1].tolist()
    assert settled([first], last).rows == 99
    assert (table.find(ids[1:]) != ABSENT).any()
