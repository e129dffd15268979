"""From evidence to plans: a few choices along the price of a byte, each with its tiers and reasons, and the best one.

Knows no table and no network: what held-back samples say of each plan is handed in. Choices are found by halving the
span of prices until the estimated rise of the log-loss is a share of the tolerance, or the bytes fit; the held-back
samples then say which of them keeps to it.

Invariant: a plan's bytes keep to the budget it was made for; the plan that is chosen is the smallest of those that
keep to the tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from dimension_search.learned_scales import LearnedScales
from dimension_search.plan import Verdict
from dimension_search.precision_evidence import PrecisionEvidence
from dimension_search.precision_plan import Candidate, PrecisionPlan, TierPlan
from dimension_search.precision_policy import PrecisionPolicy, bytes_of, rise_of, within_bytes, within_rise
from dimension_search.row_importance import LEVELS, least_count
from embedding_table.packed_words import BLOCK
from embedding_table.row_codecs import codec_named

__all__ = ["Judged", "PricedChoice", "choices_along_price", "make_precision_plan", "verdict_of"]

_SHARES = (1.25, 0.9, 0.6, 0.3, 0.0625)
_FINEST = 2.0**-90
_SURE = 4.0  # standard errors that the labels may speak against a plan: rows that err together err with others


@dataclass(frozen=True, slots=True, eq=False)
class PricedChoice:
    """A policy's choice, codecs' numbers i64 (C,), at a price of a byte in mean log-loss."""

    price: float
    choice: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judged:
    """What held-back samples say of a plan, relative to their log-loss.

    Attributes:
        samples: how many.
        log_loss: mean, of the rows as they are trained.
        expected: rise by the model's own probabilities.
        measured: rise by the labels.
        noise: standard error of `measured`.
    """

    samples: int
    log_loss: float
    expected: float
    measured: float
    noise: float


def choices_along_price(
    policy: PrecisionPolicy, evidence: PrecisionEvidence, tolerance: float, max_bytes: int = 0
) -> list[PricedChoice]:
    """What is worth to be judged, fewest bytes first; empty where nothing fits the budget.

    Args:
        policy: the method.
        evidence: about all classes.
        tolerance: relative rise of the log-loss.
        max_bytes: of all rows; 0 for no limit.
    """
    if max_bytes:
        price = within_bytes(policy, evidence, max_bytes)
        return [] if price is None else [PricedChoice(price, policy.choose(evidence, price))]
    prices = [within_rise(policy, evidence, share * tolerance * evidence.log_loss) for share in _SHARES]
    found: dict[int, PricedChoice] = {}
    for price in [price for price in prices if price is not None] or [_FINEST]:
        choice = policy.choose(evidence, price)
        found.setdefault(bytes_of(evidence, choice), PricedChoice(price, choice))
    return [found[size] for size in sorted(found)]


def make_precision_plan(
    priced: PricedChoice,
    evidence: PrecisionEvidence,
    shared: LearnedScales,
    slots: Sequence[str],
    *,
    policy: str,
    trigger: str,
    created_ms: int,
    samples_trained: int,
    tolerance: float,
    budget_bytes: int = 0,
) -> PrecisionPlan:
    """Writes a choice down: neighbouring levels of one codec become one tier, unless each has its own scale.

    Args:
        priced: the choice.
        evidence: that it was made from.
        shared: what rows share.
        slots: F names.
        policy: its name.
        trigger: what asked for the search.
        created_ms: milliseconds since the epoch.
        samples_trained: samples learned so far.
        tolerance: allowed, relative.
        budget_bytes: allowed, 0 for no limit.
    """
    tiers: list[TierPlan] = []
    choice = priced.choice.reshape(evidence.blocks, LEVELS)
    for block in range(evidence.blocks):
        apart = [codec_named(evidence.codecs[number]).form == BLOCK for number in choice[block]]
        starts = [
            level
            for level in range(LEVELS)
            if level == 0
            or choice[block, level] != choice[block, level - 1]
            or (apart[level] and evidence.rows[block * LEVELS + level])
        ]
        slot, band = divmod(block, evidence.bands)
        for first, end in zip(starts, [*starts[1:], LEVELS], strict=True):
            codec = int(choice[block, first])
            tiers.append(_tier(evidence, shared, slots[slot], band, block, codec, first, end))
    estimated = rise_of(evidence, priced.choice) / evidence.log_loss
    size = sum(tier.bytes_after for tier in tiers)
    return PrecisionPlan(
        policy=policy,
        trigger=trigger,
        created_ms=created_ms,
        samples_trained=samples_trained,
        tolerance=tolerance,
        budget_bytes=budget_bytes,
        bytes_before=evidence.fp32_bytes,
        bytes_after=size,
        tiers=tiers,
        candidates=[Candidate(price=priced.price, bytes=size, estimated=estimated)],
    )


def verdict_of(plans: Sequence[PrecisionPlan], judged: Sequence[Judged]) -> PrecisionPlan:
    """The plan to keep to, with its verdict and all candidates.

    By the samples' labels a rise within the tolerance cannot be told from noise in any window of bearable length; by
    the model's own probabilities it can. So `expected` decides, and `measured` may not speak against it by more than
    its noise.

    Args:
        plans: at least one, fewest bytes first.
        judged: what held-back samples say of each.
    """
    candidates = [
        msgspec.structs.replace(plan.candidates[0], expected=found.expected, measured=found.measured, noise=found.noise)
        for plan, found in zip(plans, judged, strict=True)
    ]
    tolerance = plans[0].tolerance
    fits = [found.expected <= tolerance and found.measured <= tolerance + _SURE * found.noise for found in judged]
    chosen = fits.index(True) if any(fits) else len(plans) - 1
    found = judged[chosen]
    reason = (
        f"log-loss {found.expected:+.4%} expected, {found.measured:+.4%} ± {found.noise:.4%} measured on held-back "
        f"samples, tolerance {tolerance:.4%}"
    )
    if not any(fits):
        reason = f"none of {len(plans)} plans keeps to the tolerance; the finest: {reason}"
    verdict = Verdict(
        decision="applied" if any(fits) else "refused",
        reason=reason,
        samples=found.samples,
        log_loss_before=round(found.log_loss, 6),
        log_loss_after=round(found.log_loss * (1 + found.measured), 6),
    )
    return msgspec.structs.replace(plans[chosen], candidates=candidates, chosen=chosen, verdict=verdict)


def _tier(
    evidence: PrecisionEvidence,
    shared: LearnedScales,
    slot: str,
    band: int,
    block: int,
    codec: int,
    first: int,
    end: int,
) -> TierPlan:
    name = evidence.codecs[codec]
    classes = slice(block * LEVELS + first, block * LEVELS + end)
    rows = int(evidence.rows[classes].sum())
    lookups = evidence.lookups[classes]
    width = int(evidence.widths[block])
    values = shared.of(block, name, first)
    rise = float(evidence.rise[classes, codec].sum())
    error = float(np.sqrt(np.sum(evidence.error[classes, codec] * lookups) / max(lookups.sum(), 1)))
    bare = int(np.sum(evidence.bytes[classes, codec])) - int(evidence.shared_bytes[codec]) * int(
        np.count_nonzero(evidence.rows[classes])
    )
    read = lookups.sum() / max(evidence.lookups.sum(), 1)
    return TierPlan(
        slot=slot,
        band=band,
        codec=name,
        least_count=least_count(first),
        least_importance=least_count(first) * float(evidence.sensitivity[block]) * width,
        width=width,
        rows=rows,
        bytes_before=4 * width * rows,
        bytes_after=bare + (int(evidence.shared_bytes[codec]) if rows else 0),
        error=round(error, 6),
        rise=rise,
        reason=(
            f"{read:.2%} of all lookups in {rows / max(evidence.rows.sum(), 1):.2%} of the rows; "
            f"rise of the log-loss {rise / evidence.log_loss:.5%}"
        ),
        shared=b"" if values is None else values.astype("<f4").tobytes(),
    )
