"""Finds how precisely every row is served while training goes on, and sees that changed tiers are published.

Knows the table and the step of one learner; no Kafka, Redis or file. Rows stay fp32 here: a plan says how they are
packed when they leave. A search takes four stages, each on samples just before they are learned: what rows share is
learned block by block, a window for evidence, plans along the price of a byte, and further samples to judge them by.

Invariant: one batch does a bounded share of the work; the plan that holds for a cut is in the cut's arrays. Rows whose
tier a plan changes are marked as changed some thousand at a time, and are right for a server before and after. What is
not decided yet when the process ends is searched for anew. Columns may change meanwhile: scales serve rows of any
width, and held-back samples judge what comes of it.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimension_search.plan import Verdict
from dimension_search.precision_plan import (
    PrecisionPlan,
    read_precision_plan,
    same_codec_plan,
    write_precision_plan,
)
from dimension_search.precision_policy import ByImportance, PrecisionPolicy
from dimension_search.precision_search import Judged, choices_along_price, make_precision_plan, verdict_of
from dimension_search.row_tiers import PlanTiers
from embedding_table.table import EmbeddingTable, LiveRows
from model_contract.schema import ModelSchema
from stream_trainer.precision_gathering import PrecisionGathering
from stream_trainer.precision_pass import JudgedSums, PrecisionPass
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.tiers_of_cut import PLAN
from stream_trainer.train_step import TrainStep

__all__ = ["CODECS_SEARCHED", "PrecisionKeeper", "PrecisionRules"]

logger = logging.getLogger(__name__)

CODECS_SEARCHED = (
    "fp32",
    "fp16",
    "int8_minmax",
    "int8_minmax_coded",
    "int8_minmax_block",
    "int4_greedy",
    "int4_greedy_coded",
    "int4_minmax_block",
    "int2_greedy_coded",
    "int2_minmax_block",
)
_BEFORE = "before"
_SLICE_ROWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRules:
    """When to search, by what, and within which limits.

    Attributes:
        codec: of all rows, without a search; None to search.
        policy: the method.
        codecs: that may be chosen.
        tolerance: relative rise of the log-loss that a plan may cause.
        max_bytes: of all packed rows; 0 for as few as the tolerance allows.
        first_search_samples: samples before the first search.
        search_every_samples: samples between two searches; there is one after a change of columns as well,
        settle_samples: but not before so many samples since the last.
        window_samples: samples of the evidence.
        judge_samples: held-back samples that plans are judged on.
        samples_at_once: of one batch that are looked at, so that the work on it is bounded.
    """

    codec: str | None = None
    policy: PrecisionPolicy = field(default_factory=ByImportance)
    codecs: tuple[str, ...] = CODECS_SEARCHED
    tolerance: float = 1e-4
    max_bytes: int = 0
    first_search_samples: int = 50_000
    search_every_samples: int = 200_000
    settle_samples: int = 50_000
    window_samples: int = 4_096
    judge_samples: int = 4_096
    samples_at_once: int = 4_096


class PrecisionKeeper:
    """How precisely the rows of one learner are served.

    Args:
        schema: of the model.
        table: rows.
        step: whose dense parameters predict.
        rules: see `PrecisionRules`.
        on_plan: receives every plan with its verdict.

    Attributes:
        plan: the plan in force; None while all rows are fp32.
        searches: that ended with a verdict.
        refused: those among them whose plans were all refused.
    """

    def __init__(
        self,
        schema: ModelSchema,
        table: EmbeddingTable,
        step: TrainStep,
        rules: PrecisionRules,
        on_plan: Callable[[PrecisionPlan], None] = lambda plan: None,
    ) -> None:
        self.rules = rules
        self.plan: PrecisionPlan | None = None
        self.searches = 0
        self.refused = 0
        self._names = schema.slot_names
        self._table = table
        self._step = step
        self._on_plan = on_plan
        self._pass = PrecisionPass(schema, step.layout)
        self._last_search = 0
        self._searched_columns: bytes | None = None
        self._search: PrecisionGathering | None = None
        self._before: PrecisionPlan | None = None
        self._sweep: tuple[PlanTiers, PlanTiers] | None = None
        self._cursor = 0
        if rules.codec is not None and rules.codec != "fp32":
            self.plan = same_codec_plan(rules.codec, self._names, table.bands, created_ms=0)

    @property
    def needs_quiet(self) -> bool:
        """Whether `keep` has rows to mark: cheap, asked after every batch."""
        return self._sweep is not None

    def before_learning(self, batch: PreparedBatch, now_s: int, samples: int) -> None:
        """Takes from samples what a search needs, before they are learned.

        Args:
            batch: the samples.
            now_s: seconds since the epoch.
            samples: learned so far.
        """
        if self.rules.codec is not None or batch.rows == 0 or self._table.resizing:
            return
        if self._search is None:
            trigger = self._due(samples)
            if trigger is None:
                return
            self._search = PrecisionGathering(self._table, self.rules.codecs, self._names, trigger)
        search = self._search
        if search.learn_shared(self._table, _SLICE_ROWS):
            return
        batch = batch.first(self.rules.samples_at_once)
        if search.sums.samples < self.rules.window_samples:
            read = self._pass.read(self._table, batch)
            self._pass.observe(self._step.parameters, batch, read, search.codec_tiers, search.sums)
            if search.sums.samples >= self.rules.window_samples and not self._make_plans(search, now_s, samples):
                self._search = None
            return
        self._judge(search, batch)

    def keep(self, max_rows: int = _SLICE_ROWS) -> int:
        """Marks some rows as changed whose tier the plan has changed; no batch may be prepared or learned meanwhile.

        Returns:
            rows marked.
        """
        if self._sweep is None:
            return 0
        rows, self._cursor = self._table.scan_rows(self._cursor, max_rows)
        changed = self._changed(rows, *self._sweep)
        self._table.mark_changed(rows.handles[changed])
        if self._cursor == 0:
            self._table.mark_changed(self._table.missing_handles)  # a scan leaves them out
            self._sweep = self._before = None
        return int(changed.sum())

    def state(self) -> dict[str, NDArray[Any]]:
        """The plan in force, the one before while rows still go by it, and how far searches are, as arrays."""
        arrays: dict[str, NDArray[Any]] = {
            "progress": np.array(
                [self._last_search, self.searches, self.refused, int(self._sweep is not None)], np.int64
            ),
            "columns": np.frombuffer(self._searched_columns or b"", np.uint8).copy(),
        }
        for name, plan in ((PLAN, self.plan), (_BEFORE, self._before)):
            if plan is not None:
                arrays[name] = np.frombuffer(write_precision_plan(plan), np.uint8).copy()
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes back what `state` returned; rows that went by another plan are marked from the start again.

        A plan that settings ask for wins over the one restored.
        """
        if "progress" not in arrays:
            self._sweep_from(None)
            return
        restored, before = (
            read_precision_plan(arrays[name].tobytes()) if name in arrays else None for name in (PLAN, _BEFORE)
        )
        self._last_search, self.searches, self.refused, sweeping = arrays["progress"].tolist()
        self._searched_columns = arrays["columns"].tobytes() or None
        if self.rules.codec is None:
            self.plan = restored
        self._sweep_from(before if sweeping else restored)

    def _due(self, samples: int) -> str | None:
        if samples < self.rules.first_search_samples or self._sweep is not None:
            return None
        if self._searched_columns is None:
            return "samples"
        passed = samples - self._last_search
        if passed >= self.rules.search_every_samples:
            return "samples"
        settled = passed >= self.rules.settle_samples
        return "dimensions" if settled and self._searched_columns != self._columns() else None

    def _columns(self) -> bytes:
        """Says which columns every block has."""
        slots, bands = range(self._table.slots), range(self._table.bands)
        return b"|".join(self._table.columns(slot, band).tobytes() for slot in slots for band in bands)

    def _make_plans(self, search: PrecisionGathering, now_s: int, samples: int) -> bool:
        """Makes the plans to be judged; False where none fits the budget."""
        search.columns = self._columns()
        evidence = search.sums.evidence(*search.rows_and_widths(self._table))
        rules = self.rules
        priced = []
        if np.isfinite(evidence.log_loss):
            priced = choices_along_price(rules.policy, evidence, rules.tolerance, rules.max_bytes)
        plans = [
            make_precision_plan(
                one,
                evidence,
                search.shared,
                self._names,
                policy=rules.policy.name,
                trigger=search.trigger,
                created_ms=now_s * 1000,
                samples_trained=samples,
                tolerance=rules.tolerance,
                budget_bytes=rules.max_bytes,
            )
            for one in priced
        ]
        if plans:
            search.plans = plans
            search.plan_tiers = [PlanTiers(plan, self._names) for plan in plans]
            search.judged = [JudgedSums() for _ in plans]
            return True
        least = int(evidence.bytes.min(axis=1).sum())
        reason = f"the smallest plan takes {least} bytes, the budget is {rules.max_bytes}"
        if not np.isfinite(evidence.log_loss):
            reason = "the log-loss of the window is not finite"
        refused = PrecisionPlan(
            policy=rules.policy.name,
            trigger=search.trigger,
            created_ms=now_s * 1000,
            samples_trained=samples,
            tolerance=rules.tolerance,
            budget_bytes=rules.max_bytes,
            bytes_before=evidence.fp32_bytes,
            bytes_after=least,
            tiers=[],
            verdict=Verdict(decision="refused", reason=reason),
        )
        self._end(refused, search)
        return False

    def _judge(self, search: PrecisionGathering, batch: PreparedBatch) -> None:
        read = self._pass.read(self._table, batch)
        parameters = self._step.parameters
        before = self._pass.predict(parameters, batch, read, read.values)
        known: dict[tuple[int, bytes], NDArray[np.float32]] = {}  # neighbouring plans differ in a few blocks
        for tiers, sums in zip(search.plan_tiers, search.judged, strict=True):
            sums.add(batch, before, self._pass.predict(parameters, batch, read, read.decoded(tiers, known)))
        if search.judged[0].samples < self.rules.judge_samples:
            return
        found: list[Judged] = [judged for sums in search.judged if (judged := sums.judged()) is not None]
        if found:
            self._end(verdict_of(search.plans, found), search)
            self._search = None

    def _end(self, plan: PrecisionPlan, search: PrecisionGathering) -> None:
        """Files the plan; one that is accepted holds from the next cut on."""
        self._last_search, self._searched_columns = plan.samples_trained, search.columns
        self.searches += 1
        decision = plan.verdict.decision if plan.verdict else "refused"
        level = logging.INFO
        if decision == "applied":
            before, self.plan = self.plan, plan
            self._sweep_from(before)
        else:
            self.refused += 1
            level = logging.WARNING
        reason = plan.verdict.reason if plan.verdict else ""
        logger.log(level, "precision %s: %d to %d bytes, %s", decision, plan.bytes_before, plan.bytes_after, reason)
        self._on_plan(plan)

    def _sweep_from(self, before: PrecisionPlan | None) -> None:
        """Begins to mark rows that go by another tier than under `before`, None for fp32."""
        old = before or same_codec_plan("fp32", self._names, self._table.bands, created_ms=0)
        new = self.plan or same_codec_plan("fp32", self._names, self._table.bands, created_ms=0)
        self._cursor = 0
        self._before, self._sweep = None, None
        if old.tiers != new.tiers:
            self._before = before
            self._sweep = (PlanTiers(old, self._names), PlanTiers(new, self._names))

    def _changed(self, rows: LiveRows, old: PlanTiers, new: PlanTiers) -> NDArray[np.bool_]:
        changed = np.zeros(rows.handles.size, np.bool_)
        blocks = rows.slots * self._table.bands + rows.bands
        for block in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == block)
            slot, band = divmod(block, self._table.bands)
            changed[here] = ~new.same_tier(old, slot, band, rows.counts[here])
        return changed
