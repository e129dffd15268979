"""Do widths find themselves? Progressive AUC and log-loss against bytes, beside the baselines at equal bytes.

`python -m benchmarks.dimensions [--data globo|movielens|criteo] [--seeds 3] [--rows N] [--methods A,B] [--shares ...]
[--jobs 2] [--out FILE] [--quick]`. Every sample is predicted before it is learned, on the stream's own clock. A share
is of the bytes that uniform D = 32 takes at the end of the stream: 4 bytes a column and 4 of optimizer state a row;
`bytes` is the table's peak, by that count, after the first search (of methods without one: over the whole stream),
`memory_bytes` all that the table held at the end: ids, counts, index and slabs too.

- uniform: one width for all from the start.
- mde: mixed dimensions by power law of the final table sizes, known beforehand (Ginart et al. 2019), from the start.
- magnitude, sseds: uniform D = 32, pruned once after a quarter of the stream (SSEDS: Qu et al. 2022), then on.
- continual_slots, continual_bands: dimflow's search every 50,000 samples, without and with bands; columns up to 64, at
  first 32 or as few as the budget asks for.
- on request only: METHOD_linear, with `align = linear` (`--align linear` for all methods named), and METHOD_cold or
  METHOD_warm_cold, whose first layer starts anew after a resize (`--after-resize cold_first_layer` for all).

Results: `METHOD@SHARE` with `auc_mean`, `auc_spread` (largest minus smallest), `log_loss`, `bytes`, `share`, `seeds`.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.click_stream import CLICKS, ClickStream, load_clicks
from benchmarks.overlapped_training import decoded
from benchmarks.recipe import changed_recipe
from benchmarks.report import Json, report
from dimension_search.budget import COLUMN_BYTES, ROW_STATE_BYTES, DimensionBudget, bytes_taken
from dimension_search.column_pruning import ColumnPruning
from dimension_search.evidence import BlockEvidence
from dimension_search.fixed_widths import PowerLaw
from dimension_search.heat import HeatBands
from dimension_search.principal import PrincipalPlanner
from model_contract.schema import Align
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.learner import Learner
from stream_trainer.process import make_learner
from stream_trainer.recipe import Recipe
from stream_trainer.settings import TrainerSettings

FILES = {"globo": CLICKS.name, "movielens": "movielens_1m_half.parquet", "criteo": "criteo_1tb_80k.parquet"}
ROWS = {"globo": 1_000_000, "movielens": 487_650, "criteo": 80_000}
METHODS = ("uniform", "magnitude", "mde", "sseds", "continual_slots", "continual_bands")
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
DIM, WIDEST, START_WIDTH = 32, 64, 32
ENDINGS = ("_linear", "_warm_cold", "_cold")
_SORT_SAMPLES = 16_384
_EVERYTHING = 1 << 40
BANDS = HeatBands((0.03, 0.5))
HALF_LIFE_SAMPLES = 20_000
COUNT_HALF_LIFE_S = 1e9  # these streams span from an hour's traffic to years of it: counts are left as they are


@lru_cache(maxsize=1)
def _stream(data: str, rows: int) -> ClickStream:
    return load_clicks(rows, CLICKS.parent / FILES[data], data)


@lru_cache(maxsize=1)
def _final_rows(data: str, rows: int) -> NDArray[np.int64]:
    """Rows of each slot at the end of the stream; admission depends neither on widths nor on seeds much."""
    learner = _learner(_stream(data, rows), 1, 0, Recipe())
    _learn(_stream(data, rows), learner)
    return np.array([use.rows for use in learner.table.block_uses()], np.int64)


def parts_of(method: str) -> tuple[str, Align, bool]:
    """The method without its endings, how rows are aligned, and whether the first layer starts anew."""
    align: Align = "zero_pad"
    cold = False
    while ending := next((one for one in ENDINGS if method.endswith(one)), None):
        method = method.removesuffix(ending)
        align, cold = ("linear", cold) if ending == "_linear" else (align, True)
    return method, align, cold


def _learner(
    stream: ClickStream,
    dim: int,
    seed: int,
    recipe: Recipe,
    rules: DimensionRules | None = None,
    align: Align = "zero_pad",
) -> Learner:
    nowhere = Path("unused")
    settings = TrainerSettings(
        model_file=nowhere, state_dir=nowhere, seed=seed, memory_bytes=4 << 30, count_half_life_s=COUNT_HALF_LIFE_S
    )
    return make_learner(replace(stream.schema, dim=dim, align=align), settings, recipe, rules)


def _learn(stream: ClickStream, learner: Learner) -> int:
    """Learns the stream on its own clock; the peak of the bytes after the first search."""
    samples = sorted_at = peak = 0
    for decode in decoded(stream):
        batch = decode()
        now_s = int(batch.ts_ms[-1]) // 1000 or 1 + samples // 100  # a stream without time has its own
        prepared = learner.prepare(batch, now_s)
        learner.learn(prepared, now_s)
        samples += prepared.rows
        if samples - sorted_at >= _SORT_SAMPLES or learner.needs_quiet:
            sorted_at = samples
            learner.tidy(now_s, _EVERYTHING)
        keeper = learner.dimensions
        if keeper is None or (keeper.fitted and not keeper.needs_quiet):
            peak = max(peak, bytes_taken(learner.table.block_uses()))
    return peak


def rules_of(method: str, share: float, data: str, rows: int) -> DimensionRules:
    """When and how a method searches."""
    method, _, cold = parts_of(method)
    after: Literal["keep", "cold_first_layer"] = "cold_first_layer" if cold else "keep"
    full = int(_final_rows(data, rows).sum() * (COLUMN_BYTES * DIM + ROW_STATE_BYTES))
    if method.startswith("continual"):
        bands = BANDS if method == "continual_bands" else HeatBands()
        return DimensionRules(
            planner=PrincipalPlanner(),
            heat=bands,
            half_life_samples=HALF_LIFE_SAMPLES,
            max_bytes=int(share * full),
            search_every_samples=50_000,
            budget_search_samples=8192,
            start_width=START_WIDTH,
            after_resize=after,
        )
    return DimensionRules(
        planner=ColumnPruning("magnitude" if method == "magnitude" else "sseds"),
        max_share=share,
        drop_cold=False,
        first_search_samples=rows // 4,
        tolerance=np.inf,
        one_shot=True,
        after_resize=after,
    )


def run(method: str, share: float, data: str, rows: int, seed: int, recipe: Recipe) -> dict[str, float]:
    """One run: `auc`, `log_loss`, `bytes`, `memory_bytes`."""
    stream = _stream(data, rows)
    final = _final_rows(data, rows)
    full = int(final.sum()) * (COLUMN_BYTES * DIM + ROW_STATE_BYTES)
    whole, (method, align, _) = method, parts_of(method)
    with threadpool_limits(1, user_api="blas"):
        if method == "uniform":
            width = max(1, (int(share * full) // int(final.sum()) - ROW_STATE_BYTES) // COLUMN_BYTES)
            learner = _learner(stream, width, seed, recipe, align=align)
        elif method == "mde":
            learner = _learner(stream, DIM, seed, recipe, align=align)
            learner.table.begin_resize(_power_law(final, int(share * full)))
            learner.table.resize_some(_EVERYTHING)
        elif method in {"magnitude", "sseds"}:
            rules = None if share == 1 else rules_of(whole, share, data, rows)
            learner = _learner(stream, DIM, seed, recipe, rules, align)
        else:
            learner = _learner(stream, WIDEST, seed, recipe, rules_of(whole, share, data, rows), align)
        peak = _learn(stream, learner)
    found = learner.metrics.summary()
    return {"auc": found["auc"], "log_loss": found["log_loss"], "bytes": peak, "memory_bytes": learner.table.bytes_used}


def _power_law(rows: NDArray[np.int64], max_bytes: int) -> list[NDArray[np.uint16]]:
    shape = (rows.size, 1)
    zeros = np.zeros((*shape, DIM))
    evidence = BlockEvidence(
        active=np.ones((*shape, DIM), np.bool_),
        rows=rows[:, None],
        counts=np.zeros(shape),
        lookups=np.zeros(shape),
        first=zeros,
        squared=zeros,
        magnitude=zeros,
        spectrum=zeros,
        signal=np.ones(shape),
    )
    chosen = PowerLaw().choose(evidence, DimensionBudget(max_bytes, DIM))
    return [np.flatnonzero(columns).astype(np.uint16) for columns in chosen[:, 0]]


def summary(runs: Sequence[dict[str, float]], full: int) -> dict[str, float]:
    """Mean and spread over seeds."""
    aucs = np.array([found["auc"] for found in runs])
    peak = float(np.mean([found["bytes"] for found in runs]))
    return {
        "auc_mean": round(float(aucs.mean()), 5),
        "auc_spread": round(float(np.ptp(aucs)), 5),
        "log_loss": round(float(np.mean([found["log_loss"] for found in runs])), 5),
        "bytes": round(peak),
        "share": round(peak / full, 4),
        "memory_bytes": round(float(np.mean([found["memory_bytes"] for found in runs]))),
        "seeds": len(runs),
    }


def main() -> None:
    """Parses the command line and runs every method at every share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two methods at one share on fewer rows, within 50 s")
    parser.add_argument("--data", choices=tuple(FILES), default="globo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="samples, 0 for all of the comparison")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--align", choices=get_args(Align), default="zero_pad", help="of all methods")
    parser.add_argument("--after-resize", choices=("keep", "cold_first_layer"), default="keep", help="of all methods")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)))
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time; quality is measured, not speed")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="field of the recipe")
    parser.add_argument("--out", type=Path, help="file to keep the results in")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if not (CLICKS.parent / FILES[options.data]).exists():
        report("dimensions", {"skipped": f"{FILES[options.data]} is not there"})
        return
    rows = options.rows or ROWS[options.data]
    ending = ("_linear" if options.align == "linear" else "") + ("" if options.after_resize == "keep" else "_cold")
    methods = [method + ending for method in options.methods.split(",")]
    shares = [float(share) for share in options.shares.split(",")]
    seeds = options.seeds
    if options.quick:
        rows, methods, shares, seeds = min(rows, 150_000), ["uniform", "continual_bands"], [0.125], 1
    recipe = changed_recipe(options.set)
    full = int(_final_rows(options.data, rows).sum()) * (COLUMN_BYTES * DIM + ROW_STATE_BYTES)
    results: dict[str, Json] = {"data": options.data, "rows": rows, "full_bytes": full}
    jobs = list(product(methods, shares, range(seeds)))
    with ProcessPoolExecutor(options.jobs) as pool:
        pending = {job: pool.submit(run, job[0], job[1], options.data, rows, job[2], recipe) for job in jobs}
        for method, share in product(methods, shares):
            name = f"{method}@{share:g}"
            found = summary([pending[method, share, seed].result() for seed in range(seeds)], full)
            results[name] = dict(found)
            print(name, json.dumps(found), flush=True)
    report("dimensions", results, options.out)


if __name__ == "__main__":
    main()
