"""Stores that come and go against dicts of decoded rows, and slabs that suit both ten rows and a million."""

import numpy as np
import pytest

from embedding_table.errors import BadPacking, BadRows, BudgetTooSmall
from embedding_table.hash_index import ABSENT
from embedding_table.packed_arena import ID_BYTES, PackedArena
from embedding_table.packed_pooling import pool_packed_bags
from embedding_table.page_frames import FRAME_BYTES, PAGE_BYTES
from embedding_table.row_codecs import CODECS
from embedding_table.row_layout import ROW_BITS

NOTHING = np.zeros(0, np.float32)


def _columns(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint16)


def _read(arena: PackedArena, handles: np.ndarray) -> np.ndarray:
    """Rows at full width, as a server reads them."""
    out = np.empty((handles.size, arena.dim), np.float32)
    pool_packed_bags(arena.views(), handles, np.arange(handles.size + 1), np.zeros(1, np.int8), 0, handles.size, out)
    return out


@pytest.mark.parametrize("seed", range(4))
def test_random_takes_frees_moves_and_stores(seed: int) -> None:
    """A dict of rows says what every handle must read as, through stores that are defined, emptied and retired."""
    rng = np.random.default_rng(seed)
    arena = PackedArena(16, 30 * FRAME_BYTES)
    names = list(CODECS)
    kept: dict[int, np.ndarray] = {}  # by handle, at full width
    owner: dict[int, int] = {}
    ids: dict[int, int] = {}
    shared_of: dict[int, np.ndarray] = {}
    columns_of: dict[int, np.ndarray] = {}
    next_id = 1
    for turn in range(150):
        if len(shared_of) < 40:
            columns = np.sort(rng.permutation(16)[: rng.integers(0, 17)]).astype(np.uint16)
            codec = CODECS[names[int(rng.integers(len(names)))]]
            shared = codec.encode(rng.standard_normal((50, columns.size)).astype(np.float32)).shared
            store = arena.define_store(columns, codec, shared)
            assert store not in shared_of
            shared_of[store], columns_of[store] = shared, columns
        store = list(shared_of)[int(rng.integers(len(shared_of)))]
        codec, columns = arena.codec(store), columns_of[store]
        values = (rng.standard_normal((int(rng.integers(0, 900)), columns.size)) * 0.1).astype(np.float32)
        packed, fits = codec.encode_fitting(values, shared=shared_of[store] if codec.form else None)
        data = packed.data[fits]
        handles = arena.allocate(store, len(data))
        handles, data = handles[handles != ABSENT], data[: (handles != ABSENT).sum()]
        new_ids = np.arange(next_id, next_id + handles.size, dtype=np.uint64)
        next_id += handles.size
        arena.write(store, handles, new_ids, data)
        decoded = np.zeros((handles.size, 16), np.float32)
        if handles.size:
            decoded[:, columns] = codec.decode(type(packed)(codec.name, columns.size, data, packed.shared))
        for handle, row, row_id in zip(handles.tolist(), decoded, new_ids.tolist(), strict=True):
            assert handle not in kept
            kept[handle], owner[handle], ids[handle] = row, store, row_id

        everyone = np.array(list(kept), np.uint32)
        gone = rng.permutation(everyone)[: int(rng.integers(0, 1200))]
        if turn % 10 == 9:  # a whole store
            gone = np.array([handle for handle in kept if owner[handle] == store], np.uint32)
        freed = arena.free(np.concatenate([gone, gone[:3], np.array([ABSENT], np.uint32)]))
        assert sorted(freed.tolist()) == sorted(gone.tolist())
        for handle in gone.tolist():
            del kept[handle], owner[handle], ids[handle]
        if rng.random() < 0.5:
            for empty in arena.release_slabs():
                assert arena.store_bytes(empty) == arena.store_rows(empty) == arena.store_capacity(empty) == 0
                if rng.random() < 0.5:
                    arena.retire_store(empty)
                    del shared_of[empty], columns_of[empty]
        if rng.random() < 0.3 and shared_of:
            old, new = arena.compact(list(shared_of)[0], 2000)
            for before, after in zip(old.tolist(), new.tolist(), strict=True):
                kept[after], owner[after], ids[after] = kept[before], owner[before], ids[before]
            arena.free(old)
            for before in old.tolist():
                del kept[before], owner[before], ids[before]

        handles = np.array(list(kept), np.uint32)
        np.testing.assert_array_equal(_read(arena, handles), np.array(list(kept.values())).reshape(-1, 16))
        assert arena.ids(handles).tolist() == list(ids.values())
        assert arena.rows == len(kept)
        for number in shared_of:
            assert arena.store_rows(number) == sum(one == number for one in owner.values())
    assert sorted(arena.stores) == sorted(shared_of)


def test_views_taken_before_stores_grew_still_read_what_was_there() -> None:
    arena = PackedArena(4, 4 << 20)
    codec = CODECS["int8_minmax_coded"]
    values = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    packed = codec.encode(values)
    store = arena.define_store(_columns(4), codec, packed.shared)
    handles = arena.allocate(store, 30)
    arena.write(store, handles, np.arange(1, 31, dtype=np.uint64), packed.data)
    old = arena.views()
    for number in range(100):
        other = arena.define_store(_columns(4), codec, packed.shared + np.float32(number))
        arena.write(other, arena.allocate(other, 1), np.array([99], np.uint64), packed.data[:1])
    assert arena.views().stores.shape[0] > old.stores.shape[0]
    assert arena.views().shared.size > old.shared.size
    out = np.empty((30, 4), np.float32)
    pool_packed_bags(old, handles, np.arange(31), np.zeros(1, np.int8), 0, 30, out)
    np.testing.assert_array_equal(out, codec.decode(packed))
    np.testing.assert_array_equal(_read(arena, handles), codec.decode(packed))


@pytest.mark.parametrize("rows", [1, 10, 100, 1_000, 10_000, 200_000])
@pytest.mark.parametrize("width", [1, 8, 32])
def test_few_rows_and_many_waste_little(rows: int, width: int) -> None:
    arena = PackedArena(32, 64 << 20)
    store = arena.define_store(_columns(width), CODECS["int4_minmax"], NOTHING)
    unit = CODECS["int4_minmax"].bytes_per_row(width) + ID_BYTES
    for part in np.array_split(np.arange(rows), 10):
        assert (arena.allocate(store, part.size) != ABSENT).all()
    assert arena.store_bytes(store) <= 1.5 * rows * unit + PAGE_BYTES
    assert arena.store_capacity(store) * unit >= 0.99 * arena.store_bytes(store)


def test_slabs_hold_no_more_rows_than_a_handle_names() -> None:
    arena = PackedArena(8, 64 << 20)
    for width in (0, 1, 8):
        store = arena.define_store(_columns(width), CODECS["int4_minmax"], NOTHING)
        handles = arena.allocate(store, 50_000)
        assert np.unique(handles).size == 50_000
        assert np.bincount(handles >> ROW_BITS).max() <= 1 << ROW_BITS


def test_bytes_follow_the_slabs_and_their_limit_holds() -> None:
    arena = PackedArena(16, 20 * FRAME_BYTES)
    store = arena.define_store(_columns(16), CODECS["fp32"], NOTHING)
    empty = arena.bytes_used
    assert (arena.allocate(store, 100, max_bytes=0) == ABSENT).all()
    for limit in (5_000, 20_000, 100_000):
        before = arena.bytes_used
        handles = arena.allocate(store, 50_000, max_bytes=limit)
        assert before < arena.bytes_used <= before + limit
        assert handles[-1] == ABSENT
    arena.free(np.arange(1 << 20, dtype=np.uint32))
    assert arena.release_slabs() == [store]
    assert arena.bytes_used == empty
    assert arena.release_slabs() == []


def test_the_views_tell_whether_all_rows_are_plain() -> None:
    arena = PackedArena(4, 4 << 20)
    values = np.arange(40, dtype=np.float32).reshape(10, 4)
    packed = CODECS["fp32"].encode(values)
    plain = arena.define_store(_columns(4), CODECS["fp32"], NOTHING)
    handles = arena.allocate(plain, 10)
    arena.write(plain, handles, np.arange(1, 11, dtype=np.uint64), packed.data)
    found = np.append(handles, np.uint32(ABSENT))
    expected = np.append(values, np.zeros((1, 4), np.float32), axis=0)
    assert arena.views().plain
    np.testing.assert_array_equal(_read(arena, found), expected)
    for columns, codec in ((_columns(4), CODECS["fp16"]), (_columns(3), CODECS["fp32"])):
        other = arena.define_store(columns, codec, NOTHING)
        assert not arena.views().plain
        np.testing.assert_array_equal(_read(arena, found), expected)
        arena.retire_store(other)
        assert arena.views().plain


def test_stores_that_come_and_go_leave_nothing_behind() -> None:
    arena = PackedArena(4, 4 << 20)
    codec = CODECS["int8_minmax_coded"]
    used = []
    for number in range(200):
        packed = codec.encode(np.full((3, 4), number, np.float32))
        store = arena.define_store(_columns(4), codec, packed.shared)
        handles = arena.allocate(store, 3)
        arena.write(store, handles, np.ones(3, np.uint64), packed.data)
        np.testing.assert_array_equal(_read(arena, handles), codec.decode(packed))
        arena.free(handles)
        for empty in arena.release_slabs():
            arena.retire_store(empty)
        used.append(arena.bytes_used)
    assert set(used) == {used[0]}


def test_what_one_store_gave_back_serves_another() -> None:
    arena = PackedArena(16, 2 * FRAME_BYTES)
    narrow = arena.define_store(_columns(2), CODECS["fp16"], NOTHING)
    wide = arena.define_store(_columns(16), CODECS["fp32"], NOTHING)
    handles = arena.allocate(narrow, 50_000)
    assert arena.allocate(wide, 1)[0] == ABSENT
    arena.free(handles)
    arena.release_slabs()
    assert (arena.allocate(wide, 2 * (FRAME_BYTES // 72)) != ABSENT).sum() > 1_800


def test_compaction_frees_slabs_and_moves_what_lives() -> None:
    rng = np.random.default_rng(0)
    arena = PackedArena(4, 64 << 20)
    store = arena.define_store(_columns(4), CODECS["fp32"], NOTHING)
    values = rng.standard_normal((40_000, 4)).astype(np.float32)
    handles = arena.allocate(store, 40_000)
    arena.write(store, handles, np.arange(1, 40_001, dtype=np.uint64), CODECS["fp32"].encode(values).data)
    dead = rng.random(40_000) < 0.8
    for slab in np.unique(handles >> ROW_BITS)[::3]:  # some with one row left, the first among them
        inside = np.flatnonzero(handles >> ROW_BITS == slab)
        dead[inside] = inside > inside[0]
    arena.free(handles[dead])
    full = arena.store_bytes(store)
    while True:
        old, new = arena.compact(store, 3_000)
        if old.size == 0:
            break
        assert old.size <= 3_000
        assert not np.isin(new >> ROW_BITS, old >> ROW_BITS).any()
        moved = dict(zip(old.tolist(), new.tolist(), strict=True))
        handles = np.array([moved.get(handle, handle) for handle in handles.tolist()], np.uint32)
        arena.free(old)
        arena.release_slabs()
    np.testing.assert_array_equal(_read(arena, handles[~dead]), values[~dead])
    assert arena.ids(handles[~dead]).tolist() == (np.flatnonzero(~dead) + 1).tolist()
    assert arena.store_bytes(store) < full / 3


def test_stores_that_make_no_sense_are_refused() -> None:
    arena = PackedArena(4, FRAME_BYTES)
    for columns in ([1, 0], [0, 4]):
        with pytest.raises(BadRows):
            arena.define_store(np.array(columns, np.uint16), CODECS["fp32"], NOTHING)
    with pytest.raises(BadPacking):
        arena.define_store(_columns(4), CODECS["int8_minmax_block"], NOTHING)
    with pytest.raises(BadRows, match="one slab"):
        PackedArena(1 << 15, FRAME_BYTES).define_store(_columns(1 << 15), CODECS["fp32"], NOTHING)
    with pytest.raises(BudgetTooSmall):
        PackedArena(4, FRAME_BYTES - 1)
    assert arena.stores == []
    store = arena.define_store(_columns(4), CODECS["fp32"], NOTHING)
    handles = arena.allocate(store, 2)
    for data in (np.zeros((2, 15), np.uint8), np.zeros((1, 16), np.uint8), np.zeros((2, 16), np.int8)):
        with pytest.raises(BadPacking):
            arena.write(store, handles, np.ones(2, np.uint64), data)
    with pytest.raises(BadRows, match="expected none"):
        arena.retire_store(store)
