"""Codecs of rows: how fast they encode, how fast bags are pooled straight from their bytes, and what they lose.

    python -m benchmarks.codecs [--quick]

Encoding is measured in bytes of float32 rows a second, on all cores, beside PyTorch's prepack of the same rows with
`optimized_qparams=True`. Pooling takes random rows of a table far larger than the caches, one thread, beside
`gather_bags` on float32 rows: packed and float32 take turns, the quickest of each counts. Errors are the Euclidean norm
of what random rows of 16 columns lose, over that of the rows.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.report import Json, quickest_s, report
from embedding_table.bag_kernels import gather_bags
from embedding_table.packed_pooling import pool_packed_bags, views_of
from embedding_table.row_arena import RowArena
from embedding_table.row_codecs import CODECS

_POOLED = ("fp32", "fp16", "int8_minmax", "int4_minmax", "int4_minmax_coded", "int4_minmax_block")


def main() -> None:
    """Runs all parts and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows, ends within 50 s")
    quick = parser.parse_args().quick
    results: dict[str, Json] = {}
    results |= _errors(rows=20_000)
    results |= _encoding(megabytes=32 if quick else 64, widths=(16,) if quick else (4, 8, 16, 32))
    results |= _against_prepack(rows=4_000 if quick else 20_000)
    results |= _pooling(rows=1_500_000 if quick else 4_000_000, dim=32, rounds=12 if quick else 40)
    report("codecs", results)


def _rows(rows: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(width).standard_normal((rows, width), np.float32)


def _errors(rows: int) -> dict[str, Json]:
    values = _rows(rows, 16)
    lost: dict[str, Json] = {}
    for name, codec in CODECS.items():
        decoded = codec.decode(codec.encode(values))
        lost[name] = round(float(np.linalg.norm(decoded.astype(np.float64) - values) / np.linalg.norm(values)), 5)
    return {"error_l2_d16": lost, "bytes_a_row_d16": {name: codec.bytes_per_row(16) for name, codec in CODECS.items()}}


def _encoding(megabytes: int, widths: tuple[int, ...]) -> dict[str, Json]:
    results: dict[str, Json] = {}
    for width in widths:
        values = _rows(megabytes * 1_000_000 // (4 * width), width)
        speeds: dict[str, Json] = {}
        for name, codec in CODECS.items():
            encode_s = quickest_s(lambda codec=codec, values=values: codec.encode(values), repeats=5, at_most_s=2)
            speeds[name] = round(values.nbytes / encode_s / 1e6)
        results[f"encode_mb_per_s_d{width}"] = speeds
    return results


def _against_prepack(rows: int) -> dict[str, Json]:
    """Greedy int4 against PyTorch's serial loop: the same rows, the same bytes."""
    results: dict[str, Json] = {}
    codec = CODECS["int4_greedy"]
    for width in (8, 16, 32, 64):
        values = _rows(rows, width)
        many = np.tile(values, (16, 1))  # PyTorch's time grows with the rows, ours should not be all threads' start
        tensor = torch.from_numpy(values)
        prepack_s = quickest_s(_prepack(tensor), repeats=3, at_most_s=2)
        encode_s = quickest_s(lambda many=many: codec.encode(many), repeats=5, at_most_s=2) / 16
        alone_s = quickest_s(lambda many=many: codec.encode(many, threads=1), repeats=3, at_most_s=2) / 16
        same = bool((codec.encode(values).data == _prepack(tensor)().numpy()).all())
        results[f"int4_greedy_over_torch_prepack_d{width}"] = round(prepack_s / encode_s, 1)
        results[f"int4_greedy_one_thread_over_torch_prepack_d{width}"] = round(prepack_s / alone_s, 1)
        results[f"int4_greedy_bytes_equal_torch_d{width}"] = same
    return results


def _prepack(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: torch.ops.quantized.embedding_bag_4bit_prepack(tensor, True)


def _pooling(rows: int, dim: int, rounds: int) -> dict[str, Json]:
    values = _rows(rows, dim)
    arena = RowArena(dim, rows * (4 * dim + 9) + (64 << 20), max_blocks=1)
    arena.define_block(np.arange(dim, dtype=np.uint16))
    plain = arena.allocate(0, rows)
    arena.write(plain, np.arange(1, rows + 1, dtype=np.uint64), values)
    results: dict[str, Json] = {"pooled_rows": rows, "pooled_width": dim}
    pooling = np.zeros(1, np.int8)
    for name in _POOLED:
        packed = CODECS[name].encode(values)
        views, (handles,) = views_of([(packed, np.arange(dim, dtype=np.uint16))], dim)
        for a_bag in (1, 20):
            bags = 40_000 // a_bag
            offsets = np.arange(0, bags * a_bag + 1, a_bag)
            out, expected = np.empty((bags, dim), np.float32), np.empty((bags, dim), np.float32)
            quickest = [np.inf, np.inf]
            for turn in range(rounds):
                chosen = np.random.default_rng(turn).integers(0, rows, bags * a_bag)
                mine, theirs = handles[chosen], plain[chosen]
                begin = time.perf_counter()
                gather_bags(arena.views(), theirs, offsets, pooling, 0, bags, expected)
                middle = time.perf_counter()
                pool_packed_bags(views, mine, offsets, pooling, 0, bags, out)
                end = time.perf_counter()
                if turn:
                    quickest = [min(quickest[0], middle - begin), min(quickest[1], end - middle)]
            results[f"pool_{name}_{a_bag}_ns_per_lookup"] = round(quickest[1] / bags / a_bag * 1e9, 2)
            results[f"pool_{name}_{a_bag}_over_fp32"] = round(quickest[0] / quickest[1], 3)
            results[f"pool_fp32_arena_{a_bag}_ns_per_lookup_beside_{name}"] = round(quickest[0] / bags / a_bag * 1e9, 2)
    return results


if __name__ == "__main__":
    main()
