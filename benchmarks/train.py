"""Training in memory: clicks at the recipe's own batch size, and DLRM's benchmark setting, in fp32 and bf16.

`python -m benchmarks.train [--quick] [--data FILE]`. Clicks go from Arrow messages in memory to trained rows, one
thread decoding, admitting and finding while the other learns; the shares say what each stage costs by itself. In
DLRM's setting ids are hashed already, so that it starts at finding. BLAS is limited to one thread: the step shares
large batches among cores itself. torch keeps its own threads.

Results: `globo_samples_per_s`, `seed_1_lookup_samples_per_s`, `seed_100_lookups_samples_per_s`; the same with `_bf16`
before `_samples_per_s`; `*_share` of decode, admission, lookup, dense, update; `sparse_side_of_step` (gather and
update); `bare_mlp_*` (DLRM's two MLPs alone) with `*_of_bare_mlp`, a rate over the faster of them. With AMX bf16 goes
through our own kernels, in full batches; elsewhere through torch's autocast, in small ones where that only emulates.
"""

import argparse
import logging
from itertools import islice
from pathlib import Path

from threadpoolctl import threadpool_limits

from benchmarks.click_stream import CLICKS, ClickStream, load_clicks
from benchmarks.overlapped_training import decoded, learn_overlapped
from benchmarks.report import report
from benchmarks.seed_setting import SeedSetting, bare_mlp_rate, bf16_batch, seed_rate
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


def seed_setting(rows: int, batches: int, bf16_batches: int) -> dict[str, float | str]:
    """Rates of DLRM's setting beside the limit of its MLPs; bf16 in so few batches only where torch does it."""
    if amx_is_usable():
        bf16_batches = batches
    results: dict[str, float | str] = {"seed_rows_per_table": rows}
    few = bf16_batch()
    results["seed_bf16_batch_size"] = few
    bare = bare_mlp_rate("fp32", batches)
    results |= {f"bare_mlp_{maker}_samples_per_s": round(rate) for maker, rate in bare.items()}
    bare_bf16 = bare_mlp_rate("bf16", bf16_batches, few)
    results |= {f"bare_mlp_{maker}_bf16_samples_per_s": round(rate) for maker, rate in bare_bf16.items()}
    setting = SeedSetting.filled(rows)
    for lookups, name in ((1, "seed_1_lookup"), (100, "seed_100_lookups")):
        results[f"{name}_samples_per_s"] = round(seed_rate(setting, lookups, "fp32", batches))
        results[f"{name}_bf16_samples_per_s"] = round(seed_rate(setting, lookups, "bf16", bf16_batches, few))
        results[f"{name}_of_bare_mlp"] = round(float(results[f"{name}_samples_per_s"]) / max(bare.values()), 3)
        bf16_part = float(results[f"{name}_bf16_samples_per_s"]) / max(bare_bf16.values())
        results[f"{name}_bf16_of_bare_mlp"] = round(bf16_part, 3)
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
        results |= seed_setting(100_000 if quick else 1_000_000, 3 if quick else 20, 1 if quick else 3)
    report("train", results)


if __name__ == "__main__":
    main()
