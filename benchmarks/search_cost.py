"""What searching costs the training: the single-shot pass against a step, and the rate with a keeper against without.

`python -m benchmarks.search_cost [--quick] [--out FILE]`, on the click stream with D = 32 and 64. The pass and the
step work on the same prepared samples, in turns on one thread, quickest of each; a part of the stream was learned
before. The rates are those of one thread that readies batches while another learns them, as in the trainer, with a
quiet moment every 16,384 samples; with a keeper: bands, a search every 50,000 samples, half of the bytes.

Results, for each D: `pass_of_step_dD` (goal: at most 2.5), `pass_us_per_sample_dD`, `step_us_per_sample_dD`,
`samples_per_s_dD` and `samples_per_s_searching_dD`
with their ratio `searching_rate_dD`, `searches_dD`, `longest_quiet_ms_dD`.
"""

import argparse
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

from threadpoolctl import threadpool_limits

from benchmarks.click_stream import ClickStream, load_clicks
from benchmarks.overlapped_training import decoded
from benchmarks.report import Json, report
from dimension_search.evidence import WindowSums
from dimension_search.heat import HeatBands
from stream_trainer.dimension_keeper import spectrum_every
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.learner import Learner
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.process import make_learner
from stream_trainer.saliency_pass import SaliencyPass
from stream_trainer.settings import TrainerSettings
from stream_trainer.stream_heat import StreamHeat

BANDS = HeatBands((0.03, 0.5))
HALF_LIFE_SAMPLES = 20_000
_TIDY_SAMPLES = 16_384
_WARM_BATCHES = 10
_TIMED_BATCHES = 12


def new_learner(stream: ClickStream, dim: int, rules: DimensionRules | None) -> Learner:
    """A learner with the trainer's defaults, D columns wide."""
    nowhere = Path("unused")
    settings = TrainerSettings(model_file=nowhere, state_dir=nowhere, memory_bytes=2 << 30)
    return make_learner(replace(stream.schema, dim=dim), settings, None, rules)


def pass_against_step(stream: ClickStream, dim: int, learned: int) -> dict[str, float]:
    """Seconds of both, per sample, after `learned` batches were learned."""
    learner = new_learner(stream, dim, None)
    heat = StreamHeat(HeatBands(), 0)
    saliency = SaliencyPass(learner.schema, learner.step.layout)
    sums = WindowSums(len(learner.schema.sparse), 1, dim, spectrum_every(dim))
    batches = decoded(stream)
    now_s = 1
    for decode in islice(batches, learned):
        learner.learn(learner.prepare(decode(), now_s), now_s)
    pass_s = step_s = float("inf")
    for decode in islice(batches, _TIMED_BATCHES):
        batch = learner.prepare(decode(), now_s)
        begin = time.perf_counter()
        saliency.observe(learner.step.parameters, batch, saliency.look_up(learner.table, batch, heat, now_s), sums)
        between = time.perf_counter()
        learner.step.train(learner.table, batch, now_s)
        end = time.perf_counter()
        pass_s = min(pass_s, (between - begin) / batch.rows)
        step_s = min(step_s, (end - between) / batch.rows)
    return {
        f"pass_us_per_sample_d{dim}": round(1e6 * pass_s, 3),
        f"step_us_per_sample_d{dim}": round(1e6 * step_s, 3),
        f"pass_of_step_d{dim}": round(pass_s / step_s, 3),
    }


def training_rate(stream: ClickStream, learner: Learner) -> tuple[float, float]:
    """Samples per second of the whole stream but its first batches, and the longest quiet moment in seconds."""
    batches = decoded(stream)
    clock = [1]

    def ready() -> PreparedBatch | None:
        make = next(batches, None)
        if make is None:
            return None
        batch = make()
        clock[0] = max(clock[0], int(batch.ts_ms[-1]) // 1000)
        return learner.prepare(batch, clock[0])

    rows = seen = since = 0
    begin, longest_s = time.perf_counter(), 0.0
    with ThreadPoolExecutor(1) as preparing:
        upcoming = preparing.submit(ready)
        while (prepared := upcoming.result()) is not None:
            if seen == _WARM_BATCHES:
                rows, begin = 0, time.perf_counter()
            seen, rows, since = seen + 1, rows + prepared.rows, since + prepared.rows
            quiet = since >= _TIDY_SAMPLES or learner.needs_quiet
            if not quiet:
                upcoming = preparing.submit(ready)
            learner.learn(prepared, clock[0])
            if quiet:
                since, quiet_at = 0, time.perf_counter()
                learner.tidy(clock[0])
                longest_s = max(longest_s, time.perf_counter() - quiet_at)
                upcoming = preparing.submit(ready)
    return rows / (time.perf_counter() - begin), longest_s


def searching_rules() -> DimensionRules:
    """A search every 50,000 samples for half of the bytes."""
    return DimensionRules(heat=BANDS, half_life_samples=HALF_LIFE_SAMPLES, max_share=0.5)


def measured(stream: ClickStream, dim: int, learned: int) -> dict[str, Json]:
    """All figures of one width."""
    results: dict[str, Json] = dict(pass_against_step(stream, dim, learned))
    plain, _ = training_rate(stream, new_learner(stream, dim, None))
    learner = new_learner(stream, dim, searching_rules())
    searching, longest_s = training_rate(stream, learner)
    keeper = learner.dimensions
    results |= {
        f"samples_per_s_d{dim}": round(plain),
        f"samples_per_s_searching_d{dim}": round(searching),
        f"searching_rate_d{dim}": round(searching / plain, 3),
        f"searches_d{dim}": keeper.searches if keeper is not None else 0,
        f"longest_quiet_ms_d{dim}": round(1e3 * longest_s, 1),
    }
    return results


def main() -> None:
    """Parses the command line and measures both widths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples, within 50 s")
    parser.add_argument("--out", type=Path, help="file to keep the results in")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    stream = load_clicks(150_000 if options.quick else 1_000_000)
    learned = 20 if options.quick else 150
    results: dict[str, Json] = {"clicks": stream.source, "rows": stream.rows}
    with threadpool_limits(1, user_api="blas"):
        for dim in (32, 64):
            training_rate(load_clicks(20_000), new_learner(stream, dim, replace(searching_rules(), tolerance=1e9)))
            results |= measured(stream, dim, learned)
    report("search_cost", results, options.out)


if __name__ == "__main__":
    main()
