"""Rows of one block packed by several codecs: each row by the one it was given or, where that cannot hold it, a wider.

    coded or block scales -> the same bits with a scale and bias of its own -> fp16 -> fp32

Coded scales also give way where the rows are too few to pay for the 2 KiB of their codebooks: the changed rows of a
second often are, and most of an increment would be codebooks.

Knows rows of one width; who chose the codecs, and by what, is up to the caller. Invariants: every row is packed once;
the same rows and choices give the same bytes; NaN and infinity are refused with the id named.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadPacking
from embedding_table.packed_words import CODED, HALF
from embedding_table.row_codecs import CODECS, PackedRows, RowCodec

__all__ = ["PackedPart", "TierPart", "pack_in_tiers", "wider_codec"]

TierPart: TypeAlias = tuple[NDArray[np.int64], RowCodec, NDArray[np.float32] | None]
"""Numbers of rows, the codec they are to have, and what they share (None: learned from them, where they share)."""

_Key: TypeAlias = tuple[int, str, bytes | None]  # step of the fall back, codec, bytes of what is shared


class PackedPart(NamedTuple):
    """Rows of one codec with the same shared values.

    Attributes:
        rows: i64 (n,), their numbers, ascending.
        packed: n rows.
    """

    rows: NDArray[np.int64]
    packed: PackedRows


def wider_codec(codec: RowCodec) -> RowCodec | None:
    """What takes rows that do not fit this codec; None for fp32, which holds every finite row."""
    if codec.bits == 32:
        return None
    if codec.bits == 16:
        return CODECS["fp32"]
    if codec.form == HALF:
        return CODECS["fp16"]
    return CODECS[f"int{codec.bits}_{'greedy' if codec.greedy else 'minmax'}"]


def pack_in_tiers(
    values: NDArray[np.float32], ids: NDArray[np.uint64], parts: Sequence[TierPart], *, threads: int | None = None
) -> list[PackedPart]:
    """Packs rows by the codecs given for them.

    Args:
        values: f32 (n, d).
        ids: u64 (n,), to name a row that no codec holds.
        parts: which rows by which codec, every row once.
        threads: how many share the work, all cores if None.

    Returns:
        at most one part for each codec and shared values, none without a row, in an order of their own.

    Raises:
        UnfitValues: a row holds NaN or infinity.
        BadPacking: a row is in no part or in two, or shared values are not those of their codec.
    """
    _check_cover(values.shape[0], parts)
    if values.shape[1] == 0:  # rows without a value are the same in every codec
        parts = [(np.arange(values.shape[0]), CODECS["fp32"], None)]
    waiting: dict[_Key, list[NDArray[np.int64]]] = {}
    shared_of: dict[_Key, NDArray[np.float32] | None] = {}
    for rows, codec, shared in parts:
        key = _key(codec, shared)
        waiting.setdefault(key, []).append(rows)
        shared_of[key] = shared
    done: list[PackedPart] = []
    while waiting:
        key = min(waiting, key=lambda key: (key[0], key[1], key[2] or b""))  # what fills others comes before them
        codec, rows = CODECS[key[1]], np.sort(np.concatenate(waiting.pop(key)))
        if rows.size == 0:
            continue
        wider = wider_codec(codec)
        if codec.form == CODED and wider is not None and not _pays(codec, wider, values.shape[1], rows.size):
            waiting.setdefault(_key(wider, None), []).append(rows)
            continue
        chosen = values if rows.size == values.shape[0] else values[rows]
        if wider is None:
            done.append(PackedPart(rows, codec.encode(chosen, ids=ids[rows], threads=threads)))
            continue
        packed, fits = codec.encode_fitting(chosen, shared=shared_of.get(key), threads=threads)
        if not fits.all():
            waiting.setdefault(_key(wider, None), []).append(rows[~fits])
            rows, packed = rows[fits], PackedRows(codec.name, packed.width, packed.data[fits], packed.shared)
        if rows.size:
            done.append(PackedPart(rows, packed))
    return _joined(done)


def _pays(codec: RowCodec, wider: RowCodec, width: int, rows: int) -> bool:
    return rows * (wider.bytes_per_row(width) - codec.bytes_per_row(width)) > codec.shared_bytes


def _key(codec: RowCodec, shared: NDArray[np.float32] | None) -> _Key:
    steps = {32: 3, 16: 2}.get(codec.bits, 1 if codec.form == HALF else 0)
    return steps, codec.name, None if shared is None or shared.size == 0 else shared.tobytes()


def _joined(parts: list[PackedPart]) -> list[PackedPart]:
    """One part where what was learned for one is what was given for another."""
    alike: dict[tuple[str, bytes], list[PackedPart]] = {}
    for part in parts:
        alike.setdefault((part.packed.codec, part.packed.shared.tobytes()), []).append(part)
    joined = []
    for first, *others in alike.values():
        if not others:
            joined.append(first)
            continue
        rows = np.concatenate([first.rows, *(part.rows for part in others)])
        data = np.concatenate([first.packed.data, *(part.packed.data for part in others)])
        order = np.argsort(rows)
        packed = PackedRows(first.packed.codec, first.packed.width, data[order], first.packed.shared)
        joined.append(PackedPart(rows[order], packed))
    return joined


def _check_cover(rows: int, parts: Sequence[TierPart]) -> None:
    numbers = np.concatenate([np.zeros(0, np.int64), *(numbers for numbers, _, _ in parts)])
    inside = numbers[(numbers >= 0) & (numbers < rows)]
    if numbers.size != rows or inside.size != rows or np.any(np.bincount(inside, minlength=rows) != 1):
        message = f"{numbers.size} row numbers for {rows} rows: expected each row in one part"
        raise BadPacking(message)
