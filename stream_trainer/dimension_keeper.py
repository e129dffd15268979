"""Keeps every row as wide as it deserves while training goes on: searches, judgement, resize in slices.

Knows the table and the step of one learner; no Kafka, Redis or file. Plans come from `dimension_search`, rows are
changed by the table. A search takes three stages, each on samples just before they are learned, so that none is lost
and none is judged that the model has seen: a window for evidence, a plan, a window to judge it by. Where a budget costs
more than the tolerance at once, the next search goes half of the way, so that training can make up for each step.

Invariant: columns change only in `keep`, which runs where no batch is prepared; a call of it moves few enough rows to
stay short. A search under way is part of the state, so that a restored trainer ends it as this one would.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dimension_search.budget import COLUMN_BYTES, ROW_STATE_BYTES, DimensionBudget, bytes_taken
from dimension_search.evidence import BlockEvidence, WindowSums, blend
from dimension_search.plan import Decision, DimensionPlan, Verdict
from dimension_search.planner import make_plan
from dimension_search.search_request import COMMAND_TRIGGER
from embedding_table.saliency_sums import SaliencySums
from embedding_table.table import EmbeddingTable, RowsOfBlock
from model_contract.schema import ModelSchema
from stream_trainer.band_moves import BandMoves
from stream_trainer.column_growth import first_stage, seeded_columns, starting_width
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.errors import StateError
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.saliency_pass import LookedUp, SaliencyPass
from stream_trainer.search_progress import (
    Judged,
    SearchProgress,
    evidence_arrays,
    evidence_of,
    progress_arrays,
    progress_of,
)
from stream_trainer.stream_heat import StreamHeat
from stream_trainer.train_step import TrainStep

__all__ = ["SLICE_ROWS", "DimensionKeeper", "spectrum_every"]

logger = logging.getLogger(__name__)

SLICE_ROWS = 20_000
_SMALLEST_WINDOW = 512
_WINDOW = "window_"  # before the names of a window's sums in a state


def spectrum_every(dim: int) -> int:
    """Of how many lookups one goes into the spectrum, so that the pass costs a like share of a step at every D."""
    return max(4, dim // 8)


class DimensionKeeper:
    """Widths of one learner's rows.

    Args:
        schema: of the model.
        table: rows, with `rules.heat.bands` bands.
        step: whose dense parameters predict.
        rules: see `DimensionRules`.
        on_plan: receives every plan with its verdict.
        requested: asked in quiet moments whether somebody wants a search: "apply", "plan-only" or None.
    """

    def __init__(
        self,
        schema: ModelSchema,
        table: EmbeddingTable,
        step: TrainStep,
        rules: DimensionRules,
        on_plan: Callable[[DimensionPlan], None] = lambda plan: None,
        requested: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.rules = rules
        self.last_plan: DimensionPlan | None = None
        self.searches = 0
        self.refused = 0
        self._names = schema.slot_names
        self._table = table
        self._step = step
        self._on_plan = on_plan
        self._requested = requested
        self._pass = SaliencyPass(schema, step.layout)
        self._remembered: BlockEvidence | None = None
        self._last_search = 0
        self._last_search_s = 0
        self._window = _SMALLEST_WINDOW
        self._done = False
        self._asked: str | None = None
        self._mode = "apply"
        self._trigger: str | None = None
        self._sums = self._new_sums()
        self._plan: DimensionPlan | None = None
        self._found: BlockEvidence | None = None
        self._judged = Judged()
        self._aim_bytes = self._most_rows = 0
        self._accepted: DimensionPlan | None = None
        self._seeded: list[list[int]] | None = None
        self._may_seed = schema.align == "zero_pad" and not schema.dense  # else a new column meets more than zeros
        self._heat = StreamHeat(rules.heat, rules.half_life_samples)
        self._moves = BandMoves(table, self._heat, drop_cold=rules.drop_cold)
        self._stuck = False
        self._restored: NDArray[np.bool_] | None = None
        self.fitted = False
        table.set_birth_bands(np.full(table.slots, rules.heat.birth_band, np.int32))
        if rules.start_width:
            width = starting_width(rules.start_width, table.dim, rules.max_bytes)
            self._resize_at_once(self._leading_columns(width))
        self.resume()

    @property
    def bytes_planned(self) -> int:
        """What plans count of the table now: columns and optimizer state of all rows."""
        return bytes_taken(self._table.block_uses())

    @property
    def budget_bytes(self) -> int:
        """What plans must keep to now."""
        full = max(self._most_rows, self._table.rows) * (COLUMN_BYTES * self._table.dim + ROW_STATE_BYTES)
        share = int(self.rules.max_share * full)
        return min(share, self.rules.max_bytes) if self.rules.max_bytes else share

    @property
    def _excess_bytes(self) -> int:
        """Bytes above the absolute budget, once there was a plan that keeps to it."""
        return self.bytes_planned - self.rules.max_bytes if self.fitted and self.rules.max_bytes else 0

    @property
    def needs_quiet(self) -> bool:
        """Whether `keep` has columns to change: cheap, asked after every batch."""
        return self._accepted is not None or (self._table.resizing and not self._stuck) or self._excess_bytes > 0

    def before_learning(self, batch: PreparedBatch, now_s: int, samples: int) -> None:
        """Takes from samples what a search needs, before they are learned.

        Args:
            batch: the samples.
            now_s: seconds since the epoch.
            samples: learned so far.
        """
        self._heat.observe(samples, now_s)
        self._most_rows = max(self._most_rows, self._table.rows)
        if batch.rows == 0 or self._accepted is not None or self._table.resizing:
            return
        if self._trigger is None:
            self._trigger = self._due(samples, now_s)
            if self._trigger is None:
                return
            self._sums = self._new_sums()
            self._window = max(_SMALLEST_WINDOW, min(self.rules.window_samples, samples // 4))
        looked_up = self._pass.look_up(self._table, batch, self._heat, now_s)
        if self._plan is None:
            self._pass.observe(self._step.parameters, batch, looked_up, self._sums)
            if self._sums.samples >= self._window:
                self._make_plan(now_s, samples)
        else:
            self._judge(batch, looked_up)

    def keep(self, now_s: int, max_rows: int = SLICE_ROWS) -> int:
        """Changes columns and bands of some rows; no batch may be prepared or learned meanwhile.

        Returns:
            rows moved or given up.
        """
        self._asked = self._asked or self._requested()
        if self._accepted is not None and (self._stuck or not self._table.resizing):
            self._begin_stage(self._accepted)
        moved = self._table.resize_some(max_rows) if self._table.resizing else 0
        self._stuck = self._table.resizing and moved == 0  # no room for wider rows until others go
        if (not self._table.resizing or self._stuck) and self._excess_bytes > 0:
            moved += self._moves.give_up_coldest(self._excess_bytes, self.rules.max_bytes, now_s)
        if moved < max_rows:
            moved += self._moves.sort(now_s, max_rows - moved)
        if moved:
            self._table.compact(max_rows)
        return moved

    def state(self) -> dict[str, NDArray[Any]]:
        """What a search remembers and the columns that are wanted, as arrays."""
        arrays: dict[str, NDArray[Any]] = {
            "active": self._active(),
            "progress": np.array(
                [
                    self._last_search,
                    self._last_search_s,
                    int(self._done),
                    self.searches,
                    self.refused,
                    int(self.fitted),
                    self._aim_bytes,
                    self._most_rows,
                ],
                np.int64,
            ),
            "marks": self._heat.state(),
        }
        arrays |= evidence_arrays(self._remembered, "remembered_") | progress_arrays(self._progress())
        if self._trigger is not None:
            arrays |= {_WINDOW + name: values for name, values in self._sums.state().items()}
            arrays |= evidence_arrays(self._found, "found_")
        sums = self._table.saliency()
        arrays |= {"running_first": sums.first, "running_squared": sums.squared}
        arrays["running_updates"] = np.array([sums.updates])
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]], blocks: Sequence[RowsOfBlock]) -> None:
        """Takes back what `state` returned, before rows are restored; a state that knows no widths changes nothing.

        Rows that a resize had not reached come back with the columns they were published with: what replicas have.
        Where it was giving them random values in new columns, they get zeros.

        Args:
            arrays: of the state.
            blocks: the rows that will be restored.

        Raises:
            StateError: the state has other bands.
        """
        if "active" not in arrays:
            if self.rules.start_width:  # its rows were trained at full width
                self._resize_at_once(self._leading_columns(self._table.dim))
            return
        active = arrays["active"]
        if active.shape != self._active().shape:
            wanted = self._active().shape
            message = f"state_dir has blocks (slots, bands, columns) {active.shape}, the settings ask for {wanted}"
            raise StateError(message)
        self._restored = active.astype(np.bool_)
        held = self._restored.copy()
        for block in blocks:
            held[block.slot, block.band, block.columns] = True
        self._resize_at_once(_column_lists(held))
        self._heat.restore(arrays["marks"])
        sums = SaliencySums(arrays["running_first"], arrays["running_squared"], float(arrays["running_updates"][0]))
        self._table.restore_saliency(sums)
        progress = np.zeros(8, np.int64)  # a state of before knows no most rows
        progress[: arrays["progress"].size] = arrays["progress"]
        self._last_search, self._last_search_s, done, self.searches, self.refused, fitted, *sizes = progress.tolist()
        self._done, self.fitted = bool(done), bool(fitted)
        self._aim_bytes, self._most_rows = sizes
        self._remembered = evidence_of(arrays, "remembered_")
        self._go_on_searching(arrays)

    def _progress(self) -> SearchProgress:
        return SearchProgress(
            mode=self._mode,
            asked=self._asked,
            trigger=self._trigger,
            window=self._window,
            plan=self._plan,
            judged=self._judged,
            accepted=self._accepted,
            seeded=self._seeded,
        )

    def _begin_stage(self, plan: DimensionPlan) -> None:
        """Begins to give blocks the columns of a plan; where some of them are seeded, those first."""
        if self._seeded is None:
            active = self._active()
            wanted = self._wanted(plan).reshape(active.shape)
            rows = np.array([use.rows for use in self._table.block_uses()]).reshape(self._table.slots, -1).sum(axis=1)
            self._seeded = seeded_columns(active, wanted, rows) if self._may_seed else []
            if any(self._seeded):
                seeds = [np.array(columns, np.uint16) for columns in self._seeded]
                self._table.begin_resize(_column_lists(first_stage(active, wanted, self._seeded)), seeds)
                return
        self._table.begin_resize(plan.columns)
        self._accepted = self._seeded = None
        if self.rules.after_resize == "cold_first_layer":
            self._step.restart_first_layer()

    def _wanted(self, plan: DimensionPlan) -> NDArray[np.bool_]:
        """Columns bool (F * K, D) that a plan gives to blocks."""
        wanted = np.zeros((len(plan.blocks), self._table.dim), np.bool_)
        for block, columns in enumerate(plan.columns):
            wanted[block, columns] = True
        return wanted

    def _leading_columns(self, width: int) -> list[NDArray[np.uint16]]:
        """The first `width` columns for every block."""
        return [np.arange(width, dtype=np.uint16)] * (self._table.slots * self._table.bands)

    def _resize_at_once(self, columns: Sequence[NDArray[np.uint16]]) -> None:
        """For a table that holds its missing rows alone."""
        self._table.begin_resize(columns)
        while self._table.resize_some(SLICE_ROWS):
            pass

    def _go_on_searching(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        progress = progress_of(arrays)
        if progress is None:
            return
        self._mode, self._asked, self._trigger = progress.mode, progress.asked, progress.trigger
        self._window, self._plan, self._judged = progress.window, progress.plan, progress.judged
        self._accepted, self._seeded = progress.accepted, progress.seeded
        self._found = evidence_of(arrays, "found_")
        if self._trigger is not None:
            self._sums = self._new_sums()
            found = {name: arrays[name] for name in arrays if name.startswith(_WINDOW)}
            self._sums.restore({name.removeprefix(_WINDOW): values for name, values in found.items()})

    def resume(self) -> None:
        """After rows were restored: a resize that was under way goes on, missing rows are in the hottest band."""
        if self._restored is not None:
            self._table.begin_resize(_column_lists(self._restored))
            self._restored = None
        hottest = np.full(self._table.slots, self._table.bands - 1, np.int32)
        self._table.move_rows(self._table.missing_handles, hottest)

    def _due(self, samples: int, now_s: int) -> str | None:
        if self._asked is not None:
            self._mode, self._asked = self._asked, None
            return COMMAND_TRIGGER
        self._mode = "apply"
        if self._done or self.rules.search_every_samples == 0:
            return None
        if self.searches == 0:
            return "samples" if samples >= self.rules.first_search_samples else None
        passed = samples - self._last_search
        if passed >= min(self.rules.search_every_samples, max(self._last_search, self.rules.first_search_samples)):
            return "samples"
        if self.rules.search_every_s and now_s - self._last_search_s >= self.rules.search_every_s:
            return "time"
        over = passed >= self.rules.budget_search_samples and self.bytes_planned > self.budget_bytes
        return "budget" if over else None

    def _new_sums(self) -> WindowSums:
        return WindowSums(self._table.slots, self._table.bands, self._table.dim, spectrum_every(self._table.dim))

    def _active(self) -> NDArray[np.bool_]:
        active = np.zeros((self._table.slots, self._table.bands, self._table.dim), np.bool_)
        for slot in range(self._table.slots):
            for band in range(self._table.bands):
                active[slot, band, self._table.columns(slot, band)] = True
        return active

    @property
    def _consent(self) -> Decision:
        """What becomes of a plan that nothing speaks against."""
        return "planned" if self._mode == "plan-only" else "applied"

    def _make_plan(self, now_s: int, samples: int) -> None:
        shape = (self._table.slots, self._table.bands)
        rows = self._table.live_rows()
        bands = self._heat.bands_of(rows.counts, rows.last_seen_s, now_s, rows.bands)
        homes = rows.slots * self._table.bands + bands
        numbers = np.bincount(homes, minlength=shape[0] * shape[1]).reshape(shape)
        numbers[:, -1] += 1  # the missing rows
        counts = np.bincount(homes, rows.counts, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
        found = self._sums.evidence(self._active(), numbers, counts)
        if self.rules.saliency == "running":
            sums = self._table.saliency()
            updates = max(sums.updates, 1.0)
            found = replace(found, first=sums.first / updates, squared=sums.squared / updates)
        self._found = blend(found, self._remembered, self.rules.memory)
        budget = DimensionBudget(
            max_bytes=max(int((1 - self.rules.headroom) * self.budget_bytes), self._aim_bytes),
            dim=self._table.dim,
            floor=self.rules.floor,
            steps=self.rules.steps,
            drop_cold=self.rules.drop_cold,
        )
        self._plan = make_plan(
            self.rules.planner,
            self._found,
            budget,
            self._names,
            trigger=self._trigger or "samples",
            created_ms=now_s * 1000,
            samples_trained=samples,
        )
        self._judged = Judged()
        if not self._plan.changed:
            self._end(Verdict(decision=self._consent, reason="no column changes"))

    def _judge(self, batch: PreparedBatch, looked_up: LookedUp) -> None:
        plan, judged = self._plan, self._judged
        if plan is None:
            return
        wanted = self._wanted(plan)
        missing = self._pass.missing_rows(self._table) if self.rules.drop_cold else None
        parameters = self._step.parameters
        judged.samples += batch.rows
        judged.weight += float(batch.weights.sum())
        judged.before += self._pass.log_loss(parameters, batch, looked_up)
        judged.after += self._pass.log_loss(parameters, batch, looked_up, wanted, missing)
        if judged.samples < min(self.rules.judge_samples, self._window) or judged.weight == 0:
            return
        before, after = judged.before / judged.weight, judged.after / judged.weight
        rise = after / max(before, 1e-9) - 1
        fits = bool(rise <= self.rules.tolerance)
        reason = f"log-loss {rise:+.2%} on held-back samples, tolerance {self.rules.tolerance:.2%}"
        if self._aim_bytes:
            reason += f"; a step towards the budget of {self.budget_bytes} bytes, which was too much at once"
        self._end(
            Verdict(
                decision=self._consent if fits else "refused",
                reason=reason,
                samples=judged.samples,
                log_loss_before=round(before, 6),
                log_loss_after=round(after, 6),
            )
        )

    def _end(self, verdict: Verdict) -> None:
        """Files the plan; an accepted one waits for the next quiet moment."""
        if self._plan is None:
            return
        plan = msgspec.structs.replace(self._plan, verdict=verdict)
        if self._mode != "plan-only":  # not before: a search that a restart cuts short is done again
            self._last_search = plan.samples_trained
            self._last_search_s = plan.created_ms // 1000
            self.searches += 1
            self._remembered = self._found
        if verdict.decision == "applied":
            self._done = self.rules.one_shot
            self.fitted = plan.bytes_after <= self.budget_bytes
            self._aim_bytes = 0
            if plan.changed:
                self._accepted = plan
        elif verdict.decision == "refused":
            self.refused += 1
            if plan.bytes_after < plan.bytes_before:  # half of the way next time, which the budget asks for soon
                self._aim_bytes = math.isqrt(plan.bytes_before * plan.bytes_after)
        self.last_plan = plan
        self._plan = self._trigger = self._found = None
        level = logging.WARNING if verdict.decision == "refused" else logging.INFO
        logger.log(
            level, "plan %s: %d to %d bytes, %s", verdict.decision, plan.bytes_before, plan.bytes_after, verdict.reason
        )
        self._on_plan(plan)


def _column_lists(active: NDArray[np.bool_]) -> list[NDArray[np.uint16]]:
    """Columns u16 (d,) of each block, from bool (F, K, D)."""
    return [np.flatnonzero(columns).astype(np.uint16) for columns in active.reshape(-1, active.shape[2])]
