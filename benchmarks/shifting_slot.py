"""When another slot becomes the important one: do widths follow, both ways, and does the quality come back?

`python -m benchmarks.shifting_slot [--quick] [--seeds 3] [--rows N] [--memory M] [--out FILE]`. A hidden factorisation
machine over four slots: `before` matters in the first half of the stream and is noise in the second, `after` the other
way round, `user` and `device` matter throughout. Every sample is predicted before it is learned; AUC is that of the
last eighth. Compared at the same bytes (30 % of all rows at full width):

- continual: a search every 20th of the stream, `--memory` the weight of what earlier ones found;
- one_shot: the first search's widths to the end;
- aware: the best of a few fixed widths for the second half, known beforehand.

Results: `*_auc` of each and of the true logits, `*_width_*` of the two slots when the change comes and after the next
two searches, `searches_until_wider`: those after the change until `after` was wider than `before` (-1: never), goals.
"""

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.report import Json, report
from dimension_search.budget import COLUMN_BYTES, ROW_STATE_BYTES, bytes_taken
from dimension_search.plan import DimensionPlan
from dimflow.synthetic_streams import DriftingTeacher, TeacherSlot, best_auc
from model_contract.arrow_samples import ArrowSampleDecoder, encode_arrow
from model_contract.samples import SampleBatch
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.learner import Learner
from stream_trainer.process import make_learner
from stream_trainer.settings import TrainerSettings

DIM = 16
SHARE = 0.3
SEARCHES = 20
_DEFAULTS = DimensionRules()
MEMORY = _DEFAULTS.memory
BEFORE, AFTER, USER, DEVICE = range(4)
_BATCH = 1024
_EVERYTHING = 1 << 40


@dataclass(frozen=True, slots=True)
class ShiftingStream:
    """Samples whose important slot changes half-way.

    Attributes:
        teacher: makes them.
        batches: in order, with their true logits f64 (B,).
        rows: samples in all.
    """

    teacher: DriftingTeacher
    batches: tuple[tuple[SampleBatch, NDArray[np.float64]], ...]
    rows: int

    @property
    def change_at(self) -> int:
        """First sample of the second half."""
        return self.rows // 2


def shifting_stream(rows: int, seed: int, ids: int) -> ShiftingStream:
    """A stream of `rows` samples with `ids` ids in each of the three large slots."""
    slots = (
        TeacherSlot("before", ids, 0.7, importance=1.0, importance_after=0.0),
        TeacherSlot("after", ids, 0.7, importance=0.0, importance_after=1.0),
        TeacherSlot("user", ids, 0.7),
        TeacherSlot("device", 6, importance=0.5),
    )
    teacher = DriftingTeacher(slots, dense=0, width=12, signal=2.0, change_at=rows // 2, seed=seed)
    decoder = ArrowSampleDecoder(teacher.schema)
    batches = []
    for made in teacher.batches(rows, _BATCH):
        message = encode_arrow(pa.Table.from_batches([made.samples]), teacher.schema)
        batches.append((decoder.decode([message]).batch, made.true_logits))
    return ShiftingStream(teacher, tuple(batches), rows)


@dataclass(slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        auc: of the last eighth.
        peak_bytes: columns and state of all rows, the most after the first search.
        plans: filed, oldest first.
        widths: (samples, widths of the slots) whenever they were others than before.
    """

    auc: float = 0.0
    peak_bytes: int = 0
    plans: list[DimensionPlan] = field(default_factory=list)
    widths: list[tuple[int, list[int]]] = field(default_factory=list)


def run(stream: ShiftingStream, rules: DimensionRules | None, fixed: list[int] | None, seed: int) -> Outcome:
    """Learns the stream, under searches or with fixed widths of the slots."""
    found = Outcome()
    learner = _learner(stream, rules, seed, found.plans.append)
    if fixed is not None:
        learner.table.begin_resize([np.arange(width, dtype=np.uint16) for width in fixed])
        learner.table.resize_some(_EVERYTHING)
    tail = stream.rows - stream.rows // 8
    logits, labels = [], []
    for batch, _ in stream.batches:
        now_s = int(batch.ts_ms[-1]) // 1000
        prepared = learner.prepare(batch, now_s)
        if learner.dimensions is not None:
            learner.dimensions.before_learning(prepared, now_s, learner.counts.samples)
        predicted = learner.step.train(learner.table, prepared, now_s)
        learner.counts.samples += prepared.rows
        if learner.counts.samples > tail:
            logits.append(predicted)
            labels.append(batch.labels)
        if learner.needs_quiet:
            learner.tidy(now_s, _EVERYTHING)
        uses = learner.table.block_uses()
        widths = [use.width for use in uses]
        if not found.widths or found.widths[-1][1] != widths:
            found.widths.append((learner.counts.samples, widths))
        if fixed is not None or found.plans:
            size = bytes_taken(uses)
            found.peak_bytes = max(found.peak_bytes, size)
    found.auc = _auc(np.concatenate(logits), np.concatenate(labels))
    return found


def rules_for(
    stream: ShiftingStream, *, one_shot: bool = False, memory: float = MEMORY, searches: int = SEARCHES
) -> DimensionRules:
    """Searches at a fixed share of the bytes of the whole width, or one at the first of their places."""
    every = stream.rows // searches
    return DimensionRules(
        max_share=SHARE,
        headroom=0.0,
        drop_cold=False,
        first_search_samples=every,
        search_every_samples=every,
        budget_search_samples=_EVERYTHING,
        window_samples=min(_DEFAULTS.window_samples, every // 2),
        judge_samples=min(_DEFAULTS.judge_samples, every // 4),
        tolerance=np.inf,  # the bytes are given: what is asked is where they go
        memory=memory,
        one_shot=one_shot,
    )


def aware_widths(ids: int) -> list[list[int]]:
    """Fixed widths for the second half that cost no more than searches may: `before` is as narrow as can be."""
    total = int(SHARE * 3 * ids * (COLUMN_BYTES * DIM + ROW_STATE_BYTES))
    left = total // (ids + 1) - 3 * ROW_STATE_BYTES - COLUMN_BYTES  # bytes a row for the columns of `after` and `user`
    columns = left // COLUMN_BYTES
    users = (columns // 2 - 1, columns // 2, columns // 2 + 1)
    return [[1, columns - user, user, DIM] for user in users]


def searches_until_wider(stream: ShiftingStream, outcome: Outcome) -> int | None:
    """Searches that ended after the change until `after` has more columns than `before`, None if it never has."""
    later = [plan for plan in outcome.plans if plan.samples_trained > stream.change_at]
    for number, plan in enumerate(later, 1):
        applied = plan.verdict is not None and plan.verdict.decision == "applied"
        if applied and plan.widths[AFTER] > plan.widths[BEFORE]:
            return number
    return None


def planned_width(stream: ShiftingStream, outcome: Outcome, slot: int, searches: int) -> int:
    """Width of a slot by the last plan before the change (0 searches), or by the one so many searches after it."""
    before = [plan for plan in outcome.plans if plan.samples_trained <= stream.change_at]
    later = [plan for plan in outcome.plans if plan.samples_trained > stream.change_at]
    return [before[-1], *later][searches].widths[slot]


def _learner(
    stream: ShiftingStream, rules: DimensionRules | None, seed: int, on_plan: Callable[[DimensionPlan], None]
) -> Learner:
    nowhere = Path("unused")
    settings = TrainerSettings(
        model_file=nowhere, state_dir=nowhere, seed=seed, admission="always", memory_bytes=256 << 20
    )
    return make_learner(replace(stream.teacher.schema, dim=DIM), settings, None, rules, on_plan)


def _auc(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    """Share of (positive, negative) pairs in the right order."""
    order = np.argsort(logits, kind="stable")
    ranks = np.empty(order.size)
    ranks[order] = np.arange(1, order.size + 1)
    positives = int(labels.sum())
    return float((ranks[labels > 0].sum() - positives * (positives + 1) / 2) / (positives * (labels.size - positives)))


def measured(rows: int, ids: int, seed: int, memory: float) -> dict[str, float]:
    """One seed's figures."""
    stream = shifting_stream(rows, seed, ids)
    continual = run(stream, rules_for(stream, memory=memory), None, seed)
    once = run(stream, rules_for(stream, one_shot=True), None, seed)
    aware = max((run(stream, None, widths, seed) for widths in aware_widths(ids)), key=lambda outcome: outcome.auc)
    tail = np.concatenate([logits for _, logits in stream.batches])[-rows // 8 :]
    until = searches_until_wider(stream, continual)
    return {
        "continual_auc": continual.auc,
        "one_shot_auc": once.auc,
        "aware_auc": aware.auc,
        "true_auc": best_auc(tail),
        "continual_bytes": continual.peak_bytes,
        "one_shot_bytes": once.peak_bytes,
        "aware_bytes": aware.peak_bytes,
        "aware_width_after": aware.widths[-1][1][AFTER],
        "before_width_at_change": planned_width(stream, continual, BEFORE, 0),
        "after_width_at_change": planned_width(stream, continual, AFTER, 0),
        "before_width_two_searches_later": planned_width(stream, continual, BEFORE, 2),
        "after_width_two_searches_later": planned_width(stream, continual, AFTER, 2),
        "before_width_at_end": continual.widths[-1][1][BEFORE],
        "after_width_at_end": continual.widths[-1][1][AFTER],
        "searches_until_wider": -1 if until is None else until,
        "refused": sum(plan.verdict is not None and plan.verdict.decision == "refused" for plan in continual.plans),
    }


def main() -> None:
    """Parses the command line and runs every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, fewer samples, within 50 s")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="samples, 0 for those of the comparison")
    parser.add_argument("--memory", type=float, default=MEMORY, help="weight of what earlier searches found")
    parser.add_argument("--out", type=Path, help="file to keep the results in")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    seeds = 1 if options.quick else options.seeds
    rows = options.rows or (200_000 if options.quick else 400_000)
    ids = rows // 1000
    with threadpool_limits(1, user_api="blas"):
        found = [measured(rows, ids, seed, options.memory) for seed in range(seeds)]
    results: dict[str, Json] = {"rows": rows, "seeds": seeds, "memory": options.memory}
    for name in found[0]:
        values = [one[name] for one in found]
        results[name] = round(float(np.mean(values)), 5)
        if name.endswith("_auc"):
            results[f"{name}_spread"] = round(float(np.ptp(values)), 5)
    gap = [one["aware_auc"] - one["continual_auc"] for one in found]
    results["follows_within_two_searches"] = all(
        one["before_width_two_searches_later"] < one["before_width_at_change"]
        and one["after_width_two_searches_later"] > one["after_width_at_change"]
        for one in found
    )
    results["gap_to_aware"] = round(float(np.mean(gap)), 5)
    results["gap_of_one_shot"] = round(float(np.mean([one["aware_auc"] - one["one_shot_auc"] for one in found])), 5)
    results["recovers_within_0.003"] = bool(np.mean(gap) <= 0.003)
    report("shifting_slot", results, options.out)


if __name__ == "__main__":
    main()
