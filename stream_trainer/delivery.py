"""Cuts become durable, then public: delta on the disk, offsets to the group, increment to Redis, now and then a base.

Knows no Kafka and no table. Invariant: nothing is published that is not on the disk; increments leave in order, each
once by (lineage, sequence); what Redis has missed is read back from the disk, or replaced by a base. What the quality
gate holds back becomes durable and is never sent: when the gate opens, a base of the state then stands for all of it.
Runs in threads of its own: one for deltas and increments, one for the base that is written now and then.
"""

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import msgspec

from model_contract.dense_layout import DenseLayout
from model_contract.errors import DimflowError
from model_contract.increment import DenseType, IncrementKind
from model_contract.published_versions import Hold
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.errors import CheckpointError, RedisUnavailable, StateError
from stream_trainer.model_state import Manifest, ModelState, settle_rows
from stream_trainer.outgoing import RowTiers, encode_state
from stream_trainer.publisher import Claim, Publisher
from stream_trainer.quality_gate import GateRules, QualityGate, is_held

__all__ = ["Delivery", "DeliveryCounts"]

logger = logging.getLogger(__name__)

_RETRY_S = 0.5


def _nobody(_: Manifest) -> None:
    """Stands for a listener where there is none."""


def _branched(manifest: Manifest) -> Manifest:
    """The same cut as the first of a lineage of its own: numbers of the old one may be taken already."""
    lineage = uuid.uuid4().hex
    logger.warning("%s went on past sequence %d: now %s", manifest.lineage, manifest.sequence, lineage)
    return msgspec.structs.replace(manifest, lineage=lineage, origin=(manifest.lineage, manifest.sequence))


def _all_exact(_: ModelState) -> RowTiers | None:
    """Every row as fp32."""
    return None


class DeliveryCounts:
    """What was delivered since the start; read by the metrics page, written by the delivery threads."""

    def __init__(self) -> None:
        self.increments = 0
        self.increment_bytes = 0
        self.bases = 0
        self.redis_failures = 0
        self.published_sequence = -1
        self.durable_sequence = -1
        self.write_s = 0.0
        self.publish_s = 0.0


class Delivery:
    """Takes one cut at a time; while one is under way, `ready` is False and the trainer lets changes gather.

    Args:
        store: where cuts become durable.
        publisher: where increments and bases go.
        layout: of the dense parameters.
        compact_ratio: a base is written when the deltas since the last one outgrow it this many times,
        compact_increments: or when they are so many.
        tiers_of: how precisely the rows of a cut are sent, told by the cut alone: the one that a killed trainer left on
            the disk is sent by the next one with the same bytes. None as an answer: all as fp32.
        dense_dtype: of the dense tensors on their way.
        at_step: called at named steps, for fault tests.

    Attributes:
        counts: what was delivered so far.
        gate: judges every cut before it is published.
        on_durable: called by the delivery thread after each cut that reached the disk; set it before the first `offer`.
    """

    def __init__(
        self,
        store: CheckpointStore,
        publisher: Publisher,
        layout: DenseLayout,
        *,
        compact_ratio: float,
        compact_increments: int,
        tiers_of: Callable[[ModelState], RowTiers | None] = _all_exact,
        dense_dtype: DenseType = "float32",
        at_step: Callable[[str], None] = lambda _: None,
        gate: QualityGate | None = None,
    ) -> None:
        """Wires the parts; without a gate of its own it has one that looks at values and not at the loss."""
        self.counts = DeliveryCounts()
        self.gate = gate or QualityGate(GateRules(), layout, ())
        self.on_durable: Callable[[Manifest], None] = _nobody
        self._store = store
        self._publisher = publisher
        self._layout = layout
        self._compact_ratio = compact_ratio
        self._compact_increments = compact_increments
        self._tiers_of = tiers_of
        self._dense_dtype: DenseType = dense_dtype
        self._at_step = at_step
        self._cuts: queue.Queue[ModelState | None] = queue.Queue(maxsize=1)
        self._idle = threading.Event()
        self._idle.set()
        self._failure: Exception | None = None
        self._own: Manifest
        self._claimed = False
        self._begun_here = False
        self._base_sequence = 0
        self._published = -1
        self._told: Hold | None | str = "nothing yet"
        self._rebase: threading.Thread | None = None
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self, state: ModelState, *, behind: bool = False) -> ModelState:
        """Claims the model in Redis for a new epoch and starts the threads.

        Args:
            state: the complete state that the trainer goes on from; already restored or fresh.
            behind: whether the lineage was durable past this state, so that others may have seen more of it.

        Returns:
            the same state with the manifest the trainer must go on with: the next epoch, and a new lineage where more
            was seen of the old one than the disk still holds. It is durable as a base.

        Raises:
            Fenced: a later epoch of this lineage publishes already.
        """
        manifest = msgspec.structs.replace(state.manifest, epoch=state.manifest.epoch + 1)
        if behind:
            manifest = _branched(manifest)
        try:
            claim = self._claim(manifest)
        except RedisUnavailable as error:
            logger.warning("redis is not there yet, increments wait on the disk: %s", error)
            claim = None
        left = claim == "foreign" and manifest.epoch > 1 and not behind
        if claim == "ahead" or left:  # numbers behind this state may have been given to other cuts
            manifest = _branched(manifest)
        self._own = manifest
        self._begun_here = manifest.epoch == 1 or manifest.lineage != state.manifest.lineage
        state = self.gate.resume(replace(state, manifest=manifest))
        self._store.write_base(state)
        self._base_sequence = manifest.sequence
        self.counts.durable_sequence = manifest.sequence
        if claim not in {None, "ok"}:
            self._send_base(state, take_over=True)
        self._held_back()
        self._thread.start()
        return state

    def _claim(self, manifest: Manifest) -> Claim:
        claim = self._publisher.claim(manifest.lineage, manifest.epoch, manifest.sequence)
        head = self._publisher.head() if claim == "ok" else None
        if head is not None:
            self._published = head.sequence
            self._claimed = True
        return claim

    @property
    def ready(self) -> bool:
        """Whether a cut would be taken at once."""
        return self._idle.is_set()

    def offer(self, cut: ModelState) -> None:
        """Hands a delta over; blocks while the one before is under way.

        Raises:
            Exception: what broke the delivery thread; nothing is delivered any more.
        """
        self.raise_failure()
        self._idle.clear()
        self._cuts.put(cut)

    def raise_failure(self) -> None:
        """Raises what broke the delivery thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Delivers what was handed over, then ends the threads."""
        self._cuts.put(None)
        self._thread.join()
        if self._rebase is not None:
            self._rebase.join()
        self.raise_failure()

    def _run(self) -> None:
        while True:
            try:
                cut = self._cuts.get(timeout=_RETRY_S)
            except queue.Empty:
                cut = None
                if self._published >= self.counts.durable_sequence:
                    continue
            else:
                if cut is None:
                    return
            try:
                if cut is not None:
                    cut = self._make_durable(cut)
                self._catch_up(cut)
                self._compact_if_due()
            except Exception as error:  # noqa: BLE001  the thread's outermost loop: whatever it was, training must hear of it
                self._fail(error)
                self._idle.set()
                return
            self._idle.set()

    def _fail(self, error: Exception) -> None:
        expected = isinstance(error, DimflowError | OSError)
        logger.error("delivery stopped: %s", error, exc_info=None if expected else error)
        self._failure = error

    def _make_durable(self, cut: ModelState) -> ModelState:
        begin = time.perf_counter()
        cut = settle_rows(cut)
        cut = replace(cut, manifest=msgspec.structs.replace(cut.manifest, base_sequence=self._base_sequence))
        cut = self.gate.judge(cut)
        self._store.write_delta(cut)
        self.counts.durable_sequence = cut.manifest.sequence
        self.counts.write_s = time.perf_counter() - begin
        self._at_step("before_publish")
        self.on_durable(cut.manifest)
        self._at_step("after_commit")
        return cut

    def _catch_up(self, cut: ModelState | None) -> None:
        """Publishes everything between Redis' head and the disk's; a base where the gap cannot be filled."""
        begin = time.perf_counter()
        if self._held_back():
            return
        try:
            if not self._claimed:
                self._claim_late()
            for sequence in range(self._published + 1, self.counts.durable_sequence + 1):
                state = cut if cut and cut.manifest.sequence == sequence else self._store.read_delta(sequence)
                if state is None or is_held(state) or not self._append(state):
                    self._recover()
                    break
        except RedisUnavailable as error:
            self.counts.redis_failures += 1
            logger.warning("increments wait on the disk: %s", error)
        self.counts.publish_s = time.perf_counter() - begin
        self._at_step("after_publish")

    def _held_back(self) -> bool:
        """Whether the gate is closed; Redis is told when that, or its reason, is another than before."""
        hold = self.gate.hold
        if self._claimed and hold != self._told:
            try:
                self._publisher.tell_hold(self._own.lineage, self._own.epoch, hold)
                self._told = hold
            except RedisUnavailable as error:
                self.counts.redis_failures += 1
                logger.warning("why nothing is published is not told: %s", error)
        return hold is not None

    def _claim_late(self) -> None:
        """Redis was away at the start: what `start` would have done then."""
        claim = self._claim(msgspec.structs.replace(self._own, sequence=self.counts.durable_sequence))
        if claim == "ahead" or (claim == "foreign" and not self._begun_here):
            message = f"redis holds more of lineage {self._own.lineage} than this trainer: start it again to branch off"
            raise StateError(message)
        if claim != "ok":
            self._recover(take_over=True)

    def _append(self, state: ModelState) -> bool:
        manifest = state.manifest
        data = self._encoded(state, "increment")
        # The epoch is this trainer's even where the bytes are those of the one before, which died too early to send.
        if not self._publisher.append(self._own.lineage, self._own.epoch, manifest.sequence, data):
            return False
        self._published = manifest.sequence
        self.counts.published_sequence = manifest.sequence
        self.counts.increments += 1
        self.counts.increment_bytes += len(data)
        return True

    def _encoded(self, state: ModelState, kind: IncrementKind) -> bytes:
        return encode_state(state, kind, self._layout, self._tiers_of(state), self._dense_dtype)

    def _recover(self, *, take_over: bool = False) -> None:
        """Redis was emptied, is further behind than the deltas reach, or was spared some: send everything as a base."""
        logger.warning("redis does not stand one behind the disk: sending a base")
        if self._rebase is not None:
            self._rebase.join()
        base = self._store.compact()
        self._base_sequence = base.manifest.sequence
        self._send_base(base, take_over=take_over)

    def _send_base(self, state: ModelState, *, take_over: bool = False) -> None:
        manifest = state.manifest
        if is_held(state):  # by the verdict of its own last cut, whatever the gate says by now
            return
        data = self._encoded(state, "base")
        try:
            self._publisher.replace_base(
                self._own.lineage,
                self._own.epoch,
                manifest.sequence,
                manifest.fingerprint,
                data,
                take_over=take_over,
                created_ms=manifest.created_ms,
                samples_trained=manifest.samples_trained,
                metrics=manifest.metrics,
            )
        except RedisUnavailable as error:
            self.counts.redis_failures += 1
            logger.warning("the base waits on the disk: %s", error)
            return
        self.counts.bases += 1
        self._claimed = True
        self._published = max(self._published, manifest.sequence)
        self.counts.published_sequence = self._published

    def _compact_if_due(self) -> None:
        if self._rebase is not None and self._rebase.is_alive():
            return
        behind = self.counts.durable_sequence - self._base_sequence
        outgrown = self._store.delta_bytes > self._compact_ratio * max(self._store.base_bytes, 1 << 20)
        if behind < self._compact_increments and not outgrown:
            return
        self._rebase = threading.Thread(target=self._compact, name="base", daemon=True)
        self._rebase.start()

    def _compact(self) -> None:
        try:
            base = self._store.compact()
            self._base_sequence = base.manifest.sequence
            self._send_base(base)
        except CheckpointError as error:
            # The live state is sound: the next start replays what a broken file held; a later base heals the folder.
            logger.error("the base could not be made: %s", error)
            self._base_sequence = self.counts.durable_sequence
            self._store.delta_bytes = 0  # not again with the next cut, only when as much has gathered once more
        except Exception as error:  # noqa: BLE001  as in `_run`
            self._fail(error)
