"""Bags over several stores against the decoded rows, bit by bit."""

import numpy as np
import pytest

from embedding_table.errors import BadPacking
from embedding_table.hash_index import ABSENT
from embedding_table.packed_pooling import pool_packed_bags, views_of
from embedding_table.row_codecs import CODECS, PackedRows

NAMES = list(CODECS)


def _blocks(
    rng: np.random.Generator, dim: int, rows: int
) -> tuple[list[tuple[PackedRows, np.ndarray]], list[np.ndarray]]:
    """A block of every codec at full width and pruned, and each one's rows as they decode, at full width."""
    blocks, wide = [], []
    for name in NAMES:
        for width in (dim, int(rng.integers(0, dim + 1))):
            columns = np.sort(rng.permutation(dim)[:width]).astype(np.uint16)
            packed = CODECS[name].encode(rng.standard_normal((rows, width)).astype(np.float32))
            decoded = np.zeros((rows, dim), np.float32)
            decoded[:, columns] = CODECS[name].decode(packed)
            blocks.append((packed, columns))
            wide.append(decoded)
    return blocks, wide


def _pooled(rows: np.ndarray, offsets: np.ndarray, pooling: np.ndarray, lo: int, hi: int) -> np.ndarray:
    out = np.zeros((hi - lo, rows.shape[1]), np.float32)
    for bag in range(lo, hi):
        for row in rows[offsets[bag] : offsets[bag + 1]]:
            out[bag - lo] += row
        members = offsets[bag + 1] - offsets[bag]
        if pooling[bag % pooling.size] == 1 and members > 1:
            out[bag - lo] *= np.float32(1) / np.float32(members)
    return out


@pytest.mark.parametrize("longest", [1, 5, 150])
@pytest.mark.parametrize("dim", [1, 4, 16, 19, 32])
def test_bags_of_mixed_tiers(dim: int, longest: int) -> None:
    rng = np.random.default_rng(dim)
    blocks, wide = _blocks(rng, dim, 20)
    views, handles = views_of(blocks, dim)
    all_handles = np.append(np.concatenate(handles), ABSENT)
    all_rows = np.concatenate([*wide, np.zeros((1, dim), np.float32)])
    pooling = np.array([0, 1, 0], np.int8)
    sizes = rng.integers(0 if longest > 1 else 1, longest + 1, 60)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    chosen = rng.integers(0, all_handles.size, offsets[-1])

    for lo, hi in ((0, 60), (7, 30), (5, 5)):
        out = np.full((hi - lo, dim), np.nan, np.float32)
        pool_packed_bags(views, all_handles[chosen], offsets, pooling, lo, hi, out)
        np.testing.assert_array_equal(out, _pooled(all_rows[chosen], offsets, pooling, lo, hi))


@pytest.mark.parametrize("mixed", [False, True])
def test_bags_longer_than_what_is_added_at_once(mixed: bool) -> None:
    rng = np.random.default_rng(1)
    columns = np.arange(16, dtype=np.uint16)
    packed = [
        CODECS[name].encode(rng.standard_normal((900, 16)).astype(np.float32)) for name in ("fp32", "int8_minmax")
    ]
    views, handles = views_of([(part, columns) for part in packed], 16)
    rows = np.concatenate([CODECS[part.codec].decode(part) for part in packed])
    chosen = rng.permutation(1800 if mixed else 900)
    offsets = np.array([0, 256, 513, 520, chosen.size])
    out = np.empty((4, 16), np.float32)
    pool_packed_bags(views, np.concatenate(handles)[chosen], offsets, np.ones(1, np.int8), 0, 4, out)
    np.testing.assert_array_equal(out, _pooled(rows[chosen], offsets, np.ones(1, np.int8), 0, 4))


def test_plain_rows_are_copied_whatever_lies_between_them() -> None:
    rng = np.random.default_rng(2)
    packed = [CODECS["fp32"].encode(rng.standard_normal((5000, 7)).astype(np.float32)) for _ in range(2)]
    views, handles = views_of([(part, np.arange(7, dtype=np.uint16)) for part in packed], 7)
    assert views.plain
    rows = np.concatenate([*(CODECS["fp32"].decode(part) for part in packed), np.zeros((1, 7), np.float32)])
    chosen = rng.integers(0, 10_001, 3000)
    out = np.full((2000, 7), np.nan, np.float32)
    some = np.append(np.concatenate(handles), np.uint32(ABSENT))[chosen]
    pool_packed_bags(views, some, np.arange(3001), np.ones(3, np.int8), 500, 2500, out)
    np.testing.assert_array_equal(out, rows[chosen[500:2500]])


def test_a_store_of_several_slabs() -> None:
    rows = np.random.default_rng(0).standard_normal((9000, 3)).astype(np.float32)
    packed = CODECS["int8_minmax"].encode(rows)
    columns = np.arange(3, dtype=np.uint16)
    views, (_, handles) = views_of([(packed, columns), (packed, columns)], 3)
    assert handles[-1] == (5 << 12) + 9000 - 2 * 4096 - 1
    out = np.empty((9000, 3), np.float32)
    pool_packed_bags(views, handles, np.arange(9001), np.zeros(1, np.int8), 0, 9000, out)
    np.testing.assert_array_equal(out, CODECS["int8_minmax"].decode(packed))


def test_blocks_that_do_not_fit_are_refused() -> None:
    packed = CODECS["int4_minmax"].encode(np.ones((2, 3), np.float32))
    for columns in ([0, 1], [0, 2, 1], [0, 1, 4]):
        with pytest.raises(BadPacking):
            views_of([(packed, np.array(columns, np.uint16))], 4)
    with pytest.raises(BadPacking):
        views_of([(PackedRows("int8_minmax", 3, packed.data, packed.shared), np.arange(3, dtype=np.uint16))], 4)


def test_no_blocks() -> None:
    views, handles = views_of([], 4)
    out = np.ones((2, 4), np.float32)
    pool_packed_bags(views, np.full(2, ABSENT, np.uint32), np.arange(3), np.zeros(1, np.int8), 0, 2, out)
    assert handles == []
    assert (out == 0).all()
