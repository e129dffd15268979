"""From ids to handles: who gets a row, who reads the missing row, who is counted."""

import numpy as np
import pytest

from embedding_table.table import EmbeddingTable
from feature_admission.always_admit import AlwaysAdmit
from feature_admission.count_min import CountMinAdmission
from model_contract.samples import SampleBatch
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot
from stream_trainer.preparation import Preparation

SCHEMA = ModelSchema("m", (SparseSlot("user"), SparseSlot("tags", pooling="mean", multi=True)), dim=4, top=(3,))


def table(budget_bytes: int = 4 << 20) -> EmbeddingTable:
    return EmbeddingTable(2, 4, budget_bytes, 0, 0.1, 0.1, SCHEMA.missing_ids)


def batch(bags: list[list[int]], dense: np.ndarray | None = None) -> SampleBatch:
    """Bags in sample-major order, two a sample."""
    rows = len(bags) // 2
    return SampleBatch(
        labels=np.zeros(rows, np.float32),
        weights=np.ones(rows, np.float32),
        ts_ms=np.zeros(rows, np.int64),
        dense=np.empty((rows, 0), np.float32) if dense is None else dense,
        ids=np.array([i for bag in bags for i in bag], np.uint64),
        offsets=np.cumsum([0] + [len(bag) for bag in bags]),
    )


@pytest.mark.parametrize("seed", range(10))
def test_handles_are_those_of_a_plain_dictionary(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = table()
    policy = CountMinAdmission(3, 1 << 16, seed=seed)
    preparation = Preparation(rows, SCHEMA, policy)
    seen: dict[int, int] = {}
    for _ in range(20):
        users = [[int(generator.integers(1, 30))] for _ in range(8)]
        tags = [[int(i) for i in generator.integers(1000, 1020, generator.integers(1, 4))] for _ in range(8)]
        bags = [bag for pair in zip(users, tags, strict=True) for bag in pair]
        found = preparation.prepare(batch(bags), 7)
        has_row = {i for i, n in seen.items() if n >= 3}
        for bag in bags:
            for i in bag:
                seen[i] = seen.get(i, 0) + (i not in has_row)
        for number, (bag, lo, hi) in enumerate(zip(bags, found.offsets[:-1], found.offsets[1:], strict=True)):
            for i, handle in zip(bag, found.handles[lo:hi], strict=True):
                expected = rows.find(np.array([i], np.uint64))[0] if seen[i] >= 3 else rows.missing_handles[number % 2]
                assert handle == expected, f"seed {seed}, id {i} seen {seen[i]} times"


def test_ids_with_a_row_are_not_counted_again() -> None:
    class Recording(AlwaysAdmit):
        def __init__(self) -> None:
            super().__init__()
            self.observed: list[tuple[list[int], list[int]]] = []

        def observe(self, ids, counts=None, now_s=None) -> None:
            self.observed.append((ids.tolist(), counts.tolist()))
            super().observe(ids, counts, now_s)

    policy = Recording()
    preparation = Preparation(table(), SCHEMA, policy)
    preparation.prepare(batch([[5], [6, 6, 7], [5], [8]]), 1)
    preparation.prepare(batch([[5], [6, 9]]), 2)

    assert policy.observed == [([5, 6, 7, 8], [2, 2, 1, 1]), ([9], [1])]


def test_a_full_table_sends_new_ids_to_their_slots_missing_row() -> None:
    rows = table(budget_bytes=400_000)
    preparation = Preparation(rows, SCHEMA, AlwaysAdmit())
    ids = np.arange(1, 60_001, dtype=np.uint64)
    found = preparation.prepare(batch([bag for i in ids.tolist() for bag in ([i], [100_000 + i])]), 1)

    users, tags = found.handles[0::2], found.handles[1::2]
    assert rows.bytes_used <= rows.budget_bytes
    assert np.array_equal(users == rows.missing_handles[0], rows.find(ids) == 0xFFFFFFFF)
    assert (tags == rows.missing_handles[1]).sum() > 0
    assert not np.isin(found.handles, [0xFFFFFFFF]).any()
    assert preparation.refused == np.isin(found.handles, rows.missing_handles).sum()


def test_missing_values_use_the_missing_row_and_are_never_observed() -> None:
    rows = table()
    user, tags = (int(i) for i in SCHEMA.missing_ids)
    found = Preparation(rows, SCHEMA, AlwaysAdmit()).prepare(batch([[user], [tags]]), 1)

    assert found.handles.tolist() == rows.missing_handles.tolist()
    assert rows.rows == 2


def test_dense_features_are_standardised_by_what_came_so_far() -> None:
    schema = ModelSchema("m", SCHEMA.sparse, (DenseFeature("x", "standardise"), DenseFeature("y", "log1p")), dim=4)
    preparation = Preparation(table(), schema, AlwaysAdmit())
    raw = np.array([[1, 0], [3, np.nan], [np.nan, -(np.e - 1)]], np.float32)

    found = preparation.prepare(batch([[1], [2]] * 3, raw), 1)

    assert np.allclose(found.dense, [[-1, 0], [1, 0], [0, -1]], atol=1e-6)
