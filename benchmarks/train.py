"""Training in memory: clicks at the recipe's own batch size, and DLRM's benchmark setting, in fp32 and bf16.

`python -m benchmarks.train [--quick] [--data FILE]`. Clicks go from Arrow messages in memory to trained rows, one
thread decoding, admitting and finding while the other learns; the shares say what each stage costs by itself. In
DLRM's setting ids are hashed already, so that it starts at finding. BLAS is limited to one thread: the step shares
large batches among cores itself. torch keeps its own threads.

Results: `globo_samples_per_s`, `seed_1_lookup_samples_per_s`, `seed_100_lookups_samples_per_s`; the same with `_bf16`
before `_samples_per_s`; `*_share` of decode, admission, lookup, dense, update; `sparse_side_of_step` (gather and
update); `reference_*` (the published program's operations in torch, fp32) with `*_of_reference`; `bare_mlp_*` (DLRM's
two MLPs alone, by torch, by our kernels without and with AMX) with `*_of_bare_mlp_torch` and `*_of_bare_mlp`, a rate
over torch's and over the fastest. All of DLRM's setting is measured in rounds, one after another in each; a rate is the
median of its rounds and `_most` the largest, a ratio the median of the rounds' ratios. With AMX bf16 goes through our
own kernels, in full batches; elsewhere through torch's autocast, in small ones where that only emulates.
"""

import argparse
import logging
import statistics
from itertools import islice
from pathlib import Path

from threadpoolctl import threadpool_limits

from benchmarks.click_stream import CLICKS, ClickStream, load_clicks
from benchmarks.overlapped_training import decoded, learn_overlapped
from benchmarks.report import report
from benchmarks.seed_setting import BATCH, SeedSetting, bare_mlp_rate, bf16_batch, reference_program, seed_rate
from benchmarks.stage_shares import measure_stages
from stream_trainer.amx_support import amx_is_usable
from stream_trainer.learner import Learner
from stream_trainer.process import make_learner
from stream_trainer.recipe import Recipe
from stream_trainer.settings import TrainerSettings
from stream_trainer.train_step import Precision

_WARM_MESSAGES = 10


def new_learner(stream: ClickStream, precision: Precision, seed: int = 0) -> Learner:
    """A learner with the trainer's default settings."""
    nowhere = Path("unused")
    return make_learner(
        stream.schema, TrainerSettings(model_file=nowhere, state_dir=nowhere, seed=seed, precision=precision)
    )


def clicks(stream: ClickStream, bf16_messages: int) -> dict[str, float | str]:
    """Rates and shares of the click stream; bf16 on so many messages only where torch does it, and slowly."""
    rate = learn_overlapped(new_learner(stream, "fp32"), decoded(stream), _WARM_MESSAGES)
    messages, warm = (None, _WARM_MESSAGES) if amx_is_usable() else (bf16_messages + 1, 1)
    bf16_rate = learn_overlapped(new_learner(stream, "bf16"), islice(decoded(stream), messages), warm)
    spent, sparse_side = measure_stages(
        new_learner(stream, "fp32"), decoded(stream), Recipe().batch_size, _WARM_MESSAGES
    )
    name = "globo" if stream.source == "globo" else stream.source
    return {
        "clicks": stream.source,
        "clicks_batch_size": Recipe().batch_size,
        f"{name}_samples_per_s": round(rate),
        f"{name}_bf16_samples_per_s": round(bf16_rate),
        **spent.shares(),
        "sparse_side_of_step": round(sparse_side, 4),
    }


def seed_setting(rows: int, rounds: int, batches: int, bf16_batches: int) -> dict[str, float | str]:
    """Rates of DLRM's setting beside the limit of its MLPs; bf16 in so few batches only where torch does it."""
    if amx_is_usable():
        bf16_batches = batches
    few = bf16_batch()
    setting, reference = SeedSetting.filled(rows), reference_program(rows)
    measured: dict[str, list[float]] = {}
    for _ in range(rounds):
        published = {lookups: reference.rate(lookups, -(-batches // 3), BATCH) for lookups in (1, 100)}
        for lookups, rate in published.items():
            measured.setdefault(f"reference_{lookups}_lookups_samples_per_s", []).append(rate)
        for precision, part, count, size in (("fp32", "", batches, BATCH), ("bf16", "_bf16", bf16_batches, few)):
            bare = bare_mlp_rate(precision, count, size)
            found = {f"bare_mlp_{maker}{part}_samples_per_s": rate for maker, rate in bare.items()}
            for lookups, name in ((1, "seed_1_lookup"), (100, "seed_100_lookups")):
                rate = seed_rate(setting, lookups, precision, count, size)
                found[f"{name}{part}_samples_per_s"] = rate
                found[f"{name}{part}_of_reference"] = rate / published[lookups]
                found[f"{name}{part}_of_bare_mlp_torch"] = rate / bare["torch"]
                found[f"{name}{part}_of_bare_mlp"] = rate / max(bare.values())
            for key, value in found.items():
                measured.setdefault(key, []).append(value)
    results: dict[str, float | str] = {
        "seed_rows_per_table": rows,
        "seed_bf16_batch_size": few,
        "seed_rounds": rounds,
    }
    for key, values in measured.items():
        is_rate = key.endswith("_samples_per_s")
        results[key] = round(statistics.median(values)) if is_rate else round(statistics.median(values), 3)
        if is_rate:
            results[f"{key}_most"] = round(max(values))
    return results


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer samples and smaller tables, done within 50 s")
    parser.add_argument("--data", type=Path, default=CLICKS, help="Parquet file of the clicks")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    quick = options.quick
    with threadpool_limits(1, user_api="blas"):
        results = clicks(load_clicks(200_000 if quick else 1_000_000, options.data), 1 if quick else 5)
        results |= seed_setting(*(100_000, 1, 2, 1) if quick else (1_000_000, 5, 10, 1))
    report("train", results)


if __name__ == "__main__":
    main()
