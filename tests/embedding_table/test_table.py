"""The table against a dict and numpy, over random interleavings of everything it can do."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.errors import BadLookups, BadRows, BudgetTooSmall, PinnedRow
from embedding_table.table import ABSENT, EmbeddingTable, TableChanges

_SLOTS, _DIM = 3, 12
_COLUMNS = [np.arange(12), np.array([0, 3, 4, 7, 11]), np.array([2])]
_POOLINGS = [np.zeros(3, np.int8), np.array([1, 0, 1], np.int8)]
_CALLS = st.lists(
    st.sampled_from(["insert", "grow", "update", "update", "erase", "compact", "decay", "cut", "cut", "restart"]),
    min_size=4,
    max_size=24,
)
_EMPTY = TableChanges((), np.empty(0, np.uint64))


def _same_rows(one: TableChanges, other: TableChanges) -> None:
    """Bit by bit, whatever the order."""
    assert [(b.slot, b.band) for b in one.blocks] == [(b.slot, b.band) for b in other.blocks]
    for a, b in zip(one.blocks, other.blocks, strict=True):
        orders = np.argsort(a.ids), np.argsort(b.ids)
        for name in ("ids", "values", "accumulators", "counts", "last_seen_s"):
            np.testing.assert_array_equal(getattr(a, name)[orders[0]], getattr(b, name)[orders[1]])


class _Interleaving:
    """One run: a table, its plain twin, and a shadow that is fed with the changes alone."""

    def __init__(self, twins: Callable, seed: int, pruned: bool, pooling: np.ndarray) -> None:
        columns = [c.astype(np.uint16) for c in _COLUMNS] if pruned else None
        self._new = lambda: twins(_SLOTS, _DIM, columns=columns)
        self.table, self.plain = self._new()
        self.shadow, _ = self._new()
        self.rng = np.random.default_rng(seed)
        self.pooling = pooling
        self.missing = set(self.plain.missing_ids.tolist())
        self.now_s = 1
        self.next_id = 1000
        self.exact_counts = True

    def insert(self, low: int = 1, count: int = 40) -> None:
        ids = self.rng.permutation(np.arange(low, low + 2 * count, dtype=np.uint64))[:count]
        slots = (ids % np.uint64(_SLOTS)).astype(np.int32)
        handles = self.table.insert(ids, slots, self.now_s)
        assert (handles != ABSENT).all()
        assert np.unique(handles).size == ids.size
        for feature_id, slot in zip(ids.tolist(), slots.tolist(), strict=True):
            self.plain.insert(feature_id, slot, self.now_s)

    def grow(self) -> None:
        self.insert(self.next_id, 700)
        self.next_id += 3000

    def update(self) -> None:
        sizes = self.rng.integers(0, 4, _SLOTS * 20)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        lookups = (self.rng.geometric(0.05, offsets[-1]) % 90).astype(np.uint64)
        lookups[lookups == 0] = self.plain.missing_ids[1]
        handles = self.table.find(lookups)
        known = np.array([feature_id in self.plain.rows for feature_id in lookups.tolist()], bool)
        np.testing.assert_array_equal(handles != ABSENT, known)
        out = np.full((20, _SLOTS, _DIM), np.nan, np.float32)
        self.table.gather(handles, offsets, self.pooling, out)
        expected = self.plain.gather(lookups, offsets, self.pooling)
        np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-5)
        grad = self.rng.standard_normal(out.shape).astype(np.float32)
        self.table.update(handles, offsets, self.pooling, grad, 0.05, 1e-6, self.now_s)
        self.plain.update(lookups, offsets, self.pooling, grad, 0.05, 1e-6, self.now_s)

    def erase(self) -> None:
        pool = np.array(sorted(self.plain.rows.keys() - self.missing), np.uint64)
        ids = self.rng.permutation(pool)[: int(self.rng.integers(0, pool.size // 2 + 2))]
        erased = self.table.erase(np.append(self.table.find(ids), ABSENT))
        assert sorted(erased.tolist()) == sorted(ids.tolist())
        for feature_id in ids.tolist():
            self.plain.erase(feature_id)

    def compact(self) -> None:
        self.table.compact(int(self.rng.integers(0, 1500)))

    def decay(self) -> None:
        self.table.decay_counts(0.5)
        self.plain.decay(0.5)
        self.exact_counts = False

    def cut(self) -> None:
        changes = self.table.take_changes()
        self.plain.assert_same(changes, self.plain.changed & self.plain.rows.keys())
        assert changes.erased_ids.tolist() == sorted(self.plain.erased - self.plain.rows.keys())
        self.plain.changed.clear()
        self.plain.erased.clear()
        for _ in range(int(self.rng.integers(1, 3))):  # twice is once
            self.shadow.restore_rows(changes)
        if self.exact_counts:
            _same_rows(self.shadow.all_rows(), self.table.all_rows())
        assert self.table.take_changes().rows == 0

    def restart(self) -> None:
        """A table restored from all rows goes on as if nothing had happened, but with nothing marked."""
        self.cut()
        rows = self.table.all_rows()
        self.table, _ = self._new()
        self.table.restore_rows(rows)
        self.table.take_changes()

    def check(self) -> None:
        everything = set(self.plain.rows)
        self.plain.assert_same(self.table.all_rows(), everything)
        assert self.table.rows == len(everything)
        live = self.table.live_rows()
        listed = np.array(sorted(everything), np.uint64)
        ids = dict(zip(self.table.find(listed).tolist(), listed.tolist(), strict=True))
        assert {ids[h] for h in live.handles.tolist()} == everything - self.missing
        for handle, slot, count in zip(live.handles.tolist(), live.slots.tolist(), live.counts.tolist(), strict=True):
            row = self.plain.rows[ids[handle]]
            assert slot == row.slot
            assert count == pytest.approx(row.count, rel=1e-4)
        use = self.table.memory_use()
        assert use.rows == len(everything)
        assert use.row_bytes + use.fixed_bytes <= self.table.bytes_used <= self.table.budget_bytes
        assert sum(block.rows for block in self.table.block_uses()) == len(everything)


@settings(max_examples=40, deadline=None)
@given(
    calls=_CALLS,
    seed=st.integers(0, 2**32 - 1),
    pruned=st.booleans(),
    pooling=st.sampled_from(_POOLINGS),
)
def test_any_interleaving(twins: Callable, calls: list[str], seed: int, pruned: bool, pooling: np.ndarray) -> None:
    run = _Interleaving(twins, seed, pruned, pooling)
    for name in calls:
        run.now_s += 1
        getattr(run, name)()
    run.check()


def _table(budget_bytes: int, slots: int = 2, dim: int = 16, **options: object) -> EmbeddingTable:
    missing = np.arange(1, slots + 1, dtype=np.uint64) << np.uint64(50)
    return EmbeddingTable(slots, dim, budget_bytes, 3, 0.1, 0.1, missing, **options)


@pytest.mark.parametrize("dim", [1, 16, 64])
@pytest.mark.parametrize("budget_bytes", [400_000, 3_000_000, 5_345_678])
def test_the_budget_holds_while_ids_keep_coming(dim: int, budget_bytes: int) -> None:
    table = _table(budget_bytes, dim=dim)
    rng = np.random.default_rng(dim)
    refused = 0
    for step in range(60):
        ids = np.unique(rng.integers(1, 2**64, 12_000, dtype=np.uint64))
        handles = table.insert(ids, (ids % np.uint64(2)).astype(np.int32), step)
        refused += int((handles == ABSENT).sum())
        assert table.bytes_used <= budget_bytes
        np.testing.assert_array_equal(table.find(ids), handles)
        if step % 7 == 6:
            live = table.live_rows()
            table.erase(rng.permutation(live.handles)[: live.handles.size // 3])
            assert table.bytes_used <= budget_bytes + 8 * live.handles.size  # tombstones until the next cut
            table.take_changes()
            table.compact()
    assert refused > 0
    use = table.memory_use()
    assert use.row_bytes + use.fixed_bytes > 0.6 * budget_bytes
    row_bytes = 4 * dim + 20 + 4
    assert use.row_bytes < use.rows * row_bytes * 1.02 + 2 * 70_000


def test_the_budget_is_used_up_before_an_id_is_refused() -> None:
    budget_bytes = 20_000_000
    table = _table(budget_bytes)
    ids = np.arange(1, 400_001, dtype=np.uint64)
    handles = table.insert(ids, np.zeros(ids.size, np.int32), 0)
    assert 0 < (handles == ABSENT).sum() < ids.size
    assert table.bytes_used > 0.97 * budget_bytes
    table.take_changes()
    live = table.live_rows()
    gone = live.handles[:1000]
    table.erase(gone)
    again = table.insert(ids[handles == ABSENT][:1000], np.zeros(1000, np.int32), 0)
    assert (again != ABSENT).all()


def test_gather_and_update_go_on_while_another_thread_inserts() -> None:
    """Births never disturb rows that are being trained: the result is that of training alone."""
    from concurrent.futures import ThreadPoolExecutor

    dim, slots = 16, 2
    tables = [_table(64 << 20, slots, dim, threads=1) for _ in range(2)]
    ids = np.arange(1, 2001, dtype=np.uint64)
    handles = [table.insert(ids, (ids % np.uint64(2)).astype(np.int32), 0) for table in tables]
    offsets, pooling = np.arange(0, 2 * 500 + 1, dtype=np.int64), np.zeros(2, np.int8)

    def train(table: EmbeddingTable, known: np.ndarray, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        out = np.empty((500, slots, dim), np.float32)
        total = np.zeros_like(out)
        for now_s in range(120):
            lookups = known[rng.zipf(1.3, 1000) % known.size]
            table.gather(lookups, offsets, pooling, out)
            total += out
            table.update(lookups, offsets, pooling, out * np.float32(0.1) + np.float32(0.01), 0.05, 1e-6, now_s)
        return total

    def grow(table: EmbeddingTable) -> int:
        for step in range(100):
            new = np.arange(10**6 + step * 2000, 10**6 + (step + 1) * 2000, dtype=np.uint64)
            found = table.insert(new, (new % np.uint64(2)).astype(np.int32), step)
            np.testing.assert_array_equal(table.find(new), found)
        return int((found != ABSENT).sum())

    expected = train(tables[0], handles[0], 5)
    with ThreadPoolExecutor(2) as threads:
        training = threads.submit(train, tables[1], handles[1], 5)
        growing = threads.submit(grow, tables[1])
        assert growing.result() == 2000
        np.testing.assert_array_equal(training.result(), expected)
    changes = tables[1].take_changes()
    assert changes.rows == len(set(np.concatenate([b.ids for b in changes.blocks]).tolist())) == 2002 + 200_000
    tables[0].restore_rows(changes)
    _same_rows(tables[0].all_rows(), tables[1].all_rows())


def test_large_lookups_take_the_same_way_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from embedding_table import table as module

    monkeypatch.setattr(module, "_PARALLEL_IDS", 1)
    table = _table(8 << 20, threads=3)
    ids = np.arange(1, 3001, dtype=np.uint64)
    handles = table.insert(ids, (ids % np.uint64(2)).astype(np.int32), 0)
    lookups = np.random.default_rng(1).integers(1, 4000, 1001).astype(np.uint64)
    expected = np.where(lookups <= 3000, handles[np.minimum(lookups, np.uint64(3000)) - np.uint64(1)], ABSENT)
    np.testing.assert_array_equal(table.find(lookups), expected)


def test_missing_rows_are_there_are_trained_and_stay() -> None:
    table = _table(4 << 20)
    assert (table.find(np.array([1, 2], np.uint64) << np.uint64(50)) == table.missing_handles).all()
    with pytest.raises(PinnedRow, match="slot 1"):
        table.erase(table.missing_handles[1:])
    assert table.rows == 2
    offsets, pooling = np.arange(3, dtype=np.int64), np.zeros(2, np.int8)
    table.take_changes()
    table.update(table.missing_handles, offsets, pooling, np.ones((1, 2, 16), np.float32), 0.1, 1e-6, 9)
    assert [block.last_seen_s.tolist() for block in table.take_changes().blocks] == [[9], [9]]


def test_an_id_moves_when_it_is_restored_into_another_block() -> None:
    one, other = _table(4 << 20), _table(4 << 20)
    ids = np.array([7], np.uint64)
    one.insert(ids, np.array([1], np.int32), 0)
    other.insert(ids, np.array([0], np.int32), 0)
    other.restore_rows(one.all_rows())
    _same_rows(other.all_rows(), one.all_rows())
    assert other.rows == 3


def test_bands_are_blocks_of_their_own() -> None:
    columns = [np.arange(width, dtype=np.uint16) for width in (4, 16, 2, 8)]
    table = _table(4 << 20, bands=2, columns=columns)
    table.insert(np.array([5, 6], np.uint64), np.array([0, 1], np.int32), 0)
    rows = table.all_rows()
    assert [(b.slot, b.band, b.values.shape) for b in rows.blocks] == [(0, 0, (2, 4)), (1, 0, (2, 2))]
    assert [(u.slot, u.band, u.width, u.rows) for u in table.block_uses()] == [
        (0, 0, 4, 2),
        (0, 1, 16, 0),
        (1, 0, 2, 2),
        (1, 1, 8, 0),
    ]


def test_says_what_is_wrong_with_the_arguments() -> None:
    table = _table(4 << 20)
    one = np.array([5], np.uint64)
    with pytest.raises(BadLookups, match=r"ids have shape \(1,\)"):
        table.insert(one, np.zeros(2, np.int32), 0)
    with pytest.raises(BadLookups, match="out of range"):
        table.insert(np.zeros(1, np.uint64), np.zeros(1, np.int32), 0)
    with pytest.raises(BadLookups, match="slots below 2"):
        table.insert(one, np.full(1, 2, np.int32), 0)
    with pytest.raises(BadLookups, match="expected each id once"):
        table.insert(np.array([5, 5], np.uint64), np.zeros(2, np.int32), 0)
    assert table.find(one)[0] == ABSENT
    assert table.rows == 2
    offsets, pooling = np.arange(3, dtype=np.int64), np.zeros(2, np.int8)
    handles = table.missing_handles
    with pytest.raises(BadLookups, match="expected"):
        table.gather(handles, offsets, pooling, np.empty((1, 2, 8), np.float32))
    with pytest.raises(BadLookups, match="expected"):
        table.update(handles[:1], offsets, pooling, np.empty((1, 2, 16), np.float32), 0.1, 1e-6, 0)
    with pytest.raises(BudgetTooSmall, match="each of 2 slots"):
        _table(100_000)
    assert table.insert(np.empty(0, np.uint64), np.empty(0, np.int32), 0).size == 0


def test_says_which_rows_do_not_fit() -> None:
    table = _table(4 << 20)
    table.insert(np.arange(1, 5001, dtype=np.uint64), np.zeros(5000, np.int32), 0)
    rows = table.all_rows()
    with pytest.raises(BadRows, match="below 8"):
        _table(4 << 20, dim=8).restore_rows(rows)
    with pytest.raises(BadRows, match="slot 1"):
        _table(4 << 20, slots=1).restore_rows(rows)
    small = _table(400_000)
    with pytest.raises(BudgetTooSmall, match="5001 rows of slot 0"):
        small.restore_rows(rows)
    assert small.bytes_used <= 400_000
    small.restore_rows(_EMPTY)


def test_rows_can_be_marked_as_changed_and_read() -> None:
    columns = [np.array([1, 3], np.uint16)]
    table = EmbeddingTable(1, 4, 8 << 20, 0, 0.5, 0.0, np.array([7], np.uint64), columns=columns)
    handles = table.insert(np.arange(10, 20, dtype=np.uint64), np.zeros(10, np.int32), 0)
    table.take_changes()
    gone = table.erase(handles[:1])
    table.take_changes()
    table.mark_changed(handles[:4])
    table.mark_changed(np.concatenate([handles[2:5], table.missing_handles, [ABSENT]]).astype(np.uint32))
    changes = table.take_changes()

    assert sorted(changes.blocks[0].ids.tolist()) == [7, 11, 12, 13, 14]
    assert gone.tolist() == [10]
    assert table.take_changes().rows == 0
    values = table.read_rows(handles[1:4])
    order = np.argsort(changes.blocks[0].ids)[1:4]
    np.testing.assert_array_equal(values[:, columns[0]], changes.blocks[0].values[order])
    assert not values[:, [0, 2]].any()
