"""Samples that can be counted: what stands at every offset of a topic is known without remembering it.

Record `o` of partition `p` is a sample whose user nobody else is, or poison. So a state's offsets say exactly which
users must have a row, each trained once, and everything else in the state must agree with them. Knows no trainer.
Invariant: offsets are those that Kafka gave (each acknowledgement is compared).
"""

import json
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from confluent_kafka import Producer
from numpy.typing import NDArray

from model_contract.feature_id import feature_id
from stream_trainer.model_state import ModelState

ITEMS = 50
POISON_PERCENT = 2


class LedgerError(Exception):
    """The harness itself is not what it promises."""


@dataclass(frozen=True)
class Verdict:
    """What one state is found to be.

    Attributes:
        lost: samples before the state's offsets without a trace in its rows.
        twice: samples that were trained more than once.
        mixed: 1 where parts of the state belong to different cuts.
        reasons: what disagreed.
    """

    lost: int = 0
    twice: int = 0
    mixed: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not (self.lost or self.twice or self.mixed)

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(
            self.lost + other.lost,
            self.twice + other.twice,
            self.mixed + other.mixed,
            (*self.reasons, *other.reasons)[:20],
        )


@dataclass
class _Partition:
    """User ids of the records made so far; 0 for poison."""

    ids: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    def up_to(self, count: int, number: int, seed: int) -> NDArray[np.uint64]:
        if count > len(self.ids):
            more = [
                0 if is_poison(seed, number, offset) else feature_id("user", user_of(number, offset))
                for offset in range(len(self.ids), max(count, 2 * len(self.ids)))
            ]
            self.ids = np.concatenate([self.ids, np.array(more, np.uint64)])
        return self.ids[:count]


def is_poison(seed: int, partition: int, offset: int) -> bool:
    return zlib.crc32(f"{seed}/{partition}/{offset}".encode()) % 100 < POISON_PERCENT


def user_of(partition: int, offset: int) -> str:
    return f"u{partition}-{offset}"


def record(seed: int, partition: int, offset: int) -> bytes:
    """The bytes at one place."""
    if is_poison(seed, partition, offset):
        return b'{"label": 1, "sparse": {"user"'
    sparse = {"user": user_of(partition, offset), "item": f"i{offset % ITEMS}"}
    return json.dumps({"label": offset % 2, "sparse": sparse}).encode()


class Ledger:
    """What was handed to one topic, and what a state must look like that learned a part of it."""

    def __init__(self, seed: int, topic: str, partitions: int) -> None:
        self.seed = seed
        self.topic = topic
        self.handed = [0] * partitions
        self._known = [_Partition() for _ in range(partitions)]
        self._items = np.array([feature_id("item", f"i{number}") for number in range(ITEMS)], np.uint64)

    def good(self, counts: list[int] | None = None) -> int:
        """Samples that are no poison among the first records of every partition; None for all handed over."""
        return sum(
            int(np.count_nonzero(self._known[p].up_to(count, p, self.seed)))
            for p, count in enumerate(counts or self.handed)
        )

    def judge(self, state: ModelState) -> Verdict:
        """Compares every part of a state with the records that its offsets say it has learned."""
        manifest = state.manifest
        offsets = {o.partition: o.next_offset for o in manifest.offsets if o.topic == self.topic}
        counts = [offsets.get(p, 0) for p in range(len(self.handed))]
        trained = {
            int(i): float(n) for b in state.rows.blocks for i, n in zip(b.ids, b.counts, strict=True) if b.slot < 2
        }
        lost = twice = 0
        reasons: list[str] = []
        items = np.zeros(ITEMS)
        for p, count in enumerate(counts):
            if count > self.handed[p]:
                reasons.append(f"partition {p}: offset {count} of {self.handed[p]} records")
            ids = self._known[p].up_to(max(self.handed[p], count), p, self.seed)
            found = _counts_of(ids, trained)
            below, above = found[:count], found[count:]
            good = ids[:count] != 0
            lost += int(np.count_nonzero(good & (below == 0)))
            twice += int(np.count_nonzero(below > 1))
            if ahead := int(np.count_nonzero(above > 0)):
                reasons.append(f"partition {p}: {ahead} rows of records at offset {count} and behind")
            np.add.at(items, np.flatnonzero(good) % ITEMS, 1)
        reasons += self._disagreements(state, counts, _counts_of(self._items, trained), items)
        return Verdict(lost, twice, int(bool(reasons)), tuple(reasons))

    def _disagreements(
        self, state: ModelState, counts: list[int], items: NDArray[np.float64], expected_items: NDArray[np.float64]
    ) -> list[str]:
        good = self.good(counts)
        pairs = {
            "samples_trained": (state.manifest.samples_trained, good),
            "samples counted": (int(state.arrays["counts"][0]), good),
            "dead_letters": (state.manifest.dead_letters, sum(counts) - good),
        }
        found = [f"{name}: {seen}, offsets say {due}" for name, (seen, due) in pairs.items() if seen != due]
        if (different := np.flatnonzero(items != expected_items)).size:
            at = different[0]
            found.append(f"{different.size} items, such as {at}: {items[at]}, offsets say {expected_items[at]}")
        return found


def _counts_of(ids: NDArray[np.uint64], trained: Mapping[int, float]) -> NDArray[np.float64]:
    return np.array([trained.get(i, 0.0) for i in ids.tolist()])


class SampleFeed:
    """Writes a ledger's records to Kafka, at a pace from a thread of its own or some at once."""

    def __init__(self, bootstrap: str, ledger: Ledger) -> None:
        self.ledger = ledger
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 180_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._failures: list[str] = []
        self._acknowledged = [0] * len(ledger.handed)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def send(self, count: int) -> None:
        """Hands over the next records, to all partitions in turn."""
        ledger = self.ledger
        with self._lock:
            for number in range(count):
                partition = number % len(ledger.handed)
                offset = ledger.handed[partition]
                value = record(ledger.seed, partition, offset)
                self._producer.produce(ledger.topic, value, partition=partition, on_delivery=self._delivered)
                ledger.handed[partition] = offset + 1
            self._producer.poll(0)

    def start(self, per_s: float) -> None:
        """Goes on sending until `stop`."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(per_s,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and waits until Kafka has everything.

        Raises:
            LedgerError: a record did not get the offset that it was made for.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        left = self._producer.flush(120)
        if left or self._failures or self._acknowledged != self.ledger.handed:
            message = f"{left} records not written; {self._failures[:3]}; {self._acknowledged}: {self.ledger.handed}"
            raise LedgerError(message)

    def _run(self, per_s: float) -> None:
        pause_s = 0.05
        while not self._stopping.wait(pause_s):
            self.send(max(1, round(per_s * pause_s)))

    def _delivered(self, error: object, message: object) -> None:
        if error is not None:
            self._failures.append(str(error))
            return
        partition, offset = message.partition(), message.offset()  # type: ignore[attr-defined]
        if offset != self._acknowledged[partition]:
            self._failures.append(f"partition {partition}: offset {offset}, not {self._acknowledged[partition]}")
        self._acknowledged[partition] = offset + 1


def now_s() -> float:
    return time.monotonic()
