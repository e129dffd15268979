"""Which codec each class of rows gets at a price of bytes in loss, and the price that a limit asks for.

Knows evidence, not what becomes of it. Every policy answers the same question: with rows' bytes at this price, which
choice of its kind costs least, loss and bytes together (Lagrange: Everett 1963)? So a policy's choices lie on the
lower hull of loss over bytes, and one number moves along it.

Invariant: deterministic; a higher price never takes more bytes nor gives a smaller estimated rise; so more budget is
never worse, and neither is more tolerance ever larger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dimension_search.errors import SearchError
from dimension_search.precision_evidence import PrecisionEvidence
from dimension_search.row_importance import LEVELS
from embedding_table.row_codecs import codec_named

__all__ = ["ByImportance", "BySlot", "PrecisionPolicy", "Uniform", "bytes_of", "policy_named", "rise_of"]
__all__ += ["within_bytes", "within_rise"]

Choice = NDArray[np.int64]
_HALVINGS = 22  # of 100 powers of two


class PrecisionPolicy(Protocol):
    """A way to give classes their codecs."""

    @property
    def name(self) -> str:
        """Under which plans are filed."""

    def choose(self, evidence: PrecisionEvidence, price: float) -> Choice:
        """Numbers of codecs i64 (C,) that cost least, a byte at `price` of mean log-loss."""


@dataclass(frozen=True, slots=True)
class ByImportance:
    """Tiers by thresholds on importance: inside a (slot, band), more important rows have no fewer bits."""

    name: str = "importance"

    def choose(self, evidence: PrecisionEvidence, price: float) -> Choice:
        """See `PrecisionPolicy.choose`; the cheapest ascending path through the levels of every block."""
        ranks = _ranks(evidence)
        codecs = len(evidence.codecs)
        cost = (evidence.rise + price * evidence.bytes).reshape(evidence.blocks, LEVELS, codecs)
        cost = np.take_along_axis(cost, ranks[:, None, :], axis=2)
        came_from = np.empty(cost.shape, np.int64)
        best = np.zeros((evidence.blocks, codecs))
        for level in range(LEVELS):
            least = np.minimum.accumulate(best, axis=1)
            fresh = np.where(best == least, np.arange(codecs), 0)
            came_from[:, level] = np.maximum.accumulate(fresh, axis=1)
            best = least + cost[:, level]
        path = np.empty((evidence.blocks, LEVELS), np.int64)
        at = codecs - 1 - np.argmin(best[:, ::-1], axis=1)
        blocks = np.arange(evidence.blocks)
        for level in range(LEVELS - 1, -1, -1):
            path[:, level] = at
            at = came_from[blocks, level, at]
        return np.take_along_axis(ranks, path, axis=1).reshape(-1)


@dataclass(frozen=True, slots=True)
class BySlot:
    """One codec for all rows of a slot."""

    name: str = "per_slot"

    def choose(self, evidence: PrecisionEvidence, price: float) -> Choice:
        """See `PrecisionPolicy.choose`."""
        cost = evidence.rise + price * evidence.bytes
        by_slot = cost.reshape(-1, evidence.bands * LEVELS, len(evidence.codecs)).sum(axis=1)
        return np.repeat(np.argmin(by_slot, axis=1), evidence.bands * LEVELS)


@dataclass(frozen=True, slots=True)
class Uniform:
    """One codec for all rows there are."""

    name: str = "uniform"

    def choose(self, evidence: PrecisionEvidence, price: float) -> Choice:
        """See `PrecisionPolicy.choose`."""
        cost = (evidence.rise + price * evidence.bytes).sum(axis=0)
        return np.full(evidence.rows.size, np.argmin(cost), np.int64)


def policy_named(name: str) -> PrecisionPolicy:
    """The policy of that name.

    Raises:
        SearchError: there is none.
    """
    policies: tuple[PrecisionPolicy, ...] = (ByImportance(), BySlot(), Uniform())
    for policy in policies:
        if policy.name == name:
            return policy
    message = f"no policy is called {name!r}: expected one of {', '.join(policy.name for policy in policies)}"
    raise SearchError(message)


def rise_of(evidence: PrecisionEvidence, choice: Choice) -> float:
    """Estimated rise of the mean log-loss under a choice."""
    return float(np.take_along_axis(evidence.rise, choice[:, None], axis=1).sum())


def bytes_of(evidence: PrecisionEvidence, choice: Choice) -> int:
    """Bytes of a choice, as if no class shared anything with another: never below what a plan of it comes to."""
    return int(np.take_along_axis(evidence.bytes, choice[:, None], axis=1).sum())


def within_bytes(policy: PrecisionPolicy, evidence: PrecisionEvidence, max_bytes: int) -> float | None:
    """The lowest price at which a policy's choice fits, up to rounding; None where even the smallest does not."""
    return _last_price(lambda price: bytes_of(evidence, policy.choose(evidence, price)) <= max_bytes, fits_high=True)


def within_rise(policy: PrecisionPolicy, evidence: PrecisionEvidence, max_rise: float) -> float | None:
    """The highest price at which the estimated rise keeps to a limit; None where even the finest does not."""
    return _last_price(lambda price: rise_of(evidence, policy.choose(evidence, price)) <= max_rise, fits_high=False)


def _ranks(evidence: PrecisionEvidence) -> NDArray[np.int64]:
    """Numbers of codecs from few bits to many, i64 (F * K, N), block by block."""
    bits = np.array([codec_named(name).bits for name in evidence.codecs], np.int64)
    return np.array([np.lexsort((row_bytes, bits)) for row_bytes in evidence.row_bytes], np.int64)


def _last_price(fits: Callable[[float], bool], *, fits_high: bool) -> float | None:
    """Halves the span of (logarithmic) prices; what fits on the one end of it is wanted as far as it goes."""
    low, high = -90.0, 10.0
    good, bad = (high, low) if fits_high else (low, high)
    if not fits(2.0**good):
        return None
    if fits(2.0**bad):
        return float(2.0**bad)
    for _ in range(_HALVINGS):
        middle = (good + bad) / 2
        if fits(2.0**middle):
            good = middle
        else:
            bad = middle
    return float(2.0**good)
