"""Does the recipe stand still? Progressive AUC over the first million clicks, several seeds, mean and spread.

`python -m benchmarks.recipe [--quick] [--seeds 5] [--rows 1000000] [--data FILE] [--model NAME] [--set NAME=VALUE]
[--precision bf16]`.
The trainer's own parts and default settings, in memory: count-min admission, missing rows, everything predicted before
it is learned. `--set` changes fields of the recipe, `--top 256,64` the top MLP, to try what the defaults were chosen
against, `--align linear --dim 32` another alignment and width. A seed is dead when its AUC stays below 0.55.

Results: `auc_mean`, `auc_spread` (largest minus smallest), `auc` of every seed, `log_loss_mean`, `dead_seeds`.
"""

import argparse
import dataclasses
import logging
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.click_stream import CLICKS, ClickStream, load_clicks
from benchmarks.overlapped_training import decoded, learn_overlapped
from benchmarks.report import report
from model_contract.schema import Align
from stream_trainer.process import make_learner
from stream_trainer.recipe import Recipe
from stream_trainer.settings import TrainerSettings
from stream_trainer.train_step import Precision

_DEAD_BELOW = 0.55


def changed_recipe(changes: list[str]) -> Recipe:
    """The default recipe with `NAME=VALUE` changes."""
    kinds = {entry.name: type(getattr(Recipe(), entry.name)) for entry in dataclasses.fields(Recipe)}
    pairs = [change.split("=", 1) for change in changes]
    return Recipe(**{name: kinds[name](value) for name, value in pairs})


def run_seed(stream: ClickStream, recipe: Recipe, seed: int, precision: Precision = "fp32") -> dict[str, float]:
    """Learns the whole stream once; the run's progressive metrics and `samples_per_s`."""
    nowhere = Path("unused")
    settings = TrainerSettings(model_file=nowhere, state_dir=nowhere, seed=seed, precision=precision)
    learner = make_learner(stream.schema, settings, recipe)
    rate = learn_overlapped(learner, decoded(stream), warm=0)
    return {**learner.metrics.summary(), "samples_per_s": rate}


def main() -> None:
    """Parses the command line and runs the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds on 200,000 rows")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, default=CLICKS)
    parser.add_argument("--model", default="globo", help="packaged model of the data")
    parser.add_argument("--top", help="widths of the top MLP, such as 256,64")
    parser.add_argument("--align", choices=get_args(Align), default="zero_pad", help="how narrow rows meet")
    parser.add_argument("--dim", type=int, help="D, the model's own if left out")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="field of the recipe")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows, seeds = (200_000, 2) if options.quick else (options.rows, options.seeds)
    stream = load_clicks(rows, options.data, options.model)
    if options.top:
        top = tuple(int(width) for width in options.top.split(","))
        stream = replace(stream, schema=replace(stream.schema, top=top))
    stream = replace(stream, schema=replace(stream.schema, align=options.align, dim=options.dim or stream.schema.dim))
    recipe = changed_recipe(options.set)
    with threadpool_limits(1, user_api="blas"):
        runs = [run_seed(stream, recipe, seed, options.precision) for seed in range(seeds)]
    aucs = np.array([run["auc"] for run in runs])
    report(
        "recipe",
        {
            "data": stream.source,
            "rows": stream.rows,
            "precision": options.precision,
            "top": list(stream.schema.top),
            "align": stream.schema.align,
            "dim": stream.schema.dim,
            "recipe": dataclasses.asdict(recipe),
            "auc_mean": round(float(aucs.mean()), 4),
            "auc_spread": round(float(np.ptp(aucs)), 4),
            "auc": [round(float(auc), 4) for auc in aucs],
            "log_loss_mean": round(float(np.mean([run["log_loss"] for run in runs])), 4),
            "dead_seeds": int((aucs < _DEAD_BELOW).sum()),
            "samples_per_s": round(float(np.mean([run["samples_per_s"] for run in runs]))),
        },
    )


if __name__ == "__main__":
    main()
