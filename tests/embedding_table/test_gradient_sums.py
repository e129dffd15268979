"""Sums by row against a dict, and the short way for bags of one against the general one."""

from collections.abc import Callable

import numpy as np
import pytest

from embedding_table.gradient_sums import sum_of_bags, sum_of_single_lookups
from embedding_table.row_layout import ACCUMULATOR, TRAINED_STATE_WORDS, state_offset
from embedding_table.table import ABSENT, EmbeddingTable
from embedding_table.update_scratch import UpdateScratch, new_scratch


def _table(twins: Callable, rng: np.random.Generator, dim: int) -> tuple[EmbeddingTable, np.ndarray]:
    table, _ = twins(2, dim)
    ids = np.arange(1, 61, dtype=np.uint64)
    handles = table.insert(ids, np.zeros(60, np.int32), 0)
    rows = table.all_rows()
    rows.blocks[0].accumulators[:] = rng.integers(0, 4, rows.blocks[0].ids.size).astype(np.float32)
    table.restore_rows(rows)
    return table, np.append(handles, ABSENT)


def _sums(scratch: UpdateScratch, rows: int, dim: int) -> dict[int, tuple[int, np.ndarray]]:
    totals = scratch.gradient[: rows * dim].reshape(rows, dim)
    return {
        int(handle): (int(lookups), total)
        for handle, lookups, total in zip(scratch.row[:rows], scratch.lookups[:rows], totals, strict=True)
    }


@pytest.mark.parametrize("pooling", [[0, 0], [1, 0], [1, 1]])
@pytest.mark.parametrize("dim", [1, 16, 19])
def test_sums_by_row(twins: Callable, dim: int, pooling: list[int]) -> None:
    rng = np.random.default_rng(dim)
    table, handles = _table(twins, rng, dim)
    sizes = rng.integers(0, 5, 40)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    lookups = handles[rng.integers(0, handles.size, offsets[-1])]
    lo, hi = 5, 33
    grad = rng.standard_normal((hi - lo, dim)).astype(np.float32)
    words = np.array([state_offset(handle, TRAINED_STATE_WORDS) for handle in handles[:-1]], np.int64)
    words += int(ACCUMULATOR)
    before = dict(zip(handles[:-1].tolist(), table.views().values[words].tolist(), strict=True))
    scratch = new_scratch(lookups.size, dim)
    codes = np.array(pooling, np.int8)
    rows = int(
        sum_of_bags(
            table.views(),
            lookups,
            offsets,
            codes,
            np.uint64(lo),
            np.uint64(hi),
            grad.reshape(-1),
            np.uint64(dim),
            scratch,
        )
    )
    expected: dict[int, tuple[int, np.ndarray]] = {}
    for bag in range(lo, hi):
        members = lookups[offsets[bag] : offsets[bag + 1]].tolist()
        share = 1 / len(members) if members and pooling[bag % 2] else 1.0
        for handle in members:
            if handle != ABSENT:
                count, total = expected.get(handle, (0, np.zeros(dim)))
                expected[handle] = count + 1, total + share * grad[bag - lo].astype(np.float64)
    found = _sums(scratch, rows, dim)
    assert list(found) == list(expected)  # numbered as they first appear
    for handle, (count, total) in expected.items():
        assert found[handle][0] == count
        np.testing.assert_allclose(found[handle][1], total, rtol=1e-4, atol=1e-5)
    assert scratch.accumulator[:rows].tolist() == [before[handle] for handle in found]


def test_bags_of_one_take_the_short_way_to_the_same_sums(twins: Callable) -> None:
    results = []
    for way in ("short", "general"):
        table, handles = _table(twins, np.random.default_rng(6), 16)
        lookups = np.append(handles[:3], handles[np.random.default_rng(7).integers(0, handles.size, 200)])
        grad = np.random.default_rng(8).standard_normal(200 * 16).astype(np.float32)
        scratch = new_scratch(200, 16)
        if way == "short":
            rows = sum_of_single_lookups(
                table.views(), lookups, np.uint64(3), np.uint64(200), grad, np.uint64(16), scratch
            )
        else:
            rows = sum_of_bags(
                table.views(),
                lookups,
                np.arange(3, 204, dtype=np.int64),
                np.ones(2, np.int8),
                np.uint64(0),
                np.uint64(200),
                grad,
                np.uint64(16),
                scratch,
            )
        results.append(_sums(scratch, int(rows), 16))
    assert list(results[0]) == list(results[1])
    for handle, (count, total) in results[0].items():
        assert results[1][handle][0] == count
        np.testing.assert_array_equal(results[1][handle][1], total)
