"""A plan of precision as data: the tiers of every block, what rows of a tier share, why, and what was found by judging.

Knows no table. A tier is a codec for the rows of a (slot, band) from some count on. What they share, codebooks or one
scale, is learned once and frozen here, so that rows which are published later lie beside those of before.

Invariant: a plan read back from its JSON is equal to the one written; tiers stand by slot, band and count, and the
first tier of a block begins at count 0, so every row has one.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from dimension_search.errors import SearchError
from dimension_search.plan import Verdict

__all__ = ["Candidate", "PrecisionPlan", "TierPlan", "read_precision_plan", "same_codec_plan", "write_precision_plan"]


class TierPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one (slot, band) that share a codec.

    Attributes:
        slot: name of the slot.
        band: popularity band, the highest is the hottest.
        codec: of `embedding_table.row_codecs`.
        least_count: decayed count from which on rows belong here, up to the next tier's.
        least_importance: the same threshold as importance: expected rise of the log-loss, summed over as many lookups,
            for an error of 1 in every column.
        width: columns that rows had when the plan was made.
        rows: live rows then.
        bytes_before: of these rows as fp32.
        bytes_after: of these rows packed, with what they share.
        error: square root of the mean squared error of looked-up rows over their mean square.
        rise: estimated share in the rise of the mean log-loss.
        reason: why this codec, for people.
        shared: f32, little-endian, what the rows share; empty for codecs that share nothing, and in the history.
    """

    slot: str
    band: int
    codec: str
    least_count: float
    least_importance: float = 0.0
    width: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    error: float = 0.0
    rise: float = 0.0
    reason: str = ""
    shared: bytes = b""

    @property
    def shared_values(self) -> NDArray[np.float32] | None:
        """What the rows share, f32 (k,); None where nothing is."""
        return np.frombuffer(self.shared, "<f4").astype(np.float32) if self.shared else None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One of the plans that were judged beside each other.

    Attributes:
        price: of a byte in mean log-loss.
        bytes: of all rows.
        estimated: relative rise of the log-loss that the window lets expect.
        expected: the same on held-back samples, by the model's own probabilities: their Kullback-Leibler divergence.
        measured: the same by the samples' labels.
        noise: standard error of `measured`.
    """

    price: float
    bytes: int
    estimated: float
    expected: float = 0.0
    measured: float = 0.0
    noise: float = 0.0


class PrecisionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How precisely every row is served.

    Attributes:
        policy: name of the method, or of the one codec of all rows.
        trigger: what asked for the search: "samples", "dimensions" or "settings".
        created_ms: milliseconds since the epoch.
        samples_trained: samples learned when it was made.
        tolerance: relative rise of the log-loss that was allowed.
        budget_bytes: bytes of rows that were allowed; 0 for no limit.
        bytes_before: of all rows as fp32.
        bytes_after: of all rows packed.
        tiers: slot by slot, band by band, ascending counts inside.
        candidates: what was judged, the chosen one among them.
        chosen: its number.
        verdict: None before it was judged.
    """

    policy: str
    trigger: str
    created_ms: int
    samples_trained: int
    tolerance: float
    budget_bytes: int
    bytes_before: int
    bytes_after: int
    tiers: list[TierPlan]
    candidates: list[Candidate] = []
    chosen: int = 0
    verdict: Verdict | None = None

    def without_shared(self) -> "PrecisionPlan":
        """The plan for people to read: what rows share left out."""
        tiers = [msgspec.structs.replace(tier, shared=b"") for tier in self.tiers]
        return msgspec.structs.replace(self, tiers=tiers)


def same_codec_plan(codec: str, slots: Sequence[str], bands: int, *, created_ms: int) -> PrecisionPlan:
    """The plan that gives all rows one codec that shares nothing, as settings ask for it."""
    return PrecisionPlan(
        policy=codec,
        trigger="settings",
        created_ms=created_ms,
        samples_trained=0,
        tolerance=0.0,
        budget_bytes=0,
        bytes_before=0,
        bytes_after=0,
        tiers=[
            TierPlan(slot=slot, band=band, codec=codec, least_count=0.0, reason="asked for by the settings")
            for slot in slots
            for band in range(bands)
        ],
        verdict=Verdict(decision="applied", reason="asked for by the settings"),
    )


def write_precision_plan(plan: PrecisionPlan) -> bytes:
    """The plan as one JSON object."""
    return msgspec.json.encode(plan)


def read_precision_plan(text: bytes) -> PrecisionPlan:
    """The plan that `write_precision_plan` wrote.

    Raises:
        SearchError: the bytes are not a plan.
    """
    try:
        return msgspec.json.decode(text, type=PrecisionPlan)
    except msgspec.MsgspecError as error:
        message = f"not a plan of precision: {error}"
        raise SearchError(message) from error
