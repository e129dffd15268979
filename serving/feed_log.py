"""What happened on the way from Redis to the replica: counts, the last refusals, and what is being waited for.

Knows no Redis and no model: the subscriber and the intake write, the HTTP side reads. Invariant: a read never waits
for longer than a write of a few counts.
"""

import threading
from collections import Counter, deque
from dataclasses import dataclass, field

from model_contract.published_versions import Hold, Pin

__all__ = ["FeedLog", "FeedState", "Refusal"]

_KEPT_REFUSALS = 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """One increment, base or head that was not taken.

    Attributes:
        at_ms: when.
        reason: short code.
        detail: one line for a person.
        source: where it was read, such as `increment 17-0` or `base 12`.
    """

    at_ms: int
    reason: str
    detail: str
    source: str


@dataclass(frozen=True, slots=True)
class FeedState:
    """A copy of everything, taken at one moment.

    Attributes:
        connected: whether Redis answered last time.
        waiting_for: what stands between here and a fresh model, "" when nothing does.
        applied: increments applied.
        duplicates: increments skipped because they had been applied before.
        bases: bases loaded.
        reconnects: times that Redis answered again after it had not.
        refused: refusals by reason.
        refusals: the last ones, newest first.
        pin: the version that this server was told to stay at, None where it follows the trainer.
        hold: why the trainer publishes nothing, None where it does.
    """

    connected: bool
    waiting_for: str
    applied: int
    duplicates: int
    bases: int
    reconnects: int
    refused: dict[str, int] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    pin: Pin | None = None
    hold: Hold | None = None


class FeedLog:
    """The writing side; one thread writes, others take `state`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connected = False
        self._lost = False
        self._waiting_for = "the first connection to Redis"
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._refusals: deque[Refusal] = deque(maxlen=_KEPT_REFUSALS)
        self._pin: Pin | None = None
        self._hold: Hold | None = None

    def connected(self) -> None:
        """Redis answered."""
        with self._lock:
            self._counts["reconnects"] += self._lost and not self._connected
            self._connected = True

    def disconnected(self, why: str) -> bool:
        """Redis did not answer; tells whether that is news."""
        with self._lock:
            news = self._connected or not self._lost
            self._connected = False
            self._lost = True
            self._waiting_for = f"Redis: {why}"
            return news

    def noted(self, pin: Pin | None, hold: Hold | None) -> None:
        """What stands beside the head now."""
        with self._lock:
            self._pin, self._hold = pin, hold

    def waiting(self, for_what: str) -> None:
        """Names what is missing; "" when nothing is."""
        with self._lock:
            self._waiting_for = for_what

    def applied(self) -> None:
        """An increment was applied."""
        with self._lock:
            self._counts["applied"] += 1
            self._waiting_for = ""

    def loaded(self) -> None:
        """A base was loaded."""
        with self._lock:
            self._counts["bases"] += 1
            self._waiting_for = ""

    def duplicate(self) -> None:
        """An increment had been applied before."""
        with self._lock:
            self._counts["duplicates"] += 1

    def refused(self, refusal: Refusal) -> None:
        """Something was not taken."""
        with self._lock:
            self._refused[refusal.reason] += 1
            self._refusals.appendleft(refusal)
            self._waiting_for = f"something better than {refusal.source}, refused: {refusal.reason}: {refusal.detail}"

    @property
    def state(self) -> FeedState:
        """A copy of everything."""
        with self._lock:
            return FeedState(
                connected=self._connected,
                waiting_for=self._waiting_for,
                applied=self._counts["applied"],
                duplicates=self._counts["duplicates"],
                bases=self._counts["bases"],
                reconnects=self._counts["reconnects"],
                refused=dict(self._refused),
                refusals=tuple(self._refusals),
                pin=self._pin,
                hold=self._hold,
            )
