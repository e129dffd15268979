"""The embedding table by itself: lookups, gather, update, changes, births, beside numpy and torch on the same rows.

    python -m benchmarks.table [--quick]

Every time is the quickest of many runs. Limits measured in the same run: `numpy.take` of the same rows into the same
output (no index, no pooling), `torch.nn.functional.embedding_bag`, and a plain copy of as many bytes as a cut copies.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import Json, quickest_s, report
from embedding_table.bag_kernels import UpdateScratch, gather_bags, new_scratch, update_bags
from embedding_table.row_layout import TableViews
from embedding_table.table import ABSENT, EmbeddingTable
from model_contract.compiled import kernel

_LR, _EPS = 1e-4, 1e-8
_LOOKUPS = 26_000
_SHUFFLED = 1 << 20  # ids in other orders


def main() -> None:
    """Runs all parts and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows, ends within 50 s")
    quick = parser.parse_args().quick
    results: dict[str, Json] = {}
    results |= _zipf_batches(rows=300_000 if quick else 900_000)
    results |= _globo_micro_batches(rows=100_000 if quick else 900_000)
    results |= _flatness((10_000, 100_000, 1_000_000) if quick else (10_000, 100_000, 1_000_000, 4_000_000))
    results |= _changes(rows=200_000 if quick else 900_000, dirty=100_000)
    results |= _multi_hot(rows_a_slot=60_000 if quick else 1_000_000, batch=256 if quick else 2048)
    report("table", results)


@dataclass(frozen=True, slots=True)
class _Bags:
    """Lookups of one batch, with room for what they pool to.

    `asked` are its ids in other orders, again and again: a processor learns the branches of a batch that comes twice.
    """

    table: EmbeddingTable
    asked: Iterator[NDArray[np.uint64]]
    handles: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    pooling: NDArray[np.int8]
    pooled: NDArray[np.float32]
    grad: NDArray[np.float32]

    @classmethod
    def of(cls, table: EmbeddingTable, ids: NDArray[np.uint64], a_bag: int = 1) -> "_Bags":
        pooled = np.zeros((ids.size // a_bag // table.slots, table.slots, table.dim), np.float32)
        grad = np.random.default_rng(0).standard_normal(pooled.shape).astype(np.float32) * np.float32(1e-3)
        offsets = np.arange(0, ids.size + 1, a_bag)
        shuffled = np.random.default_rng(1)
        orders = [shuffled.permutation(ids) for _ in range(max(1, _SHUFFLED // ids.size))]
        return cls(table, cycle(orders), table.find(ids), offsets, np.zeros(table.slots, np.int8), pooled, grad)

    def find(self) -> None:
        self.table.find(next(self.asked))

    def gather(self) -> None:
        self.table.gather(self.handles, self.offsets, self.pooling, self.pooled)

    def update(self) -> None:
        self.table.update(self.handles, self.offsets, self.pooling, self.grad, _LR, _EPS, 1)

    def times_s(self, repeats: int) -> dict[str, float]:
        works = {"find": self.find, "gather": self.gather, "update": self.update}
        return {name: quickest_s(work, repeats=repeats) for name, work in works.items()}


def _filled(
    slots: int, dim: int, rows: int, *, threads: int | None = None
) -> tuple[EmbeddingTable, NDArray[np.uint64]]:
    """A table with `rows` rows and their ids in order of birth, slot by slot in turn."""
    missing = np.arange(1, slots + 1, dtype=np.uint64)
    table = EmbeddingTable(slots, dim, rows * (4 * dim + 60) + (64 << 20), 1, 0.05, 0.1, missing, threads=threads)
    numbers = np.random.default_rng(0).permutation(np.arange(1000, 1000 + rows, dtype=np.uint64))
    ids = numbers * np.uint64(0x9E3779B97F4A7C15)
    if (table.insert(ids, (np.arange(rows) % slots).astype(np.int32), 0) == ABSENT).any():
        message = f"{rows} rows of {dim} columns do not fit {table.budget_bytes} bytes"
        raise RuntimeError(message)
    return table, ids


def _zipf(size: int, rows: int, slots: int, exponent: float) -> NDArray[np.int64]:
    """Numbers of rows whose popularity is 1 / rank ** exponent, lookup k in slot k % slots."""
    weights = np.arange(1, rows // slots + 1, dtype=np.float64) ** -exponent
    ranks = np.searchsorted(np.cumsum(weights) / weights.sum(), np.random.default_rng(1).random(size))
    return np.minimum(ranks, rows // slots - 1) * slots + np.arange(size) % slots


def _zipf_batches(rows: int) -> dict[str, Json]:
    slots, dim = 9, 16
    table, ids = _filled(slots, dim, rows, threads=1)
    plain = np.zeros((rows, dim), np.float32)
    results: dict[str, Json] = {"zipf_rows": rows, "table_bytes_per_row": round(table.bytes_used / table.rows, 1)}
    for exponent in (1.2, 1.0):
        numbers = _zipf(_LOOKUPS // slots * slots, rows, slots, exponent)
        bags = _Bags.of(table, ids[numbers])
        times = bags.times_s(300)
        flat = bags.pooled.reshape(-1, dim)
        take_s = quickest_s(_take(plain, numbers, flat), repeats=300)
        name = f"zipf_{exponent}"
        results |= {f"{name}_{part}_ms": _ms(seconds) for part, seconds in times.items()}
        results |= {
            f"{name}_lookups": int(numbers.size),
            f"{name}_distinct_rows": int(np.unique(numbers).size),
            f"{name}_numpy_take_ms": _ms(take_s),
            f"{name}_gather_over_numpy_take": round(times["gather"] / take_s, 3),
        }
    return results


def _take(source: NDArray[np.float32], numbers: NDArray[np.int64], out: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: np.take(source, numbers, axis=0, out=out, mode="clip")


@kernel
def _micro_batches(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    bags: int,
    out: NDArray[np.float32],
    grad: NDArray[np.float32],
    train: bool,
    scratch: UpdateScratch,
) -> None:
    for lo in range(0, offsets.size - bags, bags):
        gather_bags(views, handles, offsets, pooling, lo, lo + bags, out)
        if train:
            update_bags(views, handles, offsets, pooling, lo, lo + bags, grad, _LR, _EPS, 1, scratch)


def _globo_micro_batches(rows: int) -> dict[str, Json]:
    """128 samples of 9 slots, 64 micro-batches in one kernel, as the fused step runs them."""
    slots, dim, samples, batches = 9, 16, 128, 64
    table, ids = _filled(slots, dim, rows, threads=1)
    all_bags = _Bags.of(table, ids[_zipf(samples * slots * batches, rows, slots, 1.0)])
    bags = samples * slots
    out = np.empty((bags, dim), np.float32)
    grad = all_bags.grad.reshape(-1, dim)[:bags]
    scratch = new_scratch(bags, dim)

    def run(train: bool) -> None:
        _micro_batches(
            table.views(), all_bags.handles, all_bags.offsets, all_bags.pooling, bags, out, grad, train, scratch
        )

    return {
        "globo_micro_batch_gather_us": round(quickest_s(lambda: run(False), repeats=100) / batches * 1e6, 2),
        "globo_micro_batch_sparse_side_us": round(quickest_s(lambda: run(True), repeats=100) / batches * 1e6, 2),
    }


def _flatness(sizes: tuple[int, ...]) -> dict[str, Json]:
    """One Zipf stream over as many rows as the smallest table has, found among ever more rows nobody asks for."""
    slots, dim = 8, 16
    stream = _zipf(_LOOKUPS // slots * slots, sizes[0], slots, 1.0)
    per_lookup: dict[str, Json] = {}
    totals = []
    for rows in sizes:
        table, ids = _filled(slots, dim, rows, threads=1)
        asked = np.random.default_rng(2).permutation(rows // slots)[: sizes[0] // slots, None] * slots
        times = _Bags.of(table, ids[(asked + np.arange(slots)).reshape(-1)[stream]]).times_s(200)
        per_lookup[str(rows)] = {name: round(seconds / stream.size * 1e9, 2) for name, seconds in times.items()}
        totals.append(sum(times.values()))
    return {"lookup_ns_by_rows": per_lookup, "lookup_cost_largest_over_smallest": round(totals[-1] / totals[0], 3)}


def _changes(rows: int, dirty: int) -> dict[str, Json]:
    """What a cut costs with so many changed rows, and what births cost."""
    slots, dim = 8, 16
    table, ids = _filled(slots, dim, rows, threads=1)
    everything_s = quickest_s(table.all_rows, repeats=3)
    table.take_changes()
    seconds: dict[int, float] = {}
    for count in (dirty // 10, dirty):
        chosen = np.random.default_rng(3).permutation(rows // slots)[: count // slots, None] * slots + np.arange(slots)
        bags = _Bags.of(table, ids[chosen.reshape(-1)])
        taken = []
        for _ in range(9):
            bags.update()
            begin = time.perf_counter()
            table.take_changes()
            taken.append(time.perf_counter() - begin)
        seconds[count] = min(taken)
    source = np.zeros(dirty * (dim + 5), np.float32)
    copy_s = quickest_s(source.copy, repeats=20)
    newborn = np.arange(1 << 40, (1 << 40) + 40 * 2000, dtype=np.uint64).reshape(40, -1)
    births = iter(newborn)
    born_s = quickest_s(lambda: table.insert(next(births), np.arange(2000, dtype=np.int32) % 8, 1), repeats=30)
    return {
        "take_changes_ms_by_dirty_rows": {str(count): _ms(value) for count, value in seconds.items()},
        "take_changes_ns_per_dirty_row": round(seconds[dirty] / dirty * 1e9, 1),
        "take_changes_over_plain_copy": round(seconds[dirty] / copy_s, 2),
        "all_rows_ns_per_row": round(everything_s / rows * 1e9, 1),
        "insert_2000_ids_ms": _ms(born_s),
    }


def _multi_hot(rows_a_slot: int, batch: int) -> dict[str, Json]:
    """DLRM's seed setting: 8 tables of 64 columns, 1 and 100 lookups a bag, on all cores."""
    slots, dim = 8, 64
    table, ids = _filled(slots, dim, rows_a_slot * slots)
    rng = np.random.default_rng(5)
    weights = torch.zeros(rows_a_slot * slots, dim).normal_()
    results: dict[str, Json] = {"multi_hot_rows": table.rows, "multi_hot_batch": batch}
    for a_bag in (1, 100):
        size = batch * slots * a_bag
        numbers = rng.integers(0, rows_a_slot, size) * slots + np.repeat(np.arange(batch * slots) % slots, a_bag)
        bags = _Bags.of(table, ids[numbers], a_bag)
        times = bags.times_s(20)
        torch_s = quickest_s(_embedding_bag(weights, numbers, bags.offsets), repeats=20)
        results |= {f"lookups_{a_bag}_{part}_ms": _ms(seconds) for part, seconds in times.items()}
        results |= {
            f"lookups_{a_bag}_torch_embedding_bag_ms": _ms(torch_s),
            f"lookups_{a_bag}_gather_over_torch": round(times["gather"] / torch_s, 3),
            f"lookups_{a_bag}_gather_gb_per_s": round(size * dim * 4 / times["gather"] / 1e9, 2),
        }
    return results


def _embedding_bag(
    weights: torch.Tensor, numbers: NDArray[np.int64], offsets: NDArray[np.int64]
) -> Callable[[], object]:
    index, starts = torch.from_numpy(numbers), torch.from_numpy(offsets[:-1].copy())
    return lambda: torch.nn.functional.embedding_bag(index, weights, starts, mode="sum")


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)


if __name__ == "__main__":
    main()
