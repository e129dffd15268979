"""Rows written back into a table of other columns, and ids that are elsewhere in it already."""

from collections.abc import Callable

import numpy as np
import pytest

from embedding_table.errors import BadRows, BudgetTooSmall
from embedding_table.table import EmbeddingTable, RowsOfBlock, TableChanges


def _rows(slot: int, band: int, columns: list[int], ids: range, seed: int = 0) -> RowsOfBlock:
    rng = np.random.default_rng(seed)
    n = len(ids)
    return RowsOfBlock(
        slot=slot,
        band=band,
        columns=np.array(columns, np.uint16),
        ids=np.array(ids, np.uint64),
        values=rng.standard_normal((n, len(columns))).astype(np.float32),
        accumulators=rng.random(n, np.float32),
        counts=rng.random(n, np.float32),
        last_seen_s=rng.integers(0, 1000, n, dtype=np.uint32),
    )


def _restored(table: EmbeddingTable, *blocks: RowsOfBlock) -> dict[tuple[int, int], RowsOfBlock]:
    table.restore_rows(TableChanges(blocks, np.empty(0, np.uint64)))
    return {(block.slot, block.band): block for block in table.all_rows().blocks}


def test_rows_of_other_columns_are_mapped(twins: Callable) -> None:
    table, _ = twins(1, 8, columns=[np.array([0, 2, 3, 7], np.uint16)])
    given = _rows(0, 0, [1, 2, 7], range(10, 20))
    found = _restored(table, given)[0, 0]
    order = np.argsort(found.ids)[:10]
    np.testing.assert_array_equal(found.ids[order], given.ids)
    expected = np.stack([np.zeros(10), given.values[:, 1], np.zeros(10), given.values[:, 2]], axis=1)
    np.testing.assert_array_equal(found.values[order], expected)
    for name in ("accumulators", "counts", "last_seen_s"):
        np.testing.assert_array_equal(getattr(found, name)[order], getattr(given, name))
    assert _restored(table, _rows(0, 0, [], range(10, 20)))[0, 0].values[:10].sum() == pytest.approx(
        found.values[~np.isin(found.ids, given.ids)].sum()
    )


def test_an_id_is_where_it_was_last_given(twins: Callable) -> None:
    """In another band, another slot, an old generation; the same id twice in one set of changes."""
    table, _ = twins(2, 4, bands=2)
    every = [0, 1, 2, 3]
    _restored(table, _rows(0, 0, every, range(10, 30)))
    table.take_changes()
    table.begin_resize([np.arange(2, dtype=np.uint16)] + [np.arange(4, dtype=np.uint16)] * 3)
    _restored(
        table,
        _rows(0, 0, every, range(10, 15)),
        _rows(0, 1, every, range(15, 20)),
        _rows(1, 0, every, range(20, 25)),
        _rows(1, 1, every, range(20, 22), seed=1),
    )
    at = {i: (block.slot, block.band) for block in table.all_rows().blocks for i in block.ids.tolist()}
    assert [at[i] for i in range(10, 30)] == [(0, 0)] * 5 + [(0, 1)] * 5 + [(1, 1)] * 2 + [(1, 0)] * 3 + [(0, 0)] * 5
    assert sum(block.ids.size for block in table.all_rows().blocks) == table.rows == 22
    assert table.rows_to_resize == 6  # the missing row, and those not given again
    assert table.take_changes().rows == 0


def test_refuses_rows_of_another_table_and_changes_nothing(twins: Callable) -> None:
    table, _ = twins(1, 4)
    good = _rows(0, 0, [0, 1], range(10, 12))
    wrong = [_rows(1, 0, [0], range(3)), _rows(0, 1, [0], range(3)), _rows(0, 0, [2, 1], range(3))]
    wrong += [_rows(0, 0, [4], range(3))]
    for rows in wrong:
        with pytest.raises(BadRows, match="rows of slot"):
            _restored(table, good, rows)
    assert table.rows == 1
    small = EmbeddingTable(1, 4, 200_000, 1, 0.1, 0.1, np.array([1], np.uint64))
    with pytest.raises(BudgetTooSmall, match="9000 rows of slot 0 with 200000 bytes"):
        _restored(small, _rows(0, 0, [0, 1], range(10, 9010)))
