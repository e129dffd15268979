"""A plan as data: the columns of every block, why, what it saves and what was found when it was judged.

Knows no table. Invariant: a plan read back from its JSON is equal to the one written; blocks stand by slot and band.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from dimension_search.errors import SearchError

__all__ = ["BlockPlan", "Decision", "DimensionPlan", "Verdict", "read_plan", "write_plan"]

Decision = Literal["applied", "refused", "planned"]


class BlockPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One (slot, band).

    Attributes:
        slot: name of the slot.
        band: popularity band, the highest is the hottest.
        rows: live rows when the plan was made.
        columns_before: active columns until now, ascending.
        columns: active columns wanted, ascending.
        bytes_before: of rows and their state.
        bytes_after: likewise.
        share_lost: of the block's importance, by the planner's measure, that its dropped columns had.
        reason: why this width, for people.
    """

    slot: str
    band: int
    rows: int
    columns_before: list[int]
    columns: list[int]
    bytes_before: int
    bytes_after: int
    share_lost: float
    reason: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a plan did on held-back samples.

    Attributes:
        decision: "applied", "refused", or "planned" where only a plan was asked for.
        reason: why, for people.
        samples: held-back samples it was judged on.
        log_loss_before: of the model as it is.
        log_loss_after: of the model under the plan.
    """

    decision: Decision
    reason: str
    samples: int = 0
    log_loss_before: float = 0.0
    log_loss_after: float = 0.0


class DimensionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What every block should have.

    Attributes:
        planner: name of the method.
        trigger: what asked for the search: "samples", "time", "budget" or "command".
        created_ms: milliseconds since the epoch.
        samples_trained: samples learned when it was made.
        budget_bytes: what it was to keep to.
        bytes_before: of rows and their state, all blocks.
        bytes_after: likewise.
        share_lost: of all importance, by the planner's measure: the loss it expects to cause, relatively.
        dropped_slots: slots left without a column: feature selection, only where the floor is 0.
        blocks: slot by slot, band by band inside.
        verdict: None before it was judged.
    """

    planner: str
    trigger: str
    created_ms: int
    samples_trained: int
    budget_bytes: int
    bytes_before: int
    bytes_after: int
    share_lost: float
    dropped_slots: list[str]
    blocks: list[BlockPlan]
    verdict: Verdict | None = None

    @property
    def columns(self) -> list[NDArray[np.uint16]]:
        """Wanted columns u16 (d,) of each block, as `EmbeddingTable` takes them."""
        return [np.array(block.columns, np.uint16) for block in self.blocks]

    @property
    def changed(self) -> bool:
        """Whether any block's columns would change."""
        return any(block.columns != block.columns_before for block in self.blocks)

    @property
    def widths(self) -> Sequence[int]:
        """Wanted width of each block."""
        return [len(block.columns) for block in self.blocks]


def write_plan(plan: DimensionPlan) -> bytes:
    """The plan as one JSON object."""
    return msgspec.json.encode(plan)


def read_plan(text: bytes) -> DimensionPlan:
    """The plan that `write_plan` wrote.

    Raises:
        SearchError: the bytes are not a plan.
    """
    try:
        return msgspec.json.decode(text, type=DimensionPlan)
    except msgspec.MsgspecError as error:
        message = f"not a plan: {error}"
        raise SearchError(message) from error
