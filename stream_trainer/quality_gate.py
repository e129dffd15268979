"""Holds back what must not be served: values that are not finite, a recent log-loss that has left its band.

Knows no Redis and no file: it judges one cut after another and writes its verdict into the cut, so that the verdict is
durable with what it is about. Invariants: a cut whose serving values, or any served row written before and not since
mended, are not finite is held; while anything is held the level that losses are compared with stands still, so that
no amount of bad samples becomes the new normal; the same cuts in the same order give the same verdicts, over restarts.

The recent loss and the level are means over samples with exponentially fading weight. Between two cuts the progressive
totals (`progressive_metrics`) say what came: every sample counts once, predicted before it was learned.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_contract.dense_layout import DenseLayout
from model_contract.published_versions import Hold
from stream_trainer.model_state import Arrays, ModelState
from stream_trainer.outgoing import DENSE_MEAN, DENSE_STD, PARAMETERS
from stream_trainer.progressive_metrics import ProgressiveTotals, totals_of

__all__ = ["GateRules", "QualityGate", "is_held"]

logger = logging.getLogger(__name__)

_NUMBERS: Final = "gate/numbers"
_BAD_IDS: Final = "gate/bad_ids"
_BAD_SLOTS: Final = "gate/bad_slots"
_METRICS: Final = "metrics/"
(
    _HELD,
    _SINCE_MS,
    _SEQUENCE,
    _BAD_PREDICTIONS,
    _SEEN,
    _RECENT_WEIGHT,
    _RECENT_LOSS,
    _LEVEL_WEIGHT,
    _LEVEL_LOSS,
    _SIZE,
) = range(10)
_REASONS: Final = ("", "not_finite", "log_loss")
_NO_IDS: Final = np.empty(0, np.uint64)
_NO_SLOTS: Final = np.empty(0, np.uint16)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """When the loss closes the gate; values that are not finite always do.

    Attributes:
        loss_rise: relative rise of the recent log-loss over the level that closes it; half of it opens it again. 0: the
            loss is not looked at.
        recent_samples: fading length of the recent mean, in samples of weight 1.
        level_samples: the same of the level.
        least_samples: weight that must have gone into the level before losses are judged.
    """

    loss_rise: float = 0.0
    recent_samples: float = 10_000.0
    level_samples: float = 200_000.0
    least_samples: float = 50_000.0


def is_held(state: ModelState) -> bool:
    """Whether the gate was closed at this cut; a state from before there was a gate is not held."""
    numbers = state.arrays.get(_NUMBERS)
    return numbers is not None and bool(numbers[_HELD])


class QualityGate:
    """Judges the cuts of one trainer in their order; one thread at a time. Others may read `hold` and the counts.

    Attributes:
        hold: why cuts are held back, None while the gate is open.
        closings: times it closed since the start.
        held_cuts: cuts held back since the start.
    """

    def __init__(self, rules: GateRules, layout: DenseLayout, slot_names: Sequence[str]) -> None:
        self.hold: Hold | None = None
        self.closings = 0
        self.held_cuts = 0
        self._rules = rules
        self._layout = layout
        self._slot_names = slot_names
        self._totals: ProgressiveTotals | None = None
        self._numbers = np.zeros(_SIZE)
        self._bad_ids: NDArray[np.uint64] = _NO_IDS
        self._bad_slots: NDArray[np.uint16] = _NO_SLOTS

    @property
    def recent_loss(self) -> float:
        """The recent log-loss, 0 before the first sample."""
        return _mean(self._numbers, _RECENT_WEIGHT)

    @property
    def level_loss(self) -> float:
        """What it is compared with, 0 before the first sample."""
        return _mean(self._numbers, _LEVEL_WEIGHT)

    def resume(self, state: ModelState) -> ModelState:
        """Goes on from a complete state: closed where it was closed; anew from its metrics where it knows no gate.

        Returns:
            the state with the verdict on it.
        """
        totals, window = _totals(state.arrays) or (None, None)
        self._totals = totals
        numbers = state.arrays.get(_NUMBERS)
        if numbers is not None and numbers.shape == (_SIZE,):
            self._numbers = np.array(numbers, np.float64)
        elif window is not None and window.weight > 0:
            self._start_from(window)
        self._bad_ids, self._bad_slots = _NO_IDS, _NO_SLOTS  # a complete state has all rows: it says which are bad
        return self._verdict(state)

    def judge(self, cut: ModelState) -> ModelState:
        """Judges the next cut.

        Returns:
            the cut with the verdict in it; `hold` says the same.
        """
        weight = loss = 0.0
        self._numbers[_BAD_PREDICTIONS] = 0.0
        found, before = _totals(cut.arrays), self._totals
        if found is not None and before is not None:
            weight, loss = found[0].weight - before.weight, found[0].loss - before.loss
            self._numbers[_BAD_PREDICTIONS] = found[0].not_finite - before.not_finite
            self._count(_RECENT_WEIGHT, weight, loss)
        self._totals = found[0] if found is not None else before
        judged = self._verdict(cut)
        if self.hold is None:
            self._count(_LEVEL_WEIGHT, weight, loss)
            judged.arrays[_NUMBERS] = self._numbers.copy()
        self.held_cuts += self.hold is not None
        return judged

    def _start_from(self, window: ProgressiveTotals) -> None:
        mean = window.loss / window.weight
        for place, length in ((_RECENT_WEIGHT, self._rules.recent_samples), (_LEVEL_WEIGHT, self._rules.level_samples)):
            weight = min(window.weight, length)
            self._numbers[place : place + 2] = weight, weight * mean
        self._numbers[_SEEN] = window.weight

    def _count(self, place: int, weight: float, loss: float) -> None:
        """Adds samples to a fading mean, which lies at `place` as weight and loss."""
        level = place == _LEVEL_WEIGHT
        length = self._rules.level_samples if level else self._rules.recent_samples
        self._numbers[place : place + 2] *= np.exp(-weight / length)
        self._numbers[place : place + 2] += weight, loss
        if level:
            self._numbers[_SEEN] += weight

    def _verdict(self, state: ModelState) -> ModelState:
        self._note_rows(state)
        reason, detail = self._reason(state.arrays)
        before = self.hold
        if reason:
            if not self._numbers[_HELD]:
                self._numbers[_SINCE_MS : _SEQUENCE + 1] = state.manifest.created_ms, state.manifest.sequence
                self.closings += 1
            since_ms, sequence = (int(number) for number in self._numbers[_SINCE_MS : _SEQUENCE + 1])
            self.hold = Hold(reason=reason, detail=detail, since_ms=since_ms, sequence=sequence)
            if before is None or before.reason != reason:
                logger.warning("cuts from %d on are held back: %s", sequence, detail)
        else:
            self.hold = None
            if self._numbers[_HELD]:
                logger.warning("cut %d is held back no more: values and log-loss are sound", state.manifest.sequence)
        self._numbers[_HELD] = _REASONS.index(reason)
        verdict: Arrays = {_NUMBERS: self._numbers.copy(), _BAD_IDS: self._bad_ids, _BAD_SLOTS: self._bad_slots}
        return replace(state, arrays={**state.arrays, **verdict})

    def _reason(self, arrays: Arrays) -> tuple[str, str]:
        """Short code and sentence, both empty where there is nothing against serving."""
        dense = self._bad_dense(arrays)
        if dense:
            return "not_finite", f"dense parameter {dense} holds NaN or infinity"
        if self._bad_ids.size:
            slot, rest = int(self._bad_slots[0]), self._bad_ids.size - 1
            name = self._slot_names[slot] if slot < len(self._slot_names) else str(slot)
            more = f", and {rest} rows more" if rest else ""
            return "not_finite", f"the row of id {self._bad_ids[0]} in slot {name} holds NaN or infinity{more}"
        if self._numbers[_BAD_PREDICTIONS]:
            count = self._numbers[_BAD_PREDICTIONS]
            return "not_finite", f"{count:.0f} predictions since the cut before were not finite"
        return self._rise()

    def _rise(self) -> tuple[str, str]:
        rules, recent, level = self._rules, self.recent_loss, self.level_loss
        if rules.loss_rise == 0 or self._numbers[_SEEN] < rules.least_samples or level <= 0:
            return "", ""
        held = self._numbers[_HELD] == _REASONS.index("log_loss")
        allowed = rules.loss_rise / 2 if held else rules.loss_rise
        if recent <= level * (1 + allowed):
            return "", ""
        rise = 100 * (recent / level - 1)
        return (
            "log_loss",
            f"recent log-loss {recent:.4f}, {rise:.0f} % over its level {level:.4f}: {allowed:.0%} allowed",
        )

    def _bad_dense(self, arrays: Arrays) -> str:
        """Name of the first dense tensor that is not finite."""
        for name in (DENSE_MEAN, DENSE_STD):
            if not np.isfinite(_as_served(arrays[f"serving/{name}"])).all():
                return name
        parameters = _as_served(arrays[PARAMETERS])
        if np.isfinite(parameters).all():
            return ""
        return next(tensor.name for tensor in self._layout.split(parameters) if not np.isfinite(tensor.values).all())

    def _note_rows(self, state: ModelState) -> None:
        """Follows which rows are not finite: each cut holds only those that changed, others stay as they were."""
        blocks = state.rows.blocks
        if self._bad_ids.size:
            told = np.concatenate([state.rows.erased_ids, *(block.ids for block in blocks)])
            still = ~np.isin(self._bad_ids, told)
            self._bad_ids, self._bad_slots = self._bad_ids[still], self._bad_slots[still]
        for block in blocks:
            finite = np.isfinite(block.values).all(axis=1)
            if not finite.all():
                ids = block.ids[~finite]
                self._bad_ids = np.concatenate([self._bad_ids, ids])
                self._bad_slots = np.concatenate([self._bad_slots, np.full(len(ids), block.slot, np.uint16)])


def _totals(arrays: Mapping[str, NDArray[np.generic]]) -> tuple[ProgressiveTotals, ProgressiveTotals] | None:
    if f"{_METRICS}sums" not in arrays:
        return None
    return totals_of({name: arrays[_METRICS + name] for name in ("sums", "past_sums")})


def _as_served(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """In the precision that servers get; what lies beyond its range is infinite there."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _mean(numbers: NDArray[np.float64], place: int) -> float:
    weight, loss = numbers[place : place + 2].tolist()
    return float(loss / weight) if weight > 0 else 0.0
