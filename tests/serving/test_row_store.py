from types import ModuleType
from typing import Any

import numpy as np
import pytest

from model_contract.increment import RowBlock
from serving.errors import IncrementRefused, RefusalReason
from serving.row_store import RowStore, gather_pooled, replace_absent

NO_IDS = np.empty(0, np.uint64)
ABSENT = 0xFFFFFFFF


def load(model: Any, budget_bytes: int = 64 << 20) -> RowStore:
    store = RowStore(model.schema, budget_bytes, len(model.rows))
    store.show(store.stage(model.base().blocks, NO_IDS))
    return store


def contents(store: RowStore, model: Any, ids: list[int]) -> dict[int, np.ndarray | None]:
    """Rows as lookups see them, scattered to full width; None for an id without one."""
    handles = store.find(np.array(ids, np.uint64))
    offsets = np.arange(len(ids) + 1)
    pooling = np.zeros(1, np.int8)
    rows = gather_pooled(store.views, handles, offsets, pooling, model.schema.dim)[:, 0]
    return {row_id: None if handle == ABSENT else row for row_id, handle, row in zip(ids, handles, rows, strict=True)}


def expected(model: Any, ids: list[int]) -> dict[int, np.ndarray | None]:
    out: dict[int, np.ndarray | None] = {}
    for row_id in ids:
        row = model.rows.get(row_id)
        out[row_id] = None
        if row is not None:
            out[row_id] = np.zeros(model.schema.dim, np.float32)
            out[row_id][model.columns[row.slot, row.band]] = row.values
    return out


def assert_same(seen: dict[int, np.ndarray | None], wanted: dict[int, np.ndarray | None]) -> None:
    for row_id, row in wanted.items():
        other = seen[row_id]
        assert (row is None) == (other is None), row_id
        if row is not None:
            np.testing.assert_array_equal(other, row)


def test_rows_follow_a_dict_through_many_increments(model: Any) -> None:
    store = load(model)
    ever = set(model.rows)
    for _ in range(60):
        increment = model.step(changed=20, died=8, born=8)
        ever |= set(model.rows)
        staged = store.stage(increment.blocks, increment.tombstones)
        store.show(staged)
        store.release(staged.replaced)

        ids = sorted(ever)
        assert_same(contents(store, model, ids), expected(model, ids))
        assert store.rows == len(model.rows)
        missing = store.find(model.schema.missing_ids.copy())
        np.testing.assert_array_equal(store.missing_handles, missing)


def test_staging_changes_nothing_that_a_lookup_sees_even_when_the_index_grows(model: Any) -> None:
    store = load(model)
    before = expected(model, sorted(model.rows))
    new_ids = np.arange(1, 5001, dtype=np.uint64)
    columns = np.arange(model.schema.dim, dtype=np.uint16)
    block = RowBlock(0, 0, columns, "fp32", new_ids, np.ones((5000, model.schema.dim), np.float32))
    index_bytes = store.index_bytes

    staged = store.stage((block,), np.array(sorted(before)[:5], np.uint64))
    assert_same(contents(store, model, list(before)), before)
    assert staged.index is not None

    store.show(staged)
    assert store.index_bytes > index_bytes
    assert store.find(new_ids[:3]).max() < ABSENT


def test_replaced_rows_keep_their_values_until_released(model: Any) -> None:
    store = load(model)
    ids = np.array(sorted(model.rows), np.uint64)
    handles, old = store.find(ids), expected(model, ids.tolist())
    staged = store.stage(model.step(changed=100, died=30).blocks, NO_IDS)
    store.show(staged)

    offsets = np.arange(ids.size + 1)
    rows = gather_pooled(store.views, handles, offsets, np.zeros(1, np.int8), model.schema.dim)[:, 0]
    assert_same(dict(zip(ids.tolist(), rows, strict=True)), old)
    assert staged.replaced.size > 0


def test_absent_handles_become_the_slots_missing_row() -> None:
    handles = np.array([5, ABSENT, ABSENT, 7, ABSENT], np.uint32)
    offsets = np.array([0, 2, 3, 4, 5])  # two samples of two slots

    replaced = replace_absent(handles, offsets, np.array([100, 200], np.uint32))

    assert replaced == 3
    assert handles.tolist() == [5, 100, 200, 7, 200]


def block_of(model: Any, **changes: Any) -> RowBlock:
    values: dict[str, Any] = {
        "slot": 0,
        "band": 0,
        "columns": np.arange(model.schema.dim, dtype=np.uint16),
        "precision": "fp32",
        "ids": np.array([11, 12], np.uint64),
        "values": np.zeros((2, model.schema.dim), np.float32),
    }
    return RowBlock(**values | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"slot": 3}, RefusalReason.UNKNOWN_SLOT),
        ({"precision": "int4"}, RefusalReason.UNKNOWN_PRECISION),
        ({"values": np.full((2, 8), np.nan, np.float32)}, RefusalReason.NOT_FINITE),
        ({"values": np.full((2, 8), np.inf, np.float32)}, RefusalReason.NOT_FINITE),
        ({"ids": np.array([11, 11], np.uint64)}, RefusalReason.INVALID_CONTENT),
        (
            {"columns": np.array([0, 99], np.uint16), "values": np.zeros((2, 2), np.float32)},
            RefusalReason.INVALID_CONTENT,
        ),
    ],
)
def test_bad_blocks_are_refused_and_leave_nothing_behind(
    rng: np.random.Generator, kit: ModuleType, changes: dict[str, Any], reason: RefusalReason
) -> None:
    model = kit.PlainModel(kit.schema_with_dense(), rng)
    store = load(model)
    before, bytes_before = expected(model, sorted(model.rows)), store.row_bytes

    with pytest.raises(IncrementRefused) as caught:
        store.stage((block_of(model), block_of(model, **changes | {"band": 1})), NO_IDS)
    assert caught.value.reason in {reason, RefusalReason.INVALID_CONTENT}

    with pytest.raises(IncrementRefused) as caught:
        store.stage((block_of(model, **changes),), NO_IDS)
    assert caught.value.reason == reason
    assert_same(contents(store, model, list(before)), before)
    assert store.row_bytes == bytes_before


def test_a_base_without_a_missing_row_and_a_tombstone_for_one_are_refused(model: Any) -> None:
    missing = int(model.schema.missing_ids[1])
    store = load(model)
    with pytest.raises(IncrementRefused, match="no_missing_row.*tags"):
        store.stage((), np.array([missing], np.uint64))

    del model.rows[missing]
    fresh = RowStore(model.schema, 64 << 20, 0)
    with pytest.raises(IncrementRefused, match="no_missing_row.*tags"):
        fresh.stage(model.base().blocks, NO_IDS)


def test_the_budget_holds_and_a_refused_increment_gives_its_rows_back(model: Any) -> None:
    budget = 1 << 20
    store = load(model, budget)
    ids = np.arange(1, 100_001, dtype=np.uint64)
    columns = np.arange(model.schema.dim, dtype=np.uint16)
    large = RowBlock(0, 0, columns, "fp32", ids, np.zeros((ids.size, columns.size), np.float32))
    small = RowBlock(0, 0, columns, "fp32", ids[:5000], np.zeros((5000, columns.size), np.float32))

    with pytest.raises(IncrementRefused, match="no_room.*memory_bytes"):
        store.stage((large,), NO_IDS)
    assert store.row_bytes + store.index_bytes <= budget
    store.show(store.stage((small,), NO_IDS))
    assert store.row_bytes + store.index_bytes <= budget


def test_compaction_moves_living_rows_only_and_gives_slabs_back(rng: np.random.Generator, kit: ModuleType) -> None:
    model = kit.PlainModel(kit.schema_with_dense(), rng)
    store = load(model)
    columns = np.arange(model.schema.dim, dtype=np.uint16)
    ids = np.unique(rng.integers(1, 2**63, 60_000).astype(np.uint64))
    values = rng.normal(size=(ids.size, columns.size)).astype(np.float32)
    store.show(store.stage((RowBlock(0, 0, columns, "fp32", ids, values),), NO_IDS))
    full_bytes = store.row_bytes
    dead = rng.random(ids.size) < 0.9
    unreleased = []
    for part in np.array_split(np.flatnonzero(dead), 4):
        staged = store.stage((), ids[part])
        store.show(staged)
        unreleased.append(staged.replaced)  # still live in the arena, as while a request reads them
        compacted = store.stage_compaction(5000)
        if compacted is not None:
            store.show(compacted)
            unreleased.append(compacted.replaced)
    for handles in unreleased:
        store.release(handles)
    while (compacted := store.stage_compaction(5000)) is not None and compacted.ids.size:
        store.show(compacted)
        store.release(compacted.replaced)

    assert store.rows == len(model.rows) + (~dead).sum()
    assert (store.find(ids[dead]) == ABSENT).all()
    handles = store.find(ids[~dead])
    rows = gather_pooled(store.views, handles, np.arange(handles.size + 1), np.zeros(1, np.int8), columns.size)
    np.testing.assert_array_equal(rows[:, 0], values[~dead])
    assert store.row_bytes < full_bytes / 4
