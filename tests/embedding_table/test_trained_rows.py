"""First values by their definition, statistics and decay."""

from collections.abc import Callable

import numpy as np

from embedding_table.table import EmbeddingTable


def test_first_values_depend_on_seed_id_and_column_alone(twins: Callable) -> None:
    ids = np.array([3, 2**64 - 1, 17, 2**40], np.uint64)
    slots = np.zeros(4, np.int32)
    narrow = np.array([1, 4, 6], np.uint16)
    one, plain = twins(2, 8)
    other, _ = twins(2, 8, columns=[narrow, narrow])
    one.insert(ids, slots, 0)
    for k in (3, 1, 0, 2):
        other.insert(ids[k : k + 1], slots[:1], 9)
    by_id = {int(i): values for i, values in zip(*_first_block(one), strict=True)}
    for feature_id, values in zip(*_first_block(other), strict=True):
        np.testing.assert_array_equal(values, by_id[int(feature_id)][narrow])
    for feature_id in ids.tolist():
        plain.insert(feature_id, 0, 0)
        np.testing.assert_array_equal(by_id[feature_id], plain.rows[feature_id].values.astype(np.float32))


def test_first_values_fill_their_range() -> None:
    table = EmbeddingTable(1, 16, 32 << 20, 5, 0.25, 0.0, np.array([1], np.uint64))
    table.insert(np.arange(2, 20_002, dtype=np.uint64), np.zeros(20_000, np.int32), 0)
    values = _first_block(table)[1].astype(np.float64)
    assert -0.25 <= values.min() < -0.2499
    assert 0.2499 < values.max() < 0.25
    deviation = 0.5 / np.sqrt(12)
    assert abs(values.mean()) < 4 * deviation / np.sqrt(values.size)
    assert abs(values.std() - deviation) < 0.001
    correlation = np.corrcoef(values.T) - np.eye(16)
    assert np.abs(correlation).max() < 0.05


def test_counts_decay_in_float32_and_mark_nothing(twins: Callable) -> None:
    table, plain = twins(2, 4)
    ids = np.array([10, 11, 12], np.uint64)
    slots = np.array([0, 1, 0], np.int32)
    handles = table.insert(ids, slots, 3)
    offsets, pooling = np.arange(7, dtype=np.int64), np.zeros(2, np.int8)
    lookups = handles[[0, 1, 0, 1, 2, 1]]
    table.update(lookups, offsets, pooling, np.ones((3, 2, 4), np.float32), 0.1, 1e-6, 50)
    table.take_changes()
    table.decay_counts(0.3)
    table.decay_counts(0.3)
    rows = table.live_rows()
    by_handle = {int(h): (int(s), c, int(t)) for h, s, c, t in zip(*_fields(rows), strict=True)}
    factor = np.float32(0.3)
    expected = [np.float32(n) * factor * factor for n in (2, 3, 1)]
    assert [by_handle[int(h)] for h in handles] == [(0, expected[0], 50), (1, expected[1], 50), (0, expected[2], 50)]
    assert table.take_changes().rows == 0
    assert len(by_handle) == 3
    assert plain.slots == 2


def _fields(rows: object) -> tuple[np.ndarray, ...]:
    return tuple(getattr(rows, name) for name in ("handles", "slots", "counts", "last_seen_s"))


def _first_block(table: EmbeddingTable) -> tuple[np.ndarray, np.ndarray]:
    block = table.all_rows().blocks[0]
    return block.ids, block.values
