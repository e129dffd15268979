"""Bags pooled straight from packed rows of many stores: no float32 copy of a table is ever made.

A store holds the packed rows of one codec, width, set of columns and shared scales: in a server one (slot, band,
precision). All stores lie in one byte memory, cut into slabs of at most 4096 rows; a slab belongs to one store. A
handle is `slab << 12 | row`, as in `row_layout`, so index, missing rows and ABSENT stay what they are, and a row that
changes its tier only changes its handle.

    handle -> slab -> where its first row lies, its store -> codec, width, bytes a row, columns, shared scales

Knows rows by handle, not ids, slots or increments; who takes and frees slabs is up to the caller. Invariant: what is
pooled is bit by bit what pooling the decoded rows in the same order gives.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import one_member_each
from embedding_table.errors import BadPacking
from embedding_table.hash_index import ABSENT
from embedding_table.machine_words import add_rows, copy_row, fill_row, prefetch, prefetch_row
from embedding_table.packed_words import add_unpacked, range_at, set_unpacked
from embedding_table.reserved_memory import reserved_memory
from embedding_table.row_adagrad import POOL_MEAN, PREFETCH_AHEAD
from embedding_table.row_codecs import PackedRows, RowCodec, codec_named
from embedding_table.row_layout import ROW_BITS, row_of, slab_of
from model_contract.compiled import kernel

__all__ = ["STORE_NOTES", "PackedViews", "is_plain", "notes_of", "pool_packed_bags", "views_of"]

_NONE = np.uint32(0xFFFFFFFF)
_MOST_CODE_BITS, _FLOAT_BITS = np.uint64(8), np.uint64(32)
_NO, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)
_ROWS = 1 << ROW_BITS
_LINE_BYTES = 64
_LISTED_AT_ONCE, _ROWS_AHEAD = np.uint64(256), np.uint64(64)  # rows that need no decoding; lookups of long bags
BITS, FORM, WIDTH, ROW_BYTES, CODE_BYTES, SHARED = (np.uint64(place) for place in range(6))  # of a store's notes
STORE_NOTES = 8
_ZERO = np.float32(0)


class PackedViews(NamedTuple):
    """All that a kernel needs to read packed rows by handle.

    Attributes:
        memory: u8 (bytes,), the rows.
        floats: f32 (bytes / 4,), the same memory: rows of fp32 begin at multiples of 4 bytes.
        slab_start: u64 (slabs,), the byte at which a slab's first row begins.
        slab_row_bytes: u32 (slabs,).
        slab_store: u32 (slabs,).
        stores: u64 (stores, 8): bits, form of the scales, width d, bytes of a row and of its codes, where in `shared`
            the store's own begins.
        columns: u16 (stores, D), the first d are the store's active columns, ascending.
        shared: f32 (k,), what the rows of each store share, one after the other.
        plain: whether all stores are of fp32 rows of D columns.
    """

    memory: NDArray[np.uint8]
    floats: NDArray[np.float32]
    slab_start: NDArray[np.uint64]
    slab_row_bytes: NDArray[np.uint32]
    slab_store: NDArray[np.uint32]
    stores: NDArray[np.uint64]
    columns: NDArray[np.uint16]
    shared: NDArray[np.float32]
    plain: bool


@kernel
def _fetch_far_ahead(
    handle: np.uint32,
    floats: NDArray[np.float32],
    slab_start: NDArray[np.uint64],
    slab_row_bytes: NDArray[np.uint32],
) -> None:
    """Begins to load a row's first and last line; of a long row the others follow by themselves."""
    slab = slab_of(handle)
    row_bytes = np.uint64(slab_row_bytes[slab])
    start = slab_start[slab] + row_of(handle) * row_bytes
    prefetch_row(floats, start >> _TWO, _ONE)
    prefetch_row(floats, (start + row_bytes - _ONE) >> _TWO, _ONE)


@kernel
def _add_narrow_row(
    columns: NDArray[np.uint16],
    width: np.uint64,
    decoded: NDArray[np.float32],
    flat: NDArray[np.float32],
    to: np.uint64,
) -> None:
    for place in range(width):
        flat[to + np.uint64(columns[place])] += decoded[place]


@kernel
def _copy_plain_rows(
    floats: NDArray[np.float32],
    slab_start: NDArray[np.uint64],
    handles: NDArray[np.uint32],
    first: np.uint64,
    count: np.uint64,
    flat: NDArray[np.float32],
    dim: np.uint64,
) -> None:
    """Pooling of bags with one member each where all rows are fp32 of D columns: one look at a slab tells all."""
    for place in range(count):
        if place + PREFETCH_AHEAD < count and handles[first + place + PREFETCH_AHEAD] != ABSENT:
            ahead = handles[first + place + PREFETCH_AHEAD]
            prefetch(floats, (slab_start[slab_of(ahead)] >> _TWO) + row_of(ahead) * dim)
        handle = handles[first + place]
        if handle == ABSENT:
            fill_row(flat, place * dim, dim, _ZERO)
        else:
            copy_row(flat, place * dim, floats, (slab_start[slab_of(handle)] >> _TWO) + row_of(handle) * dim, dim)


@kernel
def _place_rows(
    views: PackedViews,
    handles: NDArray[np.uint32],
    first: np.uint64,
    count: np.uint64,
    flat: NDArray[np.float32],
    dim: np.uint64,
) -> None:
    """Pooling of bags with one member each."""
    memory, floats, slab_start, slab_store = views.memory, views.floats, views.slab_start, views.slab_store
    slab_row_bytes, stores, all_columns, shared = views.slab_row_bytes, views.stores, views.columns, views.shared
    decoded = np.empty(dim, np.float32)
    store, plain = _NONE, False
    bits, width, code_bytes, form, entry, row_bytes = _NO, _NO, _NO, _NO, _NO, _NO  # of the row before
    for place in range(count):
        if place + PREFETCH_AHEAD < count and handles[first + place + PREFETCH_AHEAD] != ABSENT:
            ahead = handles[first + place + PREFETCH_AHEAD]
            size = np.uint64(slab_row_bytes[slab_of(ahead)])
            start = slab_start[slab_of(ahead)] + row_of(ahead) * size
            prefetch(memory, start)
            prefetch(memory, start + size - _ONE)
        handle = handles[first + place]
        to = place * dim
        if handle == ABSENT:
            fill_row(flat, to, dim, _ZERO)
            continue
        slab = slab_of(handle)
        if slab_store[slab] != store:  # seldom in long runs: a slot's rows are most often of one tier
            store = slab_store[slab]
            notes = np.uint64(store)
            bits, width, code_bytes = stores[notes, BITS], stores[notes, WIDTH], stores[notes, CODE_BYTES]
            form, entry, row_bytes = stores[notes, FORM], stores[notes, SHARED], stores[notes, ROW_BYTES]
            plain = bits == _FLOAT_BITS and width == dim
        start = slab_start[slab] + row_of(handle) * row_bytes
        if plain:
            copy_row(flat, to, floats, start >> _TWO, dim)
            continue
        scale, bias = _ZERO, _ZERO
        if bits <= _MOST_CODE_BITS and width:
            scale, bias = range_at(memory, start + code_bytes, form, shared, entry)
        if width == dim:
            set_unpacked(flat, to, memory, start, dim, bits, scale, bias)
        else:
            fill_row(flat, to, dim, _ZERO)
            set_unpacked(decoded, _NO, memory, start, width, bits, scale, bias)
            _add_narrow_row(all_columns[np.uint64(store)], width, decoded, flat, to)


@kernel
def _pool_rows(
    views: PackedViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    lo_bag: int,
    hi_bag: int,
    flat: NDArray[np.float32],
    dim: np.uint64,
) -> None:
    memory, floats, slab_start, slab_store = views.memory, views.floats, views.slab_start, views.slab_store
    slab_row_bytes, stores, all_columns, shared = views.slab_row_bytes, views.stores, views.columns, views.shared
    decoded, plain_starts = np.empty(dim, np.float32), np.empty(_LISTED_AT_ONCE, np.uint64)
    end = np.uint64(offsets[hi_bag])
    store, plain = _NONE, False
    bits, width, code_bytes, form, entry, row_bytes = _NO, _NO, _NO, _NO, _NO, _NO  # of the row before
    for bag in range(lo_bag, hi_bag):
        to = np.uint64(bag - lo_bag) * dim
        fill_row(flat, to, dim, _ZERO)
        listed = _NO
        for lookup in range(np.uint64(offsets[bag]), np.uint64(offsets[bag + 1])):
            if lookup + _ROWS_AHEAD < end and handles[lookup + _ROWS_AHEAD] != ABSENT:
                _fetch_far_ahead(handles[lookup + _ROWS_AHEAD], floats, slab_start, slab_row_bytes)
            handle = handles[lookup]
            if handle == ABSENT:
                continue
            slab = slab_of(handle)
            if slab_store[slab] != store:
                store = slab_store[slab]
                notes = np.uint64(store)
                bits, width, code_bytes = stores[notes, BITS], stores[notes, WIDTH], stores[notes, CODE_BYTES]
                form, entry, row_bytes = stores[notes, FORM], stores[notes, SHARED], stores[notes, ROW_BYTES]
                plain = bits == _FLOAT_BITS and width == dim
            start = slab_start[slab] + row_of(handle) * row_bytes
            if plain and listed < _LISTED_AT_ONCE:
                plain_starts[listed] = start >> _TWO
                listed += _ONE
                continue
            if listed:
                add_rows(flat, to, dim, floats, plain_starts, _NO, listed)
                listed = _NO
            if plain:
                plain_starts[_NO] = start >> _TWO
                listed = _ONE
                continue
            scale, bias = _ZERO, _ZERO
            if bits <= _MOST_CODE_BITS and width:
                scale, bias = range_at(memory, start + code_bytes, form, shared, entry)
            if width == dim:
                add_unpacked(flat, to, memory, start, dim, bits, scale, bias)
            else:
                set_unpacked(decoded, _NO, memory, start, width, bits, scale, bias)
                _add_narrow_row(all_columns[np.uint64(store)], width, decoded, flat, to)
        add_rows(flat, to, dim, floats, plain_starts, _NO, listed)
        members = offsets[bag + 1] - offsets[bag]
        if members > 1 and pooling[bag % pooling.size] == POOL_MEAN:
            share = np.float32(1) / np.float32(members)
            for column in range(dim):
                flat[to + column] *= share


@kernel
def pool_packed_bags(
    views: PackedViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    lo_bag: int,
    hi_bag: int,
    out: NDArray[np.float32],
) -> None:
    """Pools the rows of bags lo_bag .. hi_bag into `out`, as `bag_kernels.gather_bags` does for float32 rows.

    Args:
        views: of the stores.
        handles: u32 (L,), ABSENT counts as a row of zeros.
        offsets: i64 (B*F + 1,).
        pooling: i8 (F,), 0 sum, 1 mean.
        lo_bag: first bag.
        hi_bag: behind the last bag.
        out: f32 (hi_bag - lo_bag, D), C order, overwritten.
    """
    flat = out.reshape(-1)
    dim = np.uint64(out.shape[1])
    if one_member_each(offsets, lo_bag, hi_bag):
        first, count = np.uint64(offsets[lo_bag]), np.uint64(hi_bag - lo_bag)
        if views.plain:
            _copy_plain_rows(views.floats, views.slab_start, handles, first, count, flat, dim)
        else:
            _place_rows(views, handles, first, count, flat, dim)
    else:
        _pool_rows(views, handles, offsets, pooling, lo_bag, hi_bag, flat, dim)


def is_plain(codec: RowCodec, width: int, dim: int) -> bool:
    """Whether rows are float32 of all D columns, so that reading one is copying it."""
    return codec.bits == _FLOAT_BITS and width == dim


def notes_of(codec: RowCodec, width: int, shared_at: int) -> NDArray[np.uint64]:
    """What `PackedViews.stores` says of a store of rows of `width` columns: u64 (8,)."""
    notes = np.zeros(STORE_NOTES, np.uint64)
    notes[:6] = codec.bits, codec.form, width, codec.bytes_per_row(width), (codec.bits * width + 7) // 8, shared_at
    return notes


def views_of(
    blocks: Sequence[tuple[PackedRows, NDArray[np.uint16]]], dim: int
) -> tuple[PackedViews, list[NDArray[np.uint32]]]:
    """Lays blocks out one after the other, each a store of its own.

    Args:
        blocks: rows and their active columns u16 (d,), ascending, below D.
        dim: D.

    Returns:
        views, and the handles u32 (n,) of each block's rows.

    Raises:
        BadPacking: columns that are not as many as a row is wide, out of order or range, or rows of an unknown codec.
    """
    stores = np.zeros((len(blocks), STORE_NOTES), np.uint64)
    columns = np.zeros((len(blocks), dim), np.uint16)
    starts, owners, memory, shared, handles = [], [], [], [np.zeros(1, np.float32)], []
    sizes = []
    byte, entries, slabs = 0, 1, 0
    for store, (packed, active) in enumerate(blocks):
        codec, rows = codec_named(packed.codec), packed.data.shape[0]
        row_bytes = codec.bytes_per_row(packed.width)
        wide = active.astype(np.int64)
        if packed.data.shape[1] != row_bytes or wide.size != packed.width or np.any(np.diff(wide) <= 0):
            message = f"block {store}: {packed.data.shape[1]} bytes a row and {wide.size} columns, width {packed.width}"
            raise BadPacking(message)
        if wide.size and wide[-1] >= dim:
            message = f"block {store} has column {wide[-1]}: expected below {dim}"
            raise BadPacking(message)
        stores[store] = notes_of(codec, packed.width, entries)
        columns[store, : wide.size] = active
        count = -(-rows // _ROWS)
        starts.append(byte + np.arange(count, dtype=np.uint64) * np.uint64(_ROWS * row_bytes))
        owners.append(np.full(count, store, np.uint32))
        sizes.append(np.full(count, row_bytes, np.uint32))
        numbers = np.arange(rows, dtype=np.uint32)
        handles.append(numbers + np.uint32(slabs << ROW_BITS))
        padding = -packed.data.nbytes % _LINE_BYTES
        memory += [packed.data.reshape(-1), np.zeros(padding, np.uint8)]
        shared.append(packed.shared)
        byte, entries, slabs = byte + packed.data.nbytes + padding, entries + packed.shared.size, slabs + count
    joined = _joined(memory)
    views = PackedViews(
        memory=joined,
        floats=joined.view(np.float32),
        slab_start=np.concatenate([np.zeros(0, np.uint64), *starts]),
        slab_row_bytes=np.concatenate([np.zeros(0, np.uint32), *sizes]),
        slab_store=np.concatenate([np.zeros(0, np.uint32), *owners]),
        stores=stores,
        columns=columns,
        shared=np.concatenate(shared),
        plain=all(is_plain(codec_named(packed.codec), active.size, dim) for packed, active in blocks),
    )
    return views, handles


def _joined(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The parts one after the other."""
    size = sum(part.size for part in parts) + _LINE_BYTES
    memory = np.frombuffer(reserved_memory(size), np.uint8, size)
    np.concatenate([*parts, np.zeros(_LINE_BYTES, np.uint8)], out=memory)
    return memory
