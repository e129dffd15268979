"""Resizes and band moves against a dict and numpy, interleaved with everything else a table does."""

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.errors import ResizeUnderway
from embedding_table.table import ABSENT, EmbeddingTable, TableChanges

_SLOTS, _BANDS, _DIM = 2, 2, 10
_SUM = np.zeros(_SLOTS, np.int8)
_CALLS = st.lists(
    st.sampled_from(
        ["insert", "grow", "update", "update", "erase", "begin", "resize", "resize", "move", "cut", "cut", "compact"]
        + ["decay", "restart", "scan"]
    ),
    min_size=4,
    max_size=30,
)


def _bits(table: EmbeddingTable, ids: np.ndarray) -> np.ndarray:
    """Rows of all ids (n, D), each alone in its bag."""
    return _pooled(table, ids, np.arange(ids.size + 1, dtype=np.int64))


def _pooled(table: EmbeddingTable, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Bags of sums, the bag of each other slot left empty."""
    wide = np.concatenate([[0], np.repeat(offsets[1:], _SLOTS)])
    wide[1:-1:_SLOTS] = offsets[1:]
    out = np.empty((offsets.size - 1, _SLOTS, _DIM), np.float32)
    table.gather(table.find(ids), wide, _SUM, out)
    return out[:, 0].view(np.uint32)


def _by_id(changes: TableChanges) -> dict[int, tuple[int, int, bytes, bytes]]:
    found = {}
    for block in changes.blocks:
        for k, feature_id in enumerate(block.ids.tolist()):
            assert feature_id not in found
            found[feature_id] = (block.slot, block.band, block.columns.tobytes(), block.values[k].tobytes())
    return found


class _Interleaving:
    """One run: a table, its plain twin, and all its changes."""

    def __init__(self, twins: Callable, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        columns = self._random_columns()
        births = self.rng.integers(0, _BANDS, _SLOTS).tolist()
        self._new = lambda columns: twins(_SLOTS, _DIM, columns=columns, bands=_BANDS, birth_bands=births)
        self.table, self.plain = self._new(columns)
        self.history: list[TableChanges] = []
        self.missing = set(self.plain.missing_ids.tolist())
        self.now_s = 1
        self.next_id = 1000

    def _random_columns(self) -> list[np.ndarray]:
        widths = self.rng.integers(0, _DIM + 1, _SLOTS * _BANDS)
        return [np.sort(self.rng.permutation(_DIM)[:width]).astype(np.uint16) for width in widths]

    def insert(self, low: int = 1, count: int = 40) -> None:
        ids = self.rng.permutation(np.arange(low, low + 2 * count, dtype=np.uint64))[:count]
        slots = (ids % np.uint64(_SLOTS)).astype(np.int32)
        assert (self.table.insert(ids, slots, self.now_s) != ABSENT).all()
        for feature_id, slot in zip(ids.tolist(), slots.tolist(), strict=True):
            self.plain.insert(feature_id, slot, self.now_s)

    def grow(self) -> None:
        self.insert(self.next_id, 900)
        self.next_id += 3000

    def update(self) -> None:
        sizes = self.rng.integers(0, 4, _SLOTS * 20)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        lookups = (self.rng.geometric(0.05, offsets[-1]) % 90).astype(np.uint64)
        lookups[lookups == 0] = self.plain.missing_ids[1]
        handles = self.table.find(lookups)
        out = np.full((20, _SLOTS, _DIM), np.nan, np.float32)
        self.table.gather(handles, offsets, _SUM, out)
        np.testing.assert_allclose(out, self.plain.gather(lookups, offsets, _SUM), rtol=2e-4, atol=2e-5)
        grad = self.rng.standard_normal(out.shape).astype(np.float32)
        self.table.update(handles, offsets, _SUM, grad, 0.05, 1e-6, self.now_s)
        self.plain.update(lookups, offsets, _SUM, grad, 0.05, 1e-6, self.now_s)

    def erase(self) -> None:
        pool = np.array(sorted(self.plain.rows.keys() - self.missing), np.uint64)
        ids = self.rng.permutation(pool)[: int(self.rng.integers(0, pool.size // 2 + 2))]
        assert sorted(self.table.erase(self.table.find(ids)).tolist()) == sorted(ids.tolist())
        for feature_id in ids.tolist():
            self.plain.erase(feature_id)

    def begin(self) -> None:
        if self.table.resizing and self.rng.random() < 0.5:
            return
        ids = np.array(sorted(self.plain.rows), np.uint64)
        before = _bits(self.table, ids)
        wanted = self._random_columns()
        unchanged = int(self.rng.integers(0, _SLOTS * _BANDS))
        wanted[unchanged] = self.plain.columns[unchanged]
        try:
            self.table.begin_resize(wanted)
        except ResizeUnderway:
            assert [self.table.columns(*divmod(home, _BANDS)).tolist() for home in range(_SLOTS * _BANDS)] == [
                columns.tolist() for columns in self.plain.columns
            ]
            self.resize(10**6)
            self.table.begin_resize(wanted)
        self.plain.columns = wanted
        for home, columns in enumerate(wanted):
            np.testing.assert_array_equal(self.table.columns(*divmod(home, _BANDS)), columns)
        np.testing.assert_array_equal(_bits(self.table, ids), before)

    def resize(self, most: int | None = None) -> None:
        most = int(self.rng.integers(0, 1500)) if most is None else most
        to_move = self.table.rows_to_resize
        assert to_move == sum(
            not np.array_equal(row.columns, self.plain.columns[row.slot * _BANDS + row.band])
            for row in self.plain.rows.values()
        )
        self._moves(lambda: self.table.resize_some(most), min(most, to_move))
        assert self.table.rows_to_resize == to_move - min(most, to_move)
        assert self.table.resizing == (to_move > most)

    def move(self) -> None:
        ids = self.rng.permutation(np.array(sorted(self.plain.rows), np.uint64))
        ids = ids[: int(self.rng.integers(0, ids.size + 1))]
        bands = self.rng.integers(0, _BANDS, ids.size).astype(np.int32)
        changing = sum(
            self.plain.rows[feature_id].band != band
            for feature_id, band in zip(ids.tolist(), bands.tolist(), strict=True)
        )
        handles = np.append(self.table.find(ids), ABSENT)
        self._moves(lambda: self.table.move_rows(handles, np.append(bands, 0).astype(np.int32)), changing)
        for feature_id, band in zip(ids.tolist(), bands.tolist(), strict=True):
            assert self.plain.rows[feature_id].band == band

    def _moves(self, act: Callable[[], int], expected: int) -> None:
        """Rows may move, and then read as before in the columns they keep, bit by bit, and zero in the others."""
        ids = np.array(sorted(self.plain.rows), np.uint64)
        before = _bits(self.table, ids)
        held = {feature_id: row.columns for feature_id, row in self.plain.rows.items()}
        offsets = np.concatenate([[0], np.cumsum(self.rng.integers(1, 5, ids.size))])
        offsets = offsets[offsets <= ids.size]
        pooled_before = _pooled(self.table, ids, offsets)
        state_before = self.table.rows, self.table.live_rows().counts.sum(dtype=np.float64)
        assert act() == expected
        assert self.plain.follow(self.table.all_rows()) == expected
        np.testing.assert_array_equal(_bits(self.table, ids), np.where(self._kept(ids), before, 0))
        grown = np.array([set(held[i]) <= set(self.plain.rows[i].columns) for i in ids.tolist()])
        bags_grown = (
            np.logical_and.reduceat(grown, offsets[:-1])[:, None] if offsets.size > 1 else np.ones((0, 1), bool)
        )
        after = _pooled(self.table, ids, offsets)
        np.testing.assert_array_equal(np.where(bags_grown, after, 0), np.where(bags_grown, pooled_before, 0))
        assert self.table.rows == state_before[0]
        assert self.table.bytes_used <= self.table.budget_bytes

    def _kept(self, ids: np.ndarray) -> np.ndarray:
        """Which columns the rows have."""
        kept = np.zeros((ids.size, _DIM), bool)
        for k, feature_id in enumerate(ids.tolist()):
            kept[k, self.plain.rows[feature_id].columns] = True
        return kept

    def cut(self) -> None:
        changed = self.table.changed_rows()
        changes = self.table.take_changes()
        self.plain.assert_same(changes, self.plain.changed & self.plain.rows.keys())
        assert changed.handles.size == changes.rows - len(self.plain.changed & self.missing)
        assert changes.erased_ids.tolist() == sorted(self.plain.erased - self.plain.rows.keys())
        order = [(block.slot, block.band) for block in changes.blocks]
        assert order == sorted(order)
        self.plain.changed.clear()
        self.plain.erased.clear()
        assert self.table.take_changes().rows == 0
        self.history.extend([changes] * int(self.rng.integers(1, 3)))  # twice is once
        self._check_replay()

    def _check_replay(self) -> None:
        """All changes since the start, in a table that has the wanted columns from the start."""
        replayed, _ = self._new(self.plain.columns)
        for changes in self.history:
            replayed.restore_rows(changes)
        ids = np.array(sorted(self.plain.rows), np.uint64)
        wanted = np.zeros((ids.size, _DIM), bool)
        for k, feature_id in enumerate(ids.tolist()):
            row = self.plain.rows[feature_id]
            wanted[k, self.plain.columns[row.slot * _BANDS + row.band]] = True
        np.testing.assert_array_equal(_bits(replayed, ids), np.where(wanted, _bits(self.table, ids), 0))
        if not self.table.resizing:
            assert _by_id(replayed.all_rows()) == _by_id(self.table.all_rows())
        assert replayed.take_changes().rows <= _SLOTS  # restored rows are not marked, those born with the table are

    def compact(self) -> None:
        self.table.compact(int(self.rng.integers(0, 1500)))

    def decay(self) -> None:
        self.table.decay_counts(0.5)
        self.plain.decay(0.5)

    def restart(self) -> None:
        """All rows of a table that may be half resized, in one that has the new columns from the start."""
        self.cut()
        ids = np.array(sorted(self.plain.rows), np.uint64)
        before, rows = _bits(self.table, ids), self.table.all_rows()
        self.table, _ = self._new(self.plain.columns)
        self.table.restore_rows(rows)
        self.table.take_changes()
        self.plain.follow(self.table.all_rows())
        self.plain.changed.clear()
        np.testing.assert_array_equal(_bits(self.table, ids), np.where(self._kept(ids), before, 0))
        self.history = [self.table.all_rows()]

    def scan(self) -> None:
        cursor, seen, rounds = 0, [], 0
        while cursor or not rounds:
            rows, cursor = self.table.scan_rows(cursor, 200)
            seen.extend(rows.handles.tolist())
            rounds += 1
        live = self.table.live_rows()
        assert len(seen) == len(set(seen))
        assert set(seen) == set(live.handles.tolist())

    def check(self) -> None:
        everything = set(self.plain.rows)
        self.plain.assert_same(self.table.all_rows(), everything)
        assert self.table.rows == len(everything)
        listed = np.array(sorted(everything), np.uint64)
        ids = dict(zip(self.table.find(listed).tolist(), listed.tolist(), strict=True))
        assert len(ids) == listed.size
        live = self.table.live_rows()
        assert {ids[h] for h in live.handles.tolist()} == everything - self.missing
        for handle, slot, band in zip(live.handles.tolist(), live.slots.tolist(), live.bands.tolist(), strict=True):
            row = self.plain.rows[ids[handle]]
            assert (slot, band) == (row.slot, row.band)
        assert [ids[h] for h in self.table.missing_handles.tolist()] == self.plain.missing_ids.tolist()
        use = self.table.memory_use()
        assert use.rows == len(everything)
        assert use.row_bytes + use.fixed_bytes <= self.table.bytes_used <= self.table.budget_bytes
        uses = self.table.block_uses()
        for home, block in enumerate(uses):
            assert (block.slot, block.band) == divmod(home, _BANDS)
            assert block.width == self.plain.columns[home].size
            rows = [row for row in self.plain.rows.values() if (row.slot, row.band) == (block.slot, block.band)]
            assert block.rows == len(rows)


@settings(max_examples=60, deadline=None)
@given(calls=_CALLS, seed=st.integers(0, 2**32 - 1))
def test_any_interleaving(twins: Callable, calls: list[str], seed: int) -> None:
    run = _Interleaving(twins, seed)
    for name in calls:
        run.now_s += 1
        getattr(run, name)()
        assert run.table.bytes_used <= run.table.budget_bytes
    run.check()
    run.resize(10**6)
    assert not run.table.resizing
    run.cut()
    run.check()


def _tight(width: int, budget_bytes: int) -> tuple[EmbeddingTable, np.ndarray]:
    table = EmbeddingTable(
        1,
        32,
        budget_bytes,
        1,
        0.1,
        0.1,
        np.array([1], np.uint64),
        columns=[np.arange(width, dtype=np.uint16)],
        threads=1,
    )
    ids = np.arange(2, 200_000, dtype=np.uint64)
    handles = table.insert(ids, np.zeros(ids.size, np.int32), 0)
    assert (handles == ABSENT).any()
    return table, ids[handles != ABSENT]


def test_rows_without_room_stay_right_and_move_once_there_is_room() -> None:
    table, ids = _tight(8, 6_000_000)
    before = _wide(table, ids)
    table.take_changes()
    table.begin_resize([np.arange(32, dtype=np.uint16)])
    moved = sum(table.resize_some(5000) for _ in range(200))
    assert 0 <= moved < ids.size // 2
    assert table.resizing
    assert table.resize_some(5000) == 0
    assert table.bytes_used <= table.budget_bytes
    np.testing.assert_array_equal(_wide(table, ids), before)
    gone, kept = ids[: ids.size * 7 // 8], ids[ids.size * 7 // 8 :]
    table.erase(table.find(gone))
    table.take_changes()
    left = table.rows_to_resize
    assert table.resize_some(10**6) == left
    assert not table.resizing
    np.testing.assert_array_equal(_wide(table, kept), before[ids.size * 7 // 8 :])


def test_a_full_table_shrinks_into_the_room_it_makes() -> None:
    table, ids = _tight(32, 6_000_000)
    before = _wide(table, ids)
    table.take_changes()
    table.erase(table.find(ids[:500]))
    table.take_changes()
    table.compact()
    ids, before = ids[500:], before[500:]
    table.begin_resize([np.arange(8, dtype=np.uint16)])
    while table.resizing:
        assert table.resize_some(4000) > 0
        assert table.bytes_used <= table.budget_bytes
    np.testing.assert_array_equal(_wide(table, ids)[:, :8], before[:, :8])
    assert (_wide(table, ids)[:, 8:] == 0).all()
    assert table.bytes_used < 0.6 * table.budget_bytes
    more = np.arange(10**6, 10**6 + ids.size // 2, dtype=np.uint64)
    assert (table.insert(more, np.zeros(more.size, np.int32), 0) != ABSENT).all()


def _wide(table: EmbeddingTable, ids: np.ndarray) -> np.ndarray:
    out = np.empty((ids.size, 1, 32), np.float32)
    table.gather(table.find(ids), np.arange(ids.size + 1), np.zeros(1, np.int8), out)
    return out[:, 0].view(np.uint32)


def test_new_columns_learn_from_the_first_batch(twins: Callable) -> None:
    table, _ = twins(1, 8, columns=[np.array([3], np.uint16)])
    handles = table.insert(np.array([9], np.uint64), np.zeros(1, np.int32), 0)
    table.begin_resize([np.arange(8, dtype=np.uint16)])
    table.resize_some(10)
    handles = table.find(np.array([9], np.uint64))
    grad = np.ones((1, 1, 8), np.float32)
    table.update(handles, np.arange(2), np.zeros(1, np.int8), grad, 0.1, 1e-6, 1)
    out = np.empty_like(grad)
    table.gather(handles, np.arange(2), np.zeros(1, np.int8), out)
    assert (out != 0).all()


def test_missing_rows_move_too(twins: Callable) -> None:
    table, _ = twins(2, 4, bands=2)
    old = table.missing_handles
    assert table.move_rows(np.append(old, ABSENT), np.array([1, 0, 1], np.int32)) == 1
    assert table.missing_handles[0] != old[0]
    assert table.missing_handles[1] == old[1]
    assert [(b.slot, b.band) for b in table.all_rows().blocks] == [(0, 1), (1, 0)]
    assert table.live_rows().handles.size == 0


def test_seeded_columns_begin_as_those_of_a_larger_newborn_and_others_at_zero() -> None:
    ids = np.arange(1, 301, dtype=np.uint64)
    slots = (ids % np.uint64(2)).astype(np.int32)

    def filled(columns: np.ndarray | None) -> EmbeddingTable:
        narrow = None if columns is None else [columns] * 2
        table = EmbeddingTable(2, 8, 4 << 20, 7, 0.05, 0.1, (501, 502), columns=narrow)
        assert (table.insert(ids, slots, 0) != ABSENT).all()
        return table

    wide, table = filled(None), filled(np.array([0, 3], np.uint16))
    born = wide.read_rows(wide.find(ids))
    table.begin_resize(
        [np.array([0, 1, 2, 3, 5], np.uint16)] * 2, [np.array([1, 5, 6], np.uint16), np.empty(0, np.uint16)]
    )
    before = table.read_rows(table.find(ids))
    assert table.resize_some(1000) == ids.size + 2

    grown = table.read_rows(table.find(ids))
    np.testing.assert_array_equal(grown[:, [0, 3]], before[:, [0, 3]])
    assert not grown[:, [2, 4, 6, 7]].any()
    np.testing.assert_allclose(grown[slots == 0][:, [1, 5]], 8 * born[slots == 0][:, [1, 5]], rtol=1e-6)
    assert not grown[slots == 1][:, [1, 5]].any()

    table.begin_resize([np.arange(8, dtype=np.uint16)] * 2)  # nobody is seeded any more
    table.resize_some(1000)
    np.testing.assert_array_equal(table.read_rows(table.find(ids)), grown)
