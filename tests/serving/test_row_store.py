from types import ModuleType
from typing import Any

import numpy as np
import pytest

from embedding_table.row_codecs import CODECS
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


def test_staging_changes_nothing_that_a_lookup_sees_even_when_the_index_grows(model: Any, kit: ModuleType) -> None:
    store = load(model)
    before = expected(model, sorted(model.rows))
    new_ids = np.arange(1, 5001, dtype=np.uint64)
    columns = np.arange(model.schema.dim, dtype=np.uint16)
    block = kit.fp32_block(0, columns, new_ids, np.ones((5000, model.schema.dim), np.float32))
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


CODEC_SETS = [tuple(CODECS), ("int4_greedy_coded", "fp16"), ("int8_minmax_block",)]


@pytest.mark.parametrize("codecs", CODEC_SETS, ids=["all", "two", "one"])
def test_rows_in_mixed_precision_follow_a_dict_of_decoded_rows(
    kit: ModuleType, rng: np.random.Generator, codecs: tuple[str, ...]
) -> None:
    """Every increment learns its own shared values, so stores come and go."""
    model = kit.PlainModel(kit.schema_with_dense(), rng, codecs=codecs)
    store = load(model)
    ever = set(model.rows)
    waiting: list[np.ndarray] = []
    for _ in range(60):
        increment = model.step(changed=20, died=8, born=8)
        ever |= set(model.rows)
        staged = store.stage(increment.blocks, increment.tombstones)
        store.show(staged)
        waiting.append(staged.replaced)
        if rng.random() < 0.5:  # as while a request reads the rows
            while waiting:
                store.release(waiting.pop(0))

        ids = sorted(ever)
        assert_same(contents(store, model, ids), expected(model, ids))
        assert store.rows == len(model.rows)
        assert set(store.precision_bytes) >= {row.precision for row in model.rows.values()}
    for handles in waiting:
        store.release(handles)
    assert set(store.precision_bytes) == {row.precision for row in model.rows.values()}
    assert store._arena.rows == len(model.rows)


def test_a_row_that_changes_its_tier_arrives_re_encoded_and_its_old_bytes_are_freed(
    kit: ModuleType, rng: np.random.Generator
) -> None:
    model = kit.PlainModel(kit.schema_with_dense(), rng, vocabulary=4000)
    store = load(model)
    exact_bytes, per_row = store.row_bytes, {}
    for precision in ("int4_greedy", "fp16", "fp32", "int8_minmax"):
        for row in model.rows.values():
            row.precision = precision
        staged = store.stage(model.blocks(list(model.rows)), NO_IDS)
        assert set(store.precision_bytes) > {precision}
        store.show(staged)
        store.release(staged.replaced)

        ids = sorted(model.rows)
        assert_same(contents(store, model, ids), expected(model, ids))
        assert set(store.precision_bytes) == {precision}
        assert sum(store.precision_bytes.values()) <= store.row_bytes
        per_row[precision] = store.row_bytes / len(ids)
    assert per_row["int4_greedy"] < per_row["fp16"] < per_row["fp32"]
    assert per_row["fp32"] <= exact_bytes / len(model.rows)


def test_blocks_that_agree_in_columns_codec_and_shared_values_lie_together(
    kit: ModuleType, rng: np.random.Generator
) -> None:
    model = kit.PlainModel(kit.schema_with_dense(), rng)
    store = load(model)
    stores = len(store._arena.stores)
    same = CODECS["int8_minmax_block"].encode(np.arange(16, dtype=np.float32).reshape(2, 8))
    other = CODECS["int8_minmax_block"].encode(np.ones((2, 8), np.float32))
    columns = np.arange(8, dtype=np.uint16)
    blocks = [
        RowBlock(slot, 0, columns, packed.codec, np.array(ids, np.uint64), packed.data, packed.shared)
        for slot, ids, packed in ((0, [1, 2], same), (1, [3, 4], same), (2, [5, 6], other), (2, [7, 8], other))
    ]
    staged = store.stage(blocks[:3], NO_IDS)
    store.show(staged)
    assert len(store._arena.stores) == stores + 2
    store.show(store.stage(blocks[3:], staged.ids))
    store.release(staged.handles)
    assert len(store._arena.stores) == stores + 1


def test_absent_handles_become_the_slots_missing_row() -> None:
    handles = np.array([5, ABSENT, ABSENT, 7, ABSENT], np.uint32)
    offsets = np.array([0, 2, 3, 4, 5])  # two samples of two slots

    replaced = replace_absent(handles, offsets, np.array([100, 200], np.uint32))

    assert replaced == 3
    assert handles.tolist() == [5, 100, 200, 7, 200]


def block_of(model: Any, **changes: Any) -> RowBlock:
    fields: dict[str, Any] = {
        "slot": 0,
        "band": 0,
        "columns": np.arange(model.schema.dim, dtype=np.uint16),
        "precision": "fp32",
        "ids": np.array([11, 12], np.uint64),
        "data": np.zeros((2, 4 * model.schema.dim), np.uint8),
        "shared": np.zeros(0, np.float32),
    }
    return RowBlock(**fields | changes)


def packed(precision: str, **changes: Any) -> dict[str, Any]:
    """Two rows of eight columns by a codec, and what is wrong with them."""
    rows = CODECS[precision].encode(np.arange(16, dtype=np.float32).reshape(2, 8))
    return {"precision": precision, "data": rows.data.copy(), "shared": rows.shared.copy()} | changes


def spoilt(precision: str, first: int, word: bytes) -> dict[str, Any]:
    """The same with some bytes of the second row replaced."""
    fields = packed(precision)
    fields["data"][1, first : first + len(word)] = list(word)
    return fields


NAN, INFINITY = b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f"
HALF_NAN, HALF_INFINITY = b"\x01\x7c", b"\x00\xfc"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"slot": 3}, RefusalReason.UNKNOWN_SLOT),
        ({"precision": "int4"}, RefusalReason.UNKNOWN_PRECISION),
        (spoilt("fp32", 28, NAN), RefusalReason.NOT_FINITE),
        (spoilt("fp32", 0, INFINITY), RefusalReason.NOT_FINITE),
        (spoilt("fp16", 14, HALF_NAN), RefusalReason.NOT_FINITE),
        (spoilt("int8_greedy", 8, HALF_INFINITY), RefusalReason.NOT_FINITE),
        (spoilt("int4_minmax", 6, HALF_NAN), RefusalReason.NOT_FINITE),
        (packed("int4_greedy_coded", shared=np.full(512, 3e38, np.float32)), RefusalReason.NOT_FINITE),
        (packed("int4_greedy_coded", shared=np.zeros(512, np.float32)), RefusalReason.INVALID_CONTENT),
        (packed("int4_greedy_coded", shared=np.ones(2, np.float32)), RefusalReason.INVALID_CONTENT),
        (packed("int8_minmax_block", shared=np.array([np.nan, 0], np.float32)), RefusalReason.INVALID_CONTENT),
        (packed("int8_minmax_block", shared=np.array([-1, 0], np.float32)), RefusalReason.INVALID_CONTENT),
        (packed("int8_minmax", shared=np.ones(1, np.float32)), RefusalReason.INVALID_CONTENT),
        (packed("int8_minmax") | {"precision": "int4_minmax"}, RefusalReason.INVALID_CONTENT),
        (packed("fp32", data=np.zeros((2, 28), np.uint8)), RefusalReason.INVALID_CONTENT),
        ({"ids": np.array([11, 11], np.uint64)}, RefusalReason.INVALID_CONTENT),
        (
            {"columns": np.array([0, 99], np.uint16), "data": np.zeros((2, 8), np.uint8)},
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


def test_the_budget_holds_and_a_refused_increment_gives_its_rows_back(model: Any, kit: ModuleType) -> None:
    budget = 1 << 20
    store = load(model, budget)
    ids = np.arange(1, 100_001, dtype=np.uint64)
    columns = np.arange(model.schema.dim, dtype=np.uint16)
    large = kit.fp32_block(0, columns, ids, np.zeros((ids.size, columns.size), np.float32))
    small = kit.fp32_block(0, columns, ids[:5000], np.zeros((5000, columns.size), np.float32))

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
    store.show(store.stage((kit.fp32_block(0, columns, ids, values),), NO_IDS))
    full_bytes = store.row_bytes
    dead = rng.random(ids.size) < 0.9
    unreleased = []
    for part in np.array_split(rng.permutation(np.flatnonzero(dead)), 4):
        if len(unreleased) == 2:  # what is left of them lies scattered, among rows that wait for their release
            store.release(unreleased.pop(0))
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

    assert store.rows == store._arena.rows == len(model.rows) + (~dead).sum()
    assert (store.find(ids[dead]) == ABSENT).all()
    handles = store.find(ids[~dead])
    rows = gather_pooled(store.views, handles, np.arange(handles.size + 1), np.zeros(1, np.int8), columns.size)
    np.testing.assert_array_equal(rows[:, 0], values[~dead])
    assert store.row_bytes < full_bytes / 4
