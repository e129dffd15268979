"""The plan of precision that a cut carries, found again by whoever sends the cut.

Knows the names of a cut's arrays; no trainer and no Redis. Invariant: what is answered follows from the cut alone, so a
cut that is sent by a later process is the same bytes.
"""

from collections.abc import Sequence

from dimension_search.precision_plan import read_precision_plan
from dimension_search.row_tiers import PlanTiers
from stream_trainer.model_state import ModelState

__all__ = ["PLAN", "STATE_PREFIX", "TiersOfCut"]

STATE_PREFIX = "precision/"
"""Before the names of the precision keeper's arrays in a cut."""

PLAN = "plan"
"""Name of the array that holds the plan in force, as JSON."""


class TiersOfCut:
    """Asks a cut for the plan that holds for its rows.

    Args:
        slots: names of the F slots, by number.
    """

    def __init__(self, slots: Sequence[str]) -> None:
        self._slots = slots
        self._last: tuple[bytes, PlanTiers] | None = None

    def __call__(self, state: ModelState) -> PlanTiers | None:
        """The tiers of a cut's rows; None where all are fp32. Any thread may ask."""
        array = state.arrays.get(STATE_PREFIX + PLAN)
        if array is None:
            return None
        text, last = array.tobytes(), self._last
        if last is None or last[0] != text:
            self._last = last = (text, PlanTiers(read_precision_plan(text), self._slots))
        return last[1]
