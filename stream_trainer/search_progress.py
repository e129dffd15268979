"""A search for dimensions that is under way, as arrays of a checkpoint and back.

Knows what the keeper of dimensions has in hand between two batches; neither table nor step. Invariant: what comes back
is what was given, bit by bit, so that a restored trainer ends the search as the one that never stopped; a state without
a search brings none back.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dimension_search.evidence import BlockEvidence
from dimension_search.plan import DimensionPlan

__all__ = ["Judged", "SearchProgress", "evidence_arrays", "evidence_of", "progress_arrays", "progress_of"]

_TEXT = "search"
_EVIDENCE = ("active", "rows", "counts", "lookups", "first", "squared", "magnitude", "spectrum", "signal")


class Judged(msgspec.Struct):
    """Sums over held-back samples."""

    samples: int = 0
    weight: float = 0.0
    before: float = 0.0
    after: float = 0.0


class SearchProgress(msgspec.Struct, kw_only=True):
    """Where a search stands.

    Attributes:
        mode: what becomes of an accepted plan.
        asked: a search that was asked for and has not begun.
        trigger: why one is under way; None while none is.
        window: samples of its evidence.
        plan: to be judged; None while evidence is gathered.
        judged: of the plan so far.
        accepted: waits for the next quiet moment, or for its first stage to end.
        seeded: columns of each slot that this stage gives random values; None before it has begun.
    """

    mode: str = "apply"
    asked: str | None = None
    trigger: str | None = None
    window: int = 0
    plan: DimensionPlan | None = None
    judged: Judged = msgspec.field(default_factory=Judged)
    accepted: DimensionPlan | None = None
    seeded: list[list[int]] | None = None

    @property
    def any(self) -> bool:
        """Whether there is something to remember."""
        return self.asked is not None or self.trigger is not None or self.accepted is not None


def progress_arrays(progress: SearchProgress) -> dict[str, NDArray[Any]]:
    """The progress as one array of bytes, none where there is no search."""
    if not progress.any:
        return {}
    return {_TEXT: np.frombuffer(msgspec.json.encode(progress), np.uint8).copy()}


def progress_of(arrays: Mapping[str, NDArray[Any]]) -> SearchProgress | None:
    """What `progress_arrays` was given; None where that was no search."""
    if _TEXT not in arrays:
        return None
    return msgspec.json.decode(arrays[_TEXT].tobytes(), type=SearchProgress)


def evidence_arrays(evidence: BlockEvidence | None, prefix: str) -> dict[str, NDArray[Any]]:
    """Copies of all arrays of some evidence, under names of their own."""
    if evidence is None:
        return {}
    return {f"{prefix}{name}": np.array(getattr(evidence, name)) for name in _EVIDENCE}


def evidence_of(arrays: Mapping[str, NDArray[Any]], prefix: str) -> BlockEvidence | None:
    """What `evidence_arrays` was given."""
    if f"{prefix}spectrum" not in arrays:
        return None
    return BlockEvidence(**{name: arrays[f"{prefix}{name}"] for name in _EVIDENCE})
