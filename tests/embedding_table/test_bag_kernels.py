"""Pooling and training on ranges of bags, as a step calls them, against the plain table."""

from collections.abc import Callable

import numpy as np
import pytest

from embedding_table.bag_kernels import POOLED_AT_ONCE, gather_bags, new_scratch, update_bags
from embedding_table.hash_index import ABSENT

_POOLINGS = [np.array([0, 0, 0], np.int8), np.array([1, 0, 1], np.int8), np.array([1, 1, 1], np.int8)]


def _columns(rng: np.random.Generator, dim: int, pruned: bool) -> list[np.ndarray]:
    if not pruned:
        return [np.arange(dim, dtype=np.uint16)] * 3
    widths = [0, int(rng.integers(1, dim + 1)), dim]
    return [np.sort(rng.permutation(dim)[:width]).astype(np.uint16) for width in widths]


@pytest.mark.parametrize("pooling", _POOLINGS)
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("dim", [1, 3, 8, 16, 20, 64])
def test_micro_batches_equal_the_plain_table(
    twins: Callable, random_bags: Callable, dim: int, pruned: bool, pooling: np.ndarray
) -> None:
    rng = np.random.default_rng(dim)
    table, plain = twins(3, dim, columns=_columns(rng, dim, pruned))
    ids = np.setdiff1d(np.arange(1, 100, dtype=np.uint64), np.arange(0, 100, 7))
    slots = (ids % 3).astype(np.int32)
    table.insert(ids, slots, 5)
    for feature_id, slot in zip(ids.tolist(), slots.tolist(), strict=True):
        plain.insert(feature_id, slot, 5)
    positions, offsets = random_bags(rng, 3 * 40, 110)
    lookups = (positions + 1).astype(np.uint64)  # every seventh has no row
    handles = table.find(lookups)
    assert (handles == ABSENT).any()
    views = table.views()
    scratch = new_scratch(lookups.size, dim)
    for lo in range(0, 120, 30):
        hi = lo + 30
        out = np.full((30, dim), np.nan, np.float32)
        gather_bags(views, handles, offsets, pooling, lo, hi, out)
        window = np.clip(offsets, offsets[lo], offsets[hi])[lo : hi + 1]
        expected = plain.gather(lookups, window, pooling).reshape(30, dim)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
        grad = rng.standard_normal((30, dim)).astype(np.float32)
        update_bags(views, handles, offsets, pooling, lo, hi, grad, 0.1, 1e-6, 9 + lo, scratch)
        plain.update(lookups, window, pooling, grad, 0.1, 1e-6, 9 + lo)
    plain.assert_same(table.all_rows(), set(plain.rows))


def test_a_pruned_row_computes_what_a_masked_one_does(twins: Callable) -> None:
    """Forward and backward bit by bit: a row of full width with zeros in the pruned columns, and no gradient there."""
    columns = np.array([0, 3, 4, 9, 15], np.uint16)
    narrow, _ = twins(1, 16, columns=[columns])
    masked, _ = twins(1, 16)
    ids = np.arange(1, 50, dtype=np.uint64)
    slots = np.zeros(49, np.int32)
    rng = np.random.default_rng(0)
    pooling, offsets = np.zeros(1, np.int8), np.arange(50, dtype=np.int64)
    results = []
    for table in (narrow, masked):
        handles = table.insert(ids, slots, 0)
        out = np.empty((49, 16), np.float32)
        gather_bags(table.views(), handles, offsets, pooling, 0, 49, out)
        results.append(out)
    mask = np.isin(np.arange(16), columns)
    np.testing.assert_array_equal(results[0], np.where(mask, results[1], 0))
    grad = rng.standard_normal((49, 16)).astype(np.float32)
    update_bags(narrow.views(), narrow.find(ids), offsets, pooling, 0, 49, grad, 0.1, 1e-6, 1, new_scratch(49, 16))
    before = results[0][:, mask]
    gather_bags(narrow.views(), narrow.find(ids), offsets, pooling, 0, 49, results[0])
    step = 0.1 / (np.sqrt(0.1 + (grad[:, mask].astype(np.float64) ** 2).mean(axis=1)) + 1e-6)
    np.testing.assert_allclose(results[0][:, mask], before - step[:, None] * grad[:, mask], rtol=1e-5, atol=1e-6)
    assert (results[0][:, ~mask] == 0).all()


def test_a_row_number_left_by_chance_is_not_believed(twins: Callable) -> None:
    """An accumulator of 0 holds the same bits as row number 0."""
    table, plain = twins(1, 4)
    ids = np.array([5, 6, 7], np.uint64)
    handles = table.insert(ids, np.zeros(3, np.int32), 0)
    rows = table.all_rows()
    rows.blocks[0].accumulators[:] = 0
    table.restore_rows(rows)
    for feature_id in ids.tolist():
        plain.insert(feature_id, 0, 0)
    for row in plain.rows.values():
        row.accumulator = 0.0
    lookups = np.array([7, 5, 7, 6, 5], np.uint64)
    offsets, pooling = np.arange(6, dtype=np.int64), np.zeros(1, np.int8)
    grad = np.arange(20, dtype=np.float32).reshape(5, 4)
    update_bags(table.views(), table.find(lookups), offsets, pooling, 0, 5, grad, 0.1, 1e-6, 1, new_scratch(5, 4))
    plain.update(lookups, offsets, pooling, grad, 0.1, 1e-6, 1)
    plain.assert_same(table.all_rows(), set(plain.rows))
    assert handles.size == 3


def test_rows_of_a_bag_are_added_in_their_order_whatever_their_widths(twins: Callable) -> None:
    """Bit by bit the sum from left to right, wide rows and narrow ones in turn; alone, a row keeps a -0.0."""
    table, _ = twins(1, 8, bands=2, columns=[np.arange(8, dtype=np.uint16), np.array([1, 2, 5], np.uint16)])
    ids = np.arange(2, 302, dtype=np.uint64)
    table.insert(ids, np.zeros(300, np.int32), 0)
    rows = table.all_rows()
    rows.blocks[0].values[:] *= np.float32(10) ** np.random.default_rng(0).integers(-6, 7, rows.blocks[0].values.shape)
    rows.blocks[0].values[5:11] = -0.0
    table.restore_rows(rows)
    table.move_rows(table.find(ids[::3]), np.ones(100, np.int32))
    rng = np.random.default_rng(1)
    pooling, alone = np.zeros(1, np.int8), np.empty((300, 1, 8), np.float32)
    table.gather(table.find(ids), np.arange(301), pooling, alone)
    zeros = np.flatnonzero(alone[:, 0, 1] == 0)
    assert np.signbit(alone[zeros, 0, 1]).all()
    assert 0 < np.count_nonzero(zeros % 3 == 0) < zeros.size == 6  # narrow ones and wide ones
    chosen = rng.integers(0, 300, 400)
    offsets = np.array([0, 7, 11, 400])
    out = np.empty((3, 1, 8), np.float32)
    table.gather(table.find(ids[chosen]), offsets, pooling, out)
    for bag in range(3):
        total = np.zeros(8, np.float32)
        for k in range(offsets[bag], offsets[bag + 1]):
            total += alone[chosen[k], 0]
        np.testing.assert_array_equal(out[bag, 0], total)


@pytest.mark.parametrize("lengths", [[0, 1], [0, 512, 0, 1, 511, 0], [511, 2, 0, 3000], [513, 512], [1100, 0]])
@pytest.mark.parametrize("kind", ["full", "narrow", "mixed", "absent"])
def test_bags_may_end_anywhere_in_a_list_of_rows(twins: Callable, kind: str, lengths: list[int]) -> None:
    """Borders of bags before, at and behind those of the lists; lists of full rows alone and others."""
    assert POOLED_AT_ONCE == 512
    rng = np.random.default_rng(len(lengths))
    few = np.arange(0, 20, 3, dtype=np.uint16)
    columns = {"full": np.arange(20, dtype=np.uint16), "narrow": few}.get(kind, few)
    table, plain = twins(2, 20, columns=[columns, np.arange(20, dtype=np.uint16) if kind != "narrow" else few])
    ids = np.arange(1, 101, dtype=np.uint64)
    slots = (ids > 95).astype(np.int32) if kind == "absent" else (ids % 2).astype(np.int32)
    table.insert(ids, slots, 0)
    for feature_id, slot in zip(ids.tolist(), slots.tolist(), strict=True):
        plain.insert(feature_id, slot, 0)
    most = 130 if kind == "absent" else 101
    lookups = rng.integers(1, most, sum(lengths)).astype(np.uint64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    handles, pooling = table.find(lookups), np.array([1, 0], np.int8)
    out = np.full((len(lengths), 20), np.nan, np.float32)
    gather_bags(table.views(), handles, offsets, pooling, 0, len(lengths), out)
    expected = plain.gather(lookups, offsets, pooling).reshape(out.shape)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    for bag in range(len(lengths)):  # bit by bit what a bag is by itself, wherever the lists are cut
        alone = np.empty((1, 20), np.float32)
        gather_bags(table.views(), handles, offsets, pooling, bag, bag + 1, alone)
        np.testing.assert_array_equal(alone[0], out[bag])
