"""The model in memory: prepare a batch, learn it, make room, take a cut, take a state back.

Knows no Kafka, no Redis, no file and no clock (times are handed in). Invariant: a cut holds exactly the samples whose
`learn` has returned; `prepare` may run in a second thread beside `learn`, but neither beside `take_cut` or `make_room`
(the training loop sees to that), so that nothing in a cut is half done.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedding_table.early_copies import EarlyCopy, decay_early
from embedding_table.table import EmbeddingTable
from feature_admission.admission import AdmissionPolicy
from feature_admission.eviction import EvictionPolicy
from feature_admission.memory_budget import MemoryBudget, MemoryUse
from feature_admission.state_pages import StatePages
from model_contract.samples import SampleBatch
from model_contract.schema import ModelSchema
from stream_trainer.dimension_keeper import SLICE_ROWS, DimensionKeeper
from stream_trainer.errors import StateError
from stream_trainer.model_state import Arrays, Manifest, ModelState
from stream_trainer.precision_keeper import PrecisionKeeper
from stream_trainer.preparation import Preparation
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.progressive_metrics import ProgressiveMetrics
from stream_trainer.tiers_of_cut import STATE_PREFIX
from stream_trainer.train_step import TrainStep

__all__ = ["COPIED_AT_ONCE_ROWS", "Learner", "LearnerCounts"]

COPIED_AT_ONCE_ROWS = 25_000  # 2 to 6 ms at 64 columns and less
_COPIED_EARLY_AT_MOST = 2.0  # times the table: a stream that changes rows faster than they are copied gets a long cut

_DECAYS_PER_HALF_LIFE = 32
_SWEEP_S = 60


@dataclass(slots=True)
class LearnerCounts:
    """Totals since the lineage began; they travel in every cut."""

    samples: int = 0
    evicted_rows: int = 0


class Learner:
    """Table, admission, network, eviction and metrics of one model, wired together."""

    def __init__(
        self,
        schema: ModelSchema,
        table: EmbeddingTable,
        step: TrainStep,
        new_admission: Callable[[], AdmissionPolicy],
        eviction: EvictionPolicy,
        *,
        count_half_life_s: float,
        dimensions: DimensionKeeper | None = None,
        precision: PrecisionKeeper | None = None,
    ) -> None:
        """Wires the parts; `new_admission` makes an empty policy, always with the same settings."""
        self.schema = schema
        self.table = table
        self.step = step
        self.dimensions = dimensions
        self.precision = precision
        self.admission = new_admission()
        self.eviction = eviction
        self.metrics = ProgressiveMetrics()
        self.preparation = Preparation(table, schema, self.admission)
        self.counts = LearnerCounts()
        self._new_admission = new_admission
        self._budget = MemoryBudget(table.budget_bytes)
        self._last_sweep_s = 0
        self._count_half_life_s = count_half_life_s
        self._last_decay_s = 0
        self._decays: list[float] = []
        self._columns_wait = False
        self._early: list[EarlyCopy] = []
        self._early_rows = 0

    def prepare(self, batch: SampleBatch, now_s: int) -> PreparedBatch:
        """Looks up and admits ids; see `Preparation.prepare`."""
        return self.preparation.prepare(batch, now_s)

    def learn(self, batch: PreparedBatch, now_s: int) -> None:
        """Predicts, records, then learns every micro-batch."""
        if batch.rows == 0:
            return
        if self.dimensions is not None:
            self.dimensions.before_learning(batch, now_s, self.counts.samples)
        if self.precision is not None:
            self.precision.before_learning(batch, now_s, self.counts.samples)
        logits = self.step.train(self.table, batch, now_s)
        self.metrics.update(logits, batch.labels, batch.weights)
        self.counts.samples += batch.rows

    @property
    def needs_quiet(self) -> bool:
        """Whether `tidy` has rows to evict or columns to change; cheap enough to ask after every batch."""
        if self.dimensions is not None and self.dimensions.needs_quiet:
            return True
        if self.precision is not None and self.precision.needs_quiet:
            return True
        return self._budget.rows_to_free(self._memory_use()) > 0

    def tidy(self, now_s: int, max_rows: int = SLICE_ROWS) -> None:
        """Makes room, moves rows to the bands and columns they should have; no batch may be prepared meanwhile.

        Where rows had to go, columns wait for the next quiet moment, once: either is as long as a pause may be.

        Args:
            now_s: seconds since the epoch.
            max_rows: how many rows may change columns, so that it stays short.
        """
        self._columns_wait = self.make_room(now_s) > 0 and not self._columns_wait
        if self._columns_wait:
            return
        if self.dimensions is not None:
            self.dimensions.keep(now_s, max_rows)
        if self.precision is not None:
            self.precision.keep(max_rows)

    def make_room(self, now_s: int) -> int:
        """Ages traffic counts and evicts down to the budget's low mark; no batch may be prepared meanwhile.

        Returns:
            rows evicted.
        """
        self._age_counts(now_s)
        needed = self._budget.rows_to_free(self._memory_use())
        if needed == 0 and now_s - self._last_sweep_s < _SWEEP_S:
            return 0
        self._last_sweep_s = now_s  # a policy may name rows that nobody needs to go: those past their age
        handles = self.eviction.select(self.table.live_rows(), needed, now_s)
        if handles.size == 0:
            return 0
        self.table.erase(handles)
        self.table.compact()
        self.counts.evicted_rows += len(handles)
        return len(handles)

    def copy_ahead(self) -> bool:
        """Copies some of what the next cut will hold, so that the cut itself is short; between two `learn`.

        Returns:
            whether there was too much for one cut; then it is to be called again after the next `learn`.
        """
        many = self.table.changes_listed > COPIED_AT_ONCE_ROWS
        if not many or self._early_rows > _COPIED_EARLY_AT_MOST * self.table.rows:
            return False
        copied = self.table.copy_changes(COPIED_AT_ONCE_ROWS)
        self._early.append(copied)
        self._early_rows += sum(block.ids.size for block in copied)
        return True

    def take_cut(self, manifest: Manifest) -> ModelState:
        """Copies what changed since the last cut, and forgets that it changed; no batch may be under way."""
        decays, self._decays = tuple(self._decays), []
        early, self._early, self._early_rows = tuple(self._early), [], 0
        return ModelState(
            manifest=msgspec.structs.replace(
                manifest,
                samples_trained=self.counts.samples,
                metrics=self.metrics.summary(),
                count_decays=decays,
            ),
            rows=self.table.take_changes(),
            arrays=self._arrays(),
            admission_pages=self.admission.take_dirty_pages(),
            early=early,
        )

    def fresh_state(self, created_ms: int) -> ModelState:
        """The complete state of a model that has seen nothing, under a new lineage."""
        manifest = Manifest(
            lineage=uuid.uuid4().hex,
            epoch=0,
            sequence=0,
            fingerprint=self.schema.fingerprint,
            created_ms=created_ms,
        )
        self._last_decay_s = created_ms // 1000
        self.admission.take_dirty_pages()
        self.table.take_changes()
        return ModelState(
            manifest=manifest, rows=self.table.all_rows(), arrays=self._arrays(), admission=self.admission.state()
        )

    def restore(self, state: ModelState) -> None:
        """Takes a complete state back into a fresh learner.

        Raises:
            StateError: the state is of another schema.
        """
        found = state.manifest.fingerprint
        if found != self.schema.fingerprint:
            message = (
                f"state_dir holds a model with schema {found}, the model file has {self.schema.fingerprint}: "
                "expected the same model file, or another state_dir"
            )
            raise StateError(message)
        if self.dimensions is not None:
            self.dimensions.restore(_below("dimensions/", state.arrays), state.rows.blocks)
        self.table.restore_rows(state.rows)
        self.table.take_changes()
        if self.dimensions is not None:
            self.dimensions.resume()
        self._restore_precision(state.arrays)
        self.admission.restore(state.admission)
        self.step.restore(_below("step/", state.arrays))
        self.preparation.moments.restore(_below("moments/", state.arrays))
        self.metrics.restore(_below("metrics/", state.arrays))
        samples, evicted, refused, last_decay_s, *newer = state.arrays["counts"].tolist()
        self.counts = LearnerCounts(samples, evicted)
        self.preparation.refused = refused
        self._last_decay_s = last_decay_s
        self._last_sweep_s = newer[0] if newer else 0

    def merge_admission(self, base: Arrays, pages: Sequence[tuple[StatePages, ...]]) -> Arrays:
        """Applies pages in order to a complete admission state; leaves this learner's own policy alone."""
        scratch = self._new_admission()
        scratch.restore(base)
        for taken in pages:
            scratch.apply_pages(taken)
        return scratch.state()

    @property
    def memory_bytes(self) -> int:
        """Everything that grows: rows, optimizer state, index and sketch."""
        return self.table.bytes_used + self.admission.memory_bytes

    def _arrays(self) -> Arrays:
        seconds = (self._last_decay_s, self._last_sweep_s)
        counts = (self.counts.samples, self.counts.evicted_rows, self.preparation.refused, *seconds)
        moments = self.preparation.moments.moments()
        return {
            "counts": np.array(counts, np.int64),
            "serving/dense_mean": moments.mean,
            "serving/dense_std": moments.std,
            **_above("step/", self.step.state()),
            **_above("moments/", self.preparation.moments.state()),
            **_above("metrics/", self.metrics.state()),
            **({} if self.dimensions is None else _above("dimensions/", self.dimensions.state())),
            **({} if self.precision is None else _above(STATE_PREFIX, self.precision.state())),
        }

    def _restore_precision(self, arrays: Arrays) -> None:
        """After rows were restored: those that servers have in other tiers than they should are sent again."""
        if self.precision is not None:
            self.precision.restore(_below(STATE_PREFIX, arrays))
        elif any(name.startswith(STATE_PREFIX) for name in arrays):
            self.table.mark_changed(self.table.live_rows().handles)
            self.table.mark_changed(self.table.missing_handles)

    def _memory_use(self) -> MemoryUse:
        use = self.table.memory_use()
        return MemoryUse(use.rows, use.row_bytes, use.fixed_bytes)

    def _age_counts(self, now_s: int) -> None:
        passed_s = now_s - self._last_decay_s
        if passed_s * _DECAYS_PER_HALF_LIFE < self._count_half_life_s:
            return
        factor = float(np.float32(0.5 ** (passed_s / self._count_half_life_s)))
        self.table.decay_counts(factor)
        decay_early(self._early, factor)
        self._decays.append(factor)
        self._last_decay_s = now_s


def _above(prefix: str, arrays: Mapping[str, NDArray[np.generic]]) -> Arrays:
    return {prefix + name: values for name, values in arrays.items()}


def _below(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
