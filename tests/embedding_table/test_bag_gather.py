"""However many threads share a batch, the result is the same bit by bit."""

from collections.abc import Callable

import numpy as np
import pytest

from embedding_table import bag_gather
from embedding_table.bag_gather import gather_batch


@pytest.mark.parametrize("bags", [0, 1, 2, 3, 40])
def test_any_number_of_threads(
    twins: Callable, random_bags: Callable, monkeypatch: pytest.MonkeyPatch, bags: int
) -> None:
    monkeypatch.setattr(bag_gather, "_PARALLEL_FLOATS", 1)
    rng = np.random.default_rng(bags)
    table, plain = twins(1, 5)
    ids = np.arange(1, 31, dtype=np.uint64)
    table.insert(ids, np.zeros(30, np.int32), 0)
    for feature_id in ids.tolist():
        plain.insert(feature_id, 0, 0)
    positions, offsets = random_bags(rng, bags, 30, longest=20)
    lookups, pooling = (positions + 1).astype(np.uint64), np.ones(1, np.int8)
    expected = plain.gather(lookups, offsets, pooling).reshape(bags, 5)
    outs = []
    for threads in (1, 2, 3, 7):
        outs.append(np.full((bags, 5), np.nan, np.float32))
        gather_batch(table.views(), threads, table.find(lookups), offsets, pooling, outs[-1])
        np.testing.assert_array_equal(outs[-1], outs[0])
    np.testing.assert_allclose(outs[0], expected, rtol=1e-5, atol=1e-6)


def test_bags_of_more_members_than_are_added_at_once(twins: Callable) -> None:
    rng = np.random.default_rng(1)
    table, plain = twins(2, 20, columns=[np.arange(20, dtype=np.uint16), np.array([1, 7], np.uint16)])
    ids = np.arange(1, 31, dtype=np.uint64)
    slots = (ids % np.uint64(2)).astype(np.int32)
    table.insert(ids, slots, 0)
    for feature_id, slot in zip(ids.tolist(), slots.tolist(), strict=True):
        plain.insert(feature_id, slot, 0)
    offsets = np.array([0, 700, 1300, 1556, 1812], np.int64)
    lookups = rng.integers(1, 33, 1812).astype(np.uint64)
    out, pooling = np.empty((4, 20), np.float32), np.array([0, 1], np.int8)
    gather_batch(table.views(), 1, table.find(lookups), offsets, pooling, out)
    np.testing.assert_allclose(out, plain.gather(lookups, offsets, pooling).reshape(4, 20), rtol=1e-4, atol=1e-4)
