"""What does it save to turn columns to principal axes before they are cut? One cut at a quarter of the stream.

`python -m benchmarks.turned_columns [--seeds 2] [--rows 600000] [--shares 0.25,0.125,0.0625] [--quick]`. Globo, uniform
D = 32 with a linear alignment, then one search by principal saliency, with the columns as training left them and turned
just before it; every sample is predicted before it is learned.

Results: `plain@SHARE` and `turned@SHARE` with `auc_mean` and `auc_spread` over the whole stream, `log_loss_before` and
`log_loss_after` of the held-back samples that the plan was judged on: as they were, and under the cut.
"""

import argparse
import logging
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.click_stream import CLICKS, ClickStream, load_clicks
from benchmarks.overlapped_training import decoded
from benchmarks.report import Json, report
from dimension_search.principal import PrincipalPlanner
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.learner import Learner
from stream_trainer.process import make_learner
from stream_trainer.settings import TrainerSettings
from stream_trainer.turned_columns import turned_state

DIM = 32
_TIDY_SAMPLES = 16_384


def _learner(stream: ClickStream, seed: int, rules: DimensionRules) -> Learner:
    nowhere = Path("unused")
    settings = TrainerSettings(
        model_file=nowhere, state_dir=nowhere, seed=seed, memory_bytes=4 << 30, count_half_life_s=1e9
    )
    return make_learner(replace(stream.schema, dim=DIM, align="linear"), settings, rules=rules)


def run(stream: ClickStream, share: float, seed: int, turn: bool) -> dict[str, float]:
    """One run: `auc`, `before` and `after` of the verdict."""
    quarter = stream.rows // 4
    rules = DimensionRules(
        planner=PrincipalPlanner(),
        max_share=share,
        drop_cold=False,
        first_search_samples=quarter + 1,
        tolerance=np.inf,
        one_shot=True,
    )
    learner = _learner(stream, seed, rules)
    samples = tidied = 0
    for decode in decoded(stream):
        batch = decode()
        now_s = int(batch.ts_ms[-1]) // 1000 or 1 + samples // 100
        if turn and samples >= quarter:
            turn = False
            state = turned_state(learner.fresh_state(0), learner.step.layout)
            learner = _learner(stream, seed, rules)
            learner.restore(state)
        learner.learn(learner.prepare(batch, now_s), now_s)
        samples += batch.rows
        if samples - tidied >= _TIDY_SAMPLES or learner.needs_quiet:
            tidied = samples
            learner.tidy(now_s, 1 << 40)
    plan = learner.dimensions.last_plan if learner.dimensions else None
    verdict = plan.verdict if plan else None
    if verdict is None or verdict.log_loss_before is None or verdict.log_loss_after is None:
        message = "no plan was judged: the stream is too short"
        raise SystemExit(message)
    return {
        "auc": learner.metrics.summary()["auc"],
        "before": verdict.log_loss_before,
        "after": verdict.log_loss_after,
    }


def main() -> None:
    """Parses the command line and runs both ways at every share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and share on 100,000 rows")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--shares", default="0.25,0.125,0.0625")
    parser.add_argument("--out", type=Path, help="file to keep the results in")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    rows, seeds = options.rows, options.seeds
    shares = [float(share) for share in options.shares.split(",")]
    if options.quick:
        rows, seeds, shares = 100_000, 1, [0.125]
    stream = load_clicks(rows, CLICKS)
    results: dict[str, Json] = {"data": stream.source, "rows": stream.rows}
    with threadpool_limits(1, user_api="blas"):
        for share, turn in product(shares, (False, True)):
            found = [run(stream, share, seed, turn) for seed in range(seeds)]
            aucs = np.array([one["auc"] for one in found])
            results[f"{'turned' if turn else 'plain'}@{share:g}"] = {
                "auc_mean": round(float(aucs.mean()), 5),
                "auc_spread": round(float(np.ptp(aucs)), 5),
                "log_loss_before": round(float(np.mean([one["before"] for one in found])), 5),
                "log_loss_after": round(float(np.mean([one["after"] for one in found])), 5),
            }
            print(share, turn, results[f"{'turned' if turn else 'plain'}@{share:g}"], flush=True)
    report("turned_columns", results, options.out)


if __name__ == "__main__":
    main()
