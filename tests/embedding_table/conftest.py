"""A second, plain implementation of the table: a dict of rows and numpy, one row at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from embedding_table.table import EmbeddingTable
from embedding_table.table_rows import TableChanges


def _mix(word: np.ndarray) -> np.ndarray:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def first_values(seed: int, feature_id: int, columns: np.ndarray, scale: float) -> np.ndarray:
    """SplitMix64 as published, counted by column."""
    stream = _mix(np.array([feature_id], np.uint64) ^ _mix(np.array([seed], np.uint64)))
    bits = _mix(stream + (columns.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return (bits.astype(np.float64) / 2**23 - 1).astype(np.float32) * np.float32(scale)


@dataclass
class PlainRow:
    slot: int
    band: int
    columns: np.ndarray
    values: np.ndarray
    accumulator: float
    count: float
    last_seen_s: int


@dataclass
class PlainTable:
    """What `EmbeddingTable` must compute, in double precision, without a budget."""

    slots: int
    dim: int
    seed: int
    init_scale: float
    initial_accumulator: float
    missing_ids: np.ndarray
    columns: list[np.ndarray]
    bands: int = 1
    birth_bands: list[int] | None = None
    rows: dict[int, PlainRow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.changed: set[int] = set()
        self.erased: set[int] = set()
        for slot, missing_id in enumerate(self.missing_ids.tolist()):
            self.insert(missing_id, slot, 0)

    def insert(self, feature_id: int, slot: int, now_s: int) -> None:
        if feature_id in self.rows:
            return
        band = self.birth_bands[slot] if self.birth_bands else 0
        columns = self.columns[slot * self.bands + band]
        values = first_values(self.seed, feature_id, columns, self.init_scale).astype(np.float64)
        self.rows[feature_id] = PlainRow(slot, band, columns, values, self.initial_accumulator, 0.0, now_s)
        self.changed.add(feature_id)

    def erase(self, feature_id: int) -> None:
        del self.rows[feature_id]
        self.erased.add(feature_id)

    def wide(self, feature_id: int) -> np.ndarray:
        """The row at full width, zero where its block has no column."""
        wide = np.zeros(self.dim)
        if feature_id in self.rows:
            wide[self.rows[feature_id].columns] = self.rows[feature_id].values
        return wide

    def gather(self, ids: np.ndarray, offsets: np.ndarray, pooling: np.ndarray) -> np.ndarray:
        pooled = np.zeros((offsets.size - 1, self.dim))
        for bag in range(offsets.size - 1):
            members = ids[offsets[bag] : offsets[bag + 1]].tolist()
            for feature_id in members:
                pooled[bag] += self.wide(feature_id)
            if pooling[bag % self.slots] == 1 and members:
                pooled[bag] /= len(members)
        return pooled.reshape(-1, self.slots, self.dim)

    def update(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        pooling: np.ndarray,
        grad: np.ndarray,
        lr: float,
        eps: float,
        now: int,
    ) -> None:
        flat = grad.reshape(-1, self.dim).astype(np.float64)
        sums: dict[int, np.ndarray] = {}
        lookups: dict[int, int] = {}
        for bag in range(offsets.size - 1):
            members = ids[offsets[bag] : offsets[bag + 1]].tolist()
            share = 1 / len(members) if pooling[bag % self.slots] == 1 and members else 1.0
            for feature_id in members:
                sums[feature_id] = sums.get(feature_id, np.zeros(self.dim)) + share * flat[bag]
                lookups[feature_id] = lookups.get(feature_id, 0) + 1
        self.products: dict[tuple[int, int], np.ndarray] = {}
        self.squares: dict[tuple[int, int], np.ndarray] = {}
        for feature_id, total in sums.items():
            if feature_id not in self.rows:
                continue
            row = self.rows[feature_id]
            g = total[row.columns]
            for kept, power in ((self.products, 1), (self.squares, 2)):
                kept.setdefault((row.slot, row.band), np.zeros(self.dim))[row.columns] += (row.values * g) ** power
            row.accumulator += float((g * g).mean()) if g.size else 0.0
            row.values = row.values - lr * g / (np.sqrt(row.accumulator) + eps)
            row.count += lookups[feature_id]
            row.last_seen_s = now
            self.changed.add(feature_id)

    def decay(self, factor: float) -> None:
        for row in self.rows.values():
            row.count *= factor

    def follow(self, changes: TableChanges) -> int:
        """Gives rows the band and columns they have in `changes`, by the law of a resize; answers how many changed."""
        moved = 0
        for block in changes.blocks:
            for feature_id in block.ids.tolist():
                row = self.rows[feature_id]
                if row.band == block.band and np.array_equal(row.columns, block.columns):
                    continue
                assert np.array_equal(block.columns, self.columns[row.slot * self.bands + block.band])
                wide = self.wide(feature_id)
                row.band, row.columns, row.values = block.band, block.columns, wide[block.columns]
                self.changed.add(feature_id)
                moved += 1
        return moved

    def assert_same(self, changes: TableChanges, ids: set[int]) -> None:
        """`changes` holds exactly these ids, with this table's rows."""
        seen = []
        for block in changes.blocks:
            rows = [self.rows[feature_id] for feature_id in block.ids.tolist()]
            assert {(row.slot, row.band) for row in rows} == {(block.slot, block.band)}
            assert {tuple(row.columns.tolist()) for row in rows} == {tuple(block.columns.tolist())}
            values = np.array([row.values for row in rows])
            np.testing.assert_allclose(block.values, values, rtol=2e-4, atol=2e-5)
            np.testing.assert_allclose(block.accumulators, [row.accumulator for row in rows], rtol=2e-4)
            np.testing.assert_allclose(block.counts, [row.count for row in rows], rtol=1e-4)
            assert block.last_seen_s.tolist() == [row.last_seen_s for row in rows]
            seen.extend(block.ids.tolist())
        assert len(seen) == len(set(seen))
        assert set(seen) == ids


@pytest.fixture(scope="session")
def twins() -> Callable[..., tuple[EmbeddingTable, PlainTable]]:
    """Makes a table and its plain twin with the same settings."""

    def make(
        slots: int,
        dim: int,
        *,
        columns: list[np.ndarray] | None = None,
        seed: int = 7,
        budget_bytes: int = 16 << 20,
        threads: int = 1,
        bands: int = 1,
        birth_bands: list[int] | None = None,
    ) -> tuple[EmbeddingTable, PlainTable]:
        missing = np.arange(1, slots + 1, dtype=np.uint64) << np.uint64(40)
        full = [np.arange(dim, dtype=np.uint16)] * (slots * bands) if columns is None else columns
        table = EmbeddingTable(
            slots=slots,
            dim=dim,
            budget_bytes=budget_bytes,
            seed=seed,
            init_scale=0.25,
            initial_accumulator=0.1,
            missing_ids=missing,
            columns=full,
            threads=threads,
            bands=bands,
            birth_bands=None if birth_bands is None else np.array(birth_bands, np.int32),
        )
        return table, PlainTable(slots, dim, seed, 0.25, 0.1, missing, list(full), bands, birth_bands)

    return make


@pytest.fixture(scope="session")
def random_bags() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Makes (positions into a pool, offsets) of bags with 0 to 4 members, many of them the same."""

    def make(rng: np.random.Generator, bags: int, pool: int, longest: int = 4) -> tuple[np.ndarray, np.ndarray]:
        sizes = rng.integers(0, longest + 1, bags)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return np.minimum(rng.geometric(0.1, int(offsets[-1])), pool) - 1, offsets

    return make
