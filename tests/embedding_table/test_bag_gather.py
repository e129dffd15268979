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
    monkeypatch.setattr(bag_gather, "_PARALLEL_FLOATS", 0)
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
