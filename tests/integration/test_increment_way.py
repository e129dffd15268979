"""From the trainer's table over disk and increments to a replica, in any interleaving: the replica ends as the table.

The real table, state folder, encoding, intake and replica. Only Redis is played: a head, a base and a stream, in which
the test may damage, repeat, swap and withhold what the server reads. Rows are trained, admitted, evicted, admitted
again, resized, moved between bands, copied ahead of a cut; the trainer is killed between any two of these, and between
the disk and Redis; its newest files are harmed.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embedding_table.bag_kernels import gather_bags
from embedding_table.early_copies import EarlyCopy, decay_early
from embedding_table.table import ABSENT, EmbeddingTable, TableChanges
from feature_admission.always_admit import AlwaysAdmit
from model_contract.increment import IncrementLimits
from serving.feed_log import FeedLog
from serving.freshness import FreshnessMeter
from serving.intake import Head, Intake, Outcome
from serving.replica import Replica
from serving.row_store import gather_pooled
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.delivery import _branched
from stream_trainer.model_state import ModelState, settle_rows
from stream_trainer.outgoing import encode_state
from stream_trainer.state_chain import find_state
from tests.stream_trainer.states import LAYOUT, SCHEMA, state

DIM, SLOTS, BANDS = SCHEMA.dim, len(SCHEMA.sparse), 2
IDS = st.lists(st.integers(1000, 1060), min_size=1, max_size=20, unique=True)


def keep_admission(base: dict, _: object) -> dict:
    return base


def new_table() -> EmbeddingTable:
    return EmbeddingTable(SLOTS, DIM, 4 << 20, 3, 0.1, 0.1, SCHEMA.missing_ids, bands=BANDS, threads=1)


class IncrementWay(RuleBasedStateMachine):
    """One trainer, one server."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="way-"))
        self.store = CheckpointStore(self.folder, keep_admission, kept_bases=2)
        self.table = new_table()
        self.columns = [np.arange(DIM, dtype=np.uint16)] * (SLOTS * BANDS)
        self.early: list[EarlyCopy] = []
        self.harmed = False
        self.clock = 1000
        self.decays: list[float] = []
        self.replica = Replica(SCHEMA, 64 << 20)
        limits = IncrementLimits()
        self.feed_log = FeedLog()
        self.intake = Intake(
            SCHEMA,
            self.replica,
            self.feed_log,
            FreshnessMeter(),
            increment_limits=limits,
            base_limits=limits,
            now_ms=lambda: self.clock,
        )

    @initialize()
    def begin(self) -> None:
        self.table.take_changes()
        fresh = state(0, [])
        self.manifest = msgspec.structs.replace(fresh.manifest, epoch=1)
        self.stream: dict[int, bytes] = {}
        base = ModelState(self.manifest, self.table.all_rows(), fresh.arrays, AlwaysAdmit().state())
        self.store.write_base(base)
        self.publish_base(base)

    # the trainer's table

    @rule(ids=IDS)
    def admit(self, ids: list[int]) -> None:
        known = np.array(ids, np.uint64)
        self.table.insert(known, (known % SLOTS).astype(np.int32), self.clock)

    @rule(ids=IDS)
    def evict(self, ids: list[int]) -> None:
        self.table.erase(self.table.find(np.array(ids, np.uint64)))

    @rule(ids=IDS, seed=st.integers(0, 1000))
    def train(self, ids: list[int], seed: int) -> None:
        known = np.array(ids, np.uint64)
        offsets = np.minimum(np.arange(-(-known.size // SLOTS) * SLOTS + 1), known.size)
        grad = np.random.default_rng(seed).standard_normal((offsets.size // SLOTS, SLOTS, DIM)).astype(np.float32)
        codes = np.zeros(SLOTS, np.int8)
        self.table.update(self.table.find(known), offsets, codes, grad, 0.1, 1e-6, self.clock)

    @rule(width=st.integers(1, DIM), first=st.integers(0, DIM - 1), block=st.integers(0, SLOTS * BANDS - 1))
    def begin_resize(self, width: int, first: int, block: int) -> None:
        if not self.table.resizing:
            chosen = np.sort((first + np.arange(width)) % DIM).astype(np.uint16)
            self.columns = [chosen if number == block else old for number, old in enumerate(self.columns)]
            self.table.begin_resize(self.columns)

    @rule(rows=st.integers(1, 30))
    def resize_some(self, rows: int) -> None:
        self.table.resize_some(rows)

    @rule(ids=IDS, band=st.integers(0, BANDS - 1))
    def move_bands(self, ids: list[int], band: int) -> None:
        handles = self.table.find(np.array(ids, np.uint64))
        self.table.move_rows(handles, np.full(handles.size, band, np.int32))

    @rule()
    def decay(self) -> None:
        self.table.decay_counts(0.5)
        decay_early(self.early, 0.5)
        self.decays.append(0.5)

    @rule(rows=st.integers(1, 40))
    def copy_ahead(self, rows: int) -> None:
        self.early.append(self.table.copy_changes(rows))

    @rule()
    def compact_table(self) -> None:
        self.table.compact()

    # its disk and Redis

    @rule(published=st.booleans(), rebased=st.booleans())
    def cut(self, published: bool, rebased: bool) -> None:
        """A cut that may not reach Redis before the trainer dies."""
        self.clock += 1
        found = state(self.manifest.sequence + 1, [])
        self.manifest = msgspec.structs.replace(
            self.manifest,
            sequence=self.manifest.sequence + 1,
            created_ms=self.clock,
            samples_trained=self.clock,
            count_decays=tuple(self.decays),
        )
        taken = ModelState(self.manifest, self.table.take_changes(), found.arrays, early=tuple(self.early))
        self.early, self.decays = [], []
        delta = settle_rows(taken)
        self.store.write_delta(delta)
        if rebased:
            base = self.store.compact()
            self.publish_delta(delta)
            self.publish_base(base)
        elif published:
            self.publish_delta(delta)
        else:
            self.crash()

    @rule()
    def crash(self) -> None:
        """A kill at any moment, and the start after it."""
        self.restart()

    @rule()
    def crash_with_the_newest_delta_harmed(self) -> None:
        deltas = sorted(self.folder.glob("delta-*.npz"))
        if deltas:
            content = bytearray(deltas[-1].read_bytes())
            content[len(content) // 2] ^= 4
            deltas[-1].write_bytes(content)
            self.harmed = True
        self.restart()

    @rule()
    def crash_with_the_newest_base_gone(self) -> None:
        bases = sorted(self.folder.glob("base-*.npz"))
        if len(bases) > 1:
            self.harmed = True
            bases[-1].unlink()
        self.restart()

    def restart(self) -> None:
        self.store.close()
        self.store = CheckpointStore(self.folder, keep_admission, kept_bases=2)
        stored = self.store.load(SCHEMA.fingerprint)
        assert stored is not None
        self.table = new_table()
        held = [np.zeros(DIM, bool) for _ in range(SLOTS * BANDS)]
        for number, columns in enumerate(self.columns):
            held[number][columns] = True
        for block in stored.state.rows.blocks:
            held[block.slot * BANDS + block.band][block.columns] = True
        self.table.begin_resize([np.flatnonzero(columns).astype(np.uint16) for columns in held])
        while self.table.resize_some(1000):
            pass
        self.table.restore_rows(stored.state.rows)
        self.table.take_changes()
        self.table.begin_resize(self.columns)
        self.early, self.decays = [], []
        manifest = msgspec.structs.replace(stored.state.manifest, epoch=self.head.epoch + 1)
        branches = stored.behind or self.head.lineage != manifest.lineage or self.head.sequence > manifest.sequence
        assert branches <= self.harmed
        if branches:
            manifest = _branched(manifest)
        self.manifest = manifest
        begun = ModelState(manifest, stored.state.rows, stored.state.arrays, AlwaysAdmit().state())
        self.store.write_base(begun)
        if branches:
            self.stream = {}
            self.publish_base(begun)
            return
        for sequence in range(self.head.sequence + 1, manifest.sequence + 1):
            delta = self.store.read_delta(sequence)
            if delta is None:
                self.publish_base(begun)
                break
            self.publish_delta(delta)
        self.head = replace(self.head, epoch=manifest.epoch)

    def publish_delta(self, delta: ModelState) -> None:
        data = encode_state(delta, "increment", LAYOUT)
        known = self.stream.setdefault(delta.manifest.sequence, data)
        assert known == data, "the same sequence was published with other content"
        if delta.manifest.sequence > self.head.sequence:
            self.head = replace(self.head, sequence=delta.manifest.sequence, epoch=self.manifest.epoch)

    def publish_base(self, base: ModelState) -> None:
        manifest = base.manifest
        self.base = encode_state(base, "base", LAYOUT)
        known = getattr(self, "head", None)
        further = known.sequence if known and known.lineage == manifest.lineage else 0
        self.head = Head(
            lineage=manifest.lineage,
            epoch=max(manifest.epoch, known.epoch if known else 0),
            sequence=max(manifest.sequence, further),
            base_sequence=manifest.sequence,
            base_chunks=1,
            base_bytes=len(self.base),
            fingerprint=SCHEMA.fingerprint,
        )

    # the server, and what can happen to what it reads

    @rule(data=st.data())
    def read_anything(self, data: st.DataObject) -> None:
        """A duplicate, one too early, one out of order: whatever the stream ever held."""
        if self.stream:
            sequence = data.draw(st.sampled_from(sorted(self.stream)))
            self.intake.take(f"increment {sequence}-0", self.stream[sequence])

    @rule(data=st.data())
    def read_damaged(self, data: st.DataObject) -> None:
        if not self.stream:
            return
        content = bytearray(self.stream[data.draw(st.sampled_from(sorted(self.stream)))])
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        before = self.replica.version
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        assert self.intake.take("damaged", bytes(content)) is Outcome.REFUSED
        assert self.replica.version is before

    @rule(lost=st.integers(0, 30))
    def lose_entries(self, lost: int) -> None:
        """The stream is trimmed as far as the base goes."""
        self.stream = {n: data for n, data in self.stream.items() if n > min(lost, self.head.base_sequence)}

    @rule()
    def follow(self) -> None:
        """What the subscriber does, until nothing is missing; then the replica is the published state."""
        for _ in range(3):
            if self.intake.wants_base(self.head):
                assert self.intake.take_base(self.head, self.base) is Outcome.APPLIED
            version = self.replica.version
            assert version is not None
            for sequence in range(version.sequence + 1, self.head.sequence + 1):
                if sequence not in self.stream:
                    self.intake.refuse(f"increment {sequence}-0", "gap", "not there")
                    break
                if self.intake.take(f"increment {sequence}-0", self.stream[sequence]) is not Outcome.APPLIED:
                    break
        version = self.replica.version
        assert version is not None
        assert (version.lineage, version.sequence) == (self.head.lineage, self.head.sequence), self.feed_log.state

    @rule()
    def compare(self) -> None:
        self.cut(published=True, rebased=False)
        self.follow()
        ids = np.concatenate([np.arange(1000, 1061, dtype=np.uint64), SCHEMA.missing_ids])
        mine = self.table.find(ids)
        store = self.replica._store
        assert store is not None
        theirs = store.find(ids)
        assert ((mine == ABSENT) == (theirs == ABSENT)).all()
        assert store.rows == self.table.rows
        single, alone = np.arange(ids.size + 1), np.zeros(1, np.int8)
        expected = np.empty((ids.size, DIM), np.float32)
        gather_bags(self.table.views(), mine, single, alone, 0, ids.size, expected)
        assert gather_pooled(store.views, theirs, single, alone, DIM).tobytes() == expected.tobytes()
        stored = find_state(self.folder, keep_admission)  # what a start would find is the same again
        assert stored is not None
        assert stored.skipped == ()
        assert statistics(stored.state.rows) == statistics(self.table.all_rows())

    @invariant()
    def the_server_never_runs_ahead(self) -> None:
        version = self.replica.version
        if version is not None and version.lineage == self.head.lineage:
            assert version.sequence <= self.head.sequence

    def teardown(self) -> None:
        try:
            if hasattr(self, "head"):
                self.compare()
        finally:
            self.store.close()
            shutil.rmtree(self.folder)


def statistics(rows: TableChanges) -> dict[int, tuple]:
    """What training needs of each row beside its values."""
    return {
        int(i): (block.slot, block.band, float(accumulator), float(count), int(seen))
        for block in rows.blocks
        for i, accumulator, count, seen in zip(
            block.ids, block.accumulators, block.counts, block.last_seen_s, strict=True
        )
    }


TestIncrementWay = IncrementWay.TestCase
TestIncrementWay.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, phases=(Phase.generate,), report_multiple_bugs=False
)
