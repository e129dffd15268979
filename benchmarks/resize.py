"""Changing the width of a live table: what it costs a million rows, and what saliency costs the training meanwhile.

    python -m benchmarks.resize [--quick]

On one thread. Times of a resize are the quickest of three runs, each in a table filled anew; a slice is one call of
`resize_some` with 50,000 rows, index, marks and slabs included. `saliency_share_of_update` compares sparse updates that
gather saliency with the same ones that do not, in turns, quickest of each; `saliency_share_of_train_step` is the
difference over the time of whole train steps of a small network.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Json, report
from embedding_table.bag_kernels import UpdateScratch, new_scratch, update_bags
from embedding_table.row_layout import TableViews
from embedding_table.table import EmbeddingTable
from model_contract.compiled import kernel
from model_contract.schema import ModelSchema, SparseSlot
from stream_trainer.fused_step import FusedStep
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.recipe import Recipe

_SLICE_ROWS = 50_000
_DIM = 32
_SLOTS = 9


def main() -> None:
    """Runs all parts and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows, ends within 50 s")
    quick = parser.parse_args().quick
    rows = 200_000 if quick else 1_000_000
    results: dict[str, Json] = {"rows": rows, "slice_rows": _SLICE_ROWS}
    _resized(2 * _SLICE_ROWS, 4, 3)  # compiles, as the line below does
    _band_moves(2 * _SLICE_ROWS, 1000)
    for old, new in ((32, 8), (8, 32)):
        runs = [_resized(rows, old, new) for _ in range(3)]
        results |= {
            f"resize_{old}_to_{new}_total_ms": _ms(min(sum(slices) for slices in runs)),
            f"resize_{old}_to_{new}_longest_slice_ms": _ms(min(max(slices) for slices in runs)),
        }
    results |= _band_moves(rows, rows // 10)
    results |= _saliency(rows, repeats=40 if quick else 200)
    report("resize", results)


def _filled(rows: int, columns: list[NDArray[np.uint16]], bands: int = 1) -> tuple[EmbeddingTable, NDArray[np.uint64]]:
    slots = len(columns) // bands
    table = EmbeddingTable(
        slots,
        _DIM,
        rows * (4 * _DIM + 90) + (64 << 20),
        1,
        0.05,
        0.1,
        np.arange(1, slots + 1, dtype=np.uint64),
        bands=bands,
        columns=columns,
        threads=1,
    )
    numbers = np.random.default_rng(0).permutation(np.arange(1000, 1000 + rows, dtype=np.uint64))
    ids = numbers * np.uint64(0x9E3779B97F4A7C15)
    table.insert(ids, (np.arange(rows) % slots).astype(np.int32), 0)
    table.take_changes()
    return table, ids


def _columns(width: int) -> NDArray[np.uint16]:
    """Scattered over D, as a search leaves them."""
    return np.sort(np.random.default_rng(7).permutation(_DIM)[:width]).astype(np.uint16)


def _resized(rows: int, old: int, new: int) -> list[float]:
    """Seconds of every slice, the start of the resize among the first."""
    table, _ = _filled(rows, [_columns(old)] * _SLOTS)
    seconds = []
    begin = time.perf_counter()
    table.begin_resize([_columns(new)] * _SLOTS)
    while table.resizing:
        table.resize_some(_SLICE_ROWS)
        seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    return seconds


def _band_moves(rows: int, moved: int) -> dict[str, Json]:
    """Rows anywhere in the table to the hotter band, and back."""
    table, ids = _filled(rows, [_columns(8), _columns(16)] * _SLOTS, bands=2)
    chosen = np.random.default_rng(2).permutation(ids)[:moved]
    results: dict[str, Json] = {"moved_rows": moved}
    for name, band in (("up", 1), ("down", 0)):
        handles = table.find(chosen)
        begin = time.perf_counter()
        count = table.move_rows(handles, np.full(moved, band, np.int32))
        results[f"move_{name}_ms"] = _ms(time.perf_counter() - begin)
        if count != moved:
            message = f"{count} of {moved} rows found room"
            raise RuntimeError(message)
    begin = time.perf_counter()
    cursor, rounds = table.scan_rows(0, _SLICE_ROWS)[1], 1
    while cursor:
        cursor, rounds = table.scan_rows(cursor, _SLICE_ROWS)[1], rounds + 1
    results["scan_slice_ms"] = _ms((time.perf_counter() - begin) / rounds)
    return results


def _saliency(rows: int, repeats: int) -> dict[str, Json]:
    """The same updates of one table, in turns with a scratch that gathers saliency and with one that does not."""
    samples, micro_batch = 2048, 128
    schema = ModelSchema("m", tuple(SparseSlot(f"s{k}") for k in range(_SLOTS)), (), dim=_DIM, bottom=(), top=(128, 64))
    table, ids = _filled(rows, [_columns(_DIM)] * _SLOTS)
    ranks = np.minimum(np.random.default_rng(1).zipf(1.2, samples * _SLOTS), rows // _SLOTS - 1).astype(np.int64)
    batch = PreparedBatch(
        handles=table.find(ids[ranks * _SLOTS + np.arange(samples * _SLOTS) % _SLOTS]),
        offsets=np.arange(samples * _SLOTS + 1, dtype=np.int64),
        dense=np.empty((samples, 0), np.float32),
        labels=(np.arange(samples) % 3 == 0).astype(np.float32),
        weights=np.ones(samples, np.float32),
    )
    step = FusedStep(schema, Recipe(batch_size=micro_batch), 1, threads=1)
    bags = micro_batch * _SLOTS
    grad = np.random.default_rng(3).standard_normal((bags, _DIM)).astype(np.float32)
    views, pooling = table.views(), np.zeros(_SLOTS, np.int8)
    works: dict[str, Callable[[], object]] = {"train": lambda: step.train(table, batch, 1)}
    for name, blocks in (("without", 0), ("with", views.block_width.size)):
        scratch = new_scratch(bags, _DIM, blocks)
        works[name] = partial(_update_all, views, batch.handles, batch.offsets, pooling, bags, grad, scratch)
    best = dict.fromkeys(works, float("inf"))
    for turn in range(repeats + 1):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            if turn:  # the first compiles
                best[name] = min(best[name], time.perf_counter() - begin)
    return {
        "train_samples_per_s": round(samples / best["train"]),
        "saliency_share_of_update": round(best["with"] / best["without"] - 1, 4),
        "saliency_share_of_train_step": round((best["with"] - best["without"]) / best["train"], 4),
    }


@kernel
def _update_all(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    bags: int,
    grad: NDArray[np.float32],
    scratch: UpdateScratch,
) -> None:
    for lo in range(0, offsets.size - 1, bags):
        update_bags(views, handles, offsets, pooling, lo, lo + bags, grad, 1e-4, 1e-8, 1, scratch, 0.995, 0.0)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


if __name__ == "__main__":
    main()
