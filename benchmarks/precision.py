"""What does precision cost? Bytes served, AUC, log-loss and changes of probabilities, codec by codec and searched.

    python -m benchmarks.precision [--data globo|movielens|criteo] [--seeds 3] [--rows N] [--dims 8,16,32]
        [--shares 0.125,0.0625] [--jobs 2] [--out FILE] [--quick]

A stream is learned once for each width and seed, on its own clock; the trained rows are fp32 throughout. At regular
points the next samples, before they are learned, are scored from fp32 rows and from the rows as each codec leaves
them. Figures are over the samples of all points, means over seeds.

- `CODEC@D`: all rows of uniform width D by one codec, what they share learned at that point.
- `tiers@D`: by the tiers of the automatic search, made on earlier samples; `tiers_per_slot@D` with one codec a slot,
  `tiers_uniform@D` with one for all rows.
- `fp32@SHARE`, `searched@SHARE`: the same after searches for widths up to 64, slots and bands, within that share of the
  bytes (columns and optimizer state) of uniform D = 32.

`bytes` are those of packed rows and of what they share at the last point, without ids, index and optimizer state;
`share` is of the same rows in fp32, `share_of_reference` of all rows at D = 32 in fp32. `log_loss_change` is relative
to fp32 on the same samples, with its standard error `log_loss_noise`; `log_loss_expected` is the same by the fp32
model's own probabilities (the divergence of the two predictions), free of the labels' noise.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from benchmarks.click_stream import CLICKS
from benchmarks.dimensions import FILES, ROWS, _final_rows, _learner, _stream, rules_of
from benchmarks.overlapped_training import decoded
from benchmarks.report import Json, report
from dimension_search.budget import COLUMN_BYTES
from dimension_search.learned_scales import LearnedScales
from dimension_search.precision_policy import policy_named
from dimension_search.row_tiers import PlanTiers
from stream_trainer.learner import Learner
from stream_trainer.precision_keeper import PrecisionKeeper, PrecisionRules
from stream_trainer.precision_pass import PrecisionPass, learn_blocks
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.recipe import Recipe

CODECS = ("fp16", "int8_minmax", "int8_greedy", "int4_minmax", "int4_greedy", "int4_greedy_coded")
DIMS, SHARES = (8, 16, 32), (0.125, 0.0625)
REFERENCE, WIDEST = 32, 64
_POINTS = 20
_SCORED = 8192  # samples of a point
_EVERYTHING = 1 << 40
_SORT_SAMPLES = 16_384

Floats = NDArray[np.float64]
Scores = dict[str, list[Floats]]


class _Run:
    """One stream learned once, and what codecs would have answered at its points."""

    def __init__(self, learner: Learner, policies: Sequence[str], every: int, codecs: Sequence[str]) -> None:
        self.learner = learner
        self.every = every
        self.scores: Scores = {}
        self.bytes: dict[str, int] = {}
        self._codecs = codecs
        self._pass = PrecisionPass(learner.schema, learner.step.layout)
        self._keepers = {
            "tiers" if policy == "importance" else f"tiers_{policy}": PrecisionKeeper(
                learner.schema,
                learner.table,
                learner.step,
                PrecisionRules(
                    policy=policy_named(policy),
                    first_search_samples=1,
                    search_every_samples=every // 2,
                    settle_samples=every // 4,
                    window_samples=min(8192, every // 6),
                    judge_samples=min(8192, every // 6),
                    samples_at_once=_SCORED,
                ),
            )
            for policy in policies
        }

    def learn(self, data: str, rows: int) -> None:
        """Learns the stream; the last samples of each period are scored first."""
        samples = sorted_at = 0
        keeper = self.learner.dimensions
        for decode in decoded(_stream(data, rows)):
            batch = decode()
            now_s = int(batch.ts_ms[-1]) // 1000 or 1 + samples // 100
            prepared = self.learner.prepare(batch, now_s)
            if samples % self.every >= self.every - _SCORED:
                self._score(prepared)
            else:
                for precision in self._keepers.values():
                    precision.before_learning(prepared, now_s, samples)
                    precision.keep(_EVERYTHING)
            self.learner.learn(prepared, now_s)
            samples += prepared.rows
            if samples - sorted_at >= _SORT_SAMPLES or self.learner.needs_quiet or (keeper and keeper.needs_quiet):
                sorted_at = samples
                self.learner.tidy(now_s, _EVERYTHING)
        for name, tiers in self._tiers().items():
            self.bytes[name] = self._packed_bytes(tiers)

    def _score(self, batch: PreparedBatch) -> None:
        parameters = self.learner.step.parameters
        read = self._pass.read(self.learner.table, batch)
        self.scores.setdefault("labels", []).append(batch.labels.astype(np.float64))
        exact = self._pass.predict(parameters, batch, read, read.values)
        self.scores.setdefault("fp32", []).append(exact.astype(np.float64))
        for name, tiers in self._tiers().items():
            logits = self._pass.predict(parameters, batch, read, read.decoded(tiers))
            self.scores.setdefault(name, []).append(logits.astype(np.float64))

    def _tiers(self) -> dict[str, PlanTiers]:
        """By name, how rows are packed now: as they were last planned to be, or by one codec."""
        table, names = self.learner.table, self.learner.schema.slot_names
        shared = LearnedScales(self._codecs)
        if any(name.endswith("coded") for name in self._codecs):
            learn_blocks(table, shared, 0, _EVERYTHING)
        found = {codec: shared.one_codec(codec, names, table.bands) for codec in self._codecs}
        for name, keeper in self._keepers.items():
            found[name] = PlanTiers(keeper.plan, names) if keeper.plan else shared.one_codec("fp32", names, table.bands)
        return found

    def _packed_bytes(self, tiers: PlanTiers) -> int:
        blocks = self.learner.table.all_rows().blocks
        self.bytes["fp32"] = sum(block.values.nbytes for block in blocks)
        parts = [part for block in blocks for part in tiers.packed(block.slot, block.band, block.counts, block.values)]
        shared = {(part.packed.codec, part.packed.shared.tobytes()): part.packed.shared.nbytes for part in parts}
        return sum(part.packed.data.nbytes for part in parts) + sum(shared.values())


def run(setting: float, data: str, rows: int, seed: int, quick: bool) -> dict[str, dict[str, float]]:
    """One run at a width (1 and more) or at a share of the bytes (below 1): figures by entry."""
    every = max(3 * _SCORED, rows // _POINTS)
    with threadpool_limits(1, user_api="blas"):
        if setting < 1:
            rules = rules_of("continual_bands", setting, data, rows)
            work = _Run(_learner(_stream(data, rows), WIDEST, seed, Recipe(), rules), ["importance"], every, ())
        else:
            policies = ["importance"] if quick or setting != REFERENCE else ["importance", "per_slot", "uniform"]
            work = _Run(_learner(_stream(data, rows), int(setting), seed, Recipe()), policies, every, CODECS)
        work.learn(data, rows)
    labels = np.concatenate(work.scores.pop("labels"))
    exact = np.concatenate(work.scores["fp32"])
    reference = int(_final_rows(data, rows).sum()) * COLUMN_BYTES * REFERENCE
    found = {}
    for name, scores in work.scores.items():
        entry = figures(labels, exact, np.concatenate(scores))
        entry |= {"bytes": work.bytes[name], "share": work.bytes[name] / work.bytes["fp32"]}
        entry["share_of_reference"] = work.bytes[name] / reference
        found[("searched" if setting < 1 and name == "tiers" else name) + f"@{setting:g}"] = entry
    found[f"fp32@{setting:g}"]["auc_of_stream"] = work.learner.metrics.summary()["auc"]
    return found


def figures(labels: Floats, exact: Floats, logits: Floats) -> dict[str, float]:
    """Quality of predictions and their distance from exact ones, all f64 (n,)."""
    losses, exact_losses = _losses(logits, labels), _losses(exact, labels)
    moved = np.abs(_chances(logits) - _chances(exact))
    rise = losses - exact_losses
    divergence = _chances(exact) * (exact - logits) + np.logaddexp(0, logits) - np.logaddexp(0, exact)
    positive = labels > 0
    ranks = rankdata(logits)
    above = ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    mean = float(exact_losses.mean())
    return {
        "auc": float(above / max(positive.sum() * (~positive).sum(), 1)),
        "log_loss": float(losses.mean()),
        "log_loss_change": float(rise.mean() / mean),
        "log_loss_noise": float(np.sqrt(np.sum(rise**2)) / rise.size / mean),
        "log_loss_expected": float(divergence.mean() / mean),
        "probability_change_max": float(moved.max()),
        "probability_change_p999": float(np.quantile(moved, 0.999)),
        "samples_scored": float(labels.size),
    }


def _losses(logits: Floats, labels: Floats) -> Floats:
    return np.logaddexp(0, np.where(labels > 0, -logits, logits))


def _chances(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float64)


_JOINED: dict[str, Callable[[Floats], float]] = {
    "probability_change_max": lambda values: float(values.max()),
    "log_loss_noise": lambda values: float(np.sqrt((values**2).sum()) / values.size),
}


def summary(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, Json]:
    """Means over seeds; of the largest change the largest, of noise what is left of it in the mean."""
    joined: dict[str, Json] = {}
    for entry in runs[0]:
        values = {key: np.array([found[entry][key] for found in runs]) for key in runs[0][entry]}
        means: dict[str, Json] = {key: _rounded(key, _JOINED.get(key, np.mean)(all_)) for key, all_ in values.items()}
        means |= {"auc_spread": round(float(np.ptp(values["auc"])), 5), "seeds": len(runs)}
        joined[entry] = means
    return joined


def _rounded(key: str, value: float) -> Json:
    if key in {"bytes", "samples_scored"}:
        return round(value)
    return float(f"{value:.3g}") if key.startswith(("log_loss_", "probability")) else round(float(value), 5)


def main() -> None:
    """Parses the command line and runs every width and share with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one width and one share on fewer rows, within 50 s")
    parser.add_argument("--data", choices=tuple(FILES), default="globo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="samples, 0 for all of the comparison")
    parser.add_argument("--dims", default=",".join(map(str, DIMS)))
    parser.add_argument("--shares", default=",".join(map(str, SHARES)))
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time; quality is measured, not speed")
    parser.add_argument("--out", type=Path, help="file to keep the results in")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if not (CLICKS.parent / FILES[options.data]).exists():
        report("precision", {"skipped": f"{FILES[options.data]} is not there"})
        return
    rows, seeds = options.rows or ROWS[options.data], options.seeds
    settings = [float(one) for one in [*options.dims.split(","), *options.shares.split(",")] if one]
    if options.quick:
        rows, seeds, settings = min(rows, 100_000), 1, [16.0, 0.125]
    results: dict[str, Json] = {"data": options.data, "rows": rows}
    with ProcessPoolExecutor(options.jobs) as pool:
        pending = {
            job: pool.submit(run, job[0], options.data, rows, job[1], options.quick)
            for job in product(settings, range(seeds))
        }
        for setting in settings:
            joined = summary([pending[setting, seed].result() for seed in range(seeds)])
            results |= joined
            for name, found in joined.items():
                print(name, json.dumps(found), flush=True)
    report("precision", results, options.out)


if __name__ == "__main__":
    main()
