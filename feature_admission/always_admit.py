"""Admission of every id at first sight.

Knows nothing and keeps nothing: the comparison that any other policy must beat, and the right choice where eviction
alone holds the budget.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_admission.admission import checked_counts, checked_ids
from feature_admission.errors import StateMismatchError
from feature_admission.state_pages import StatePages

__all__ = ["AlwaysAdmit"]


class AlwaysAdmit:
    """Admits every id. Holds no memory."""

    def observe(
        self, ids: NDArray[np.uint64], counts: NDArray[np.uint32] | None = None, now_s: int | None = None
    ) -> None:
        """Checks the arguments, counts nothing."""
        checked_counts(counts, len(checked_ids(ids)))

    def admitted(self, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Bool (n,), all true."""
        return np.ones(len(checked_ids(ids)), np.bool_)

    @property
    def memory_bytes(self) -> int:
        """0."""
        return 0

    def state(self) -> dict[str, NDArray[Any]]:
        """No arrays."""
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Accepts the empty state only.

        Raises:
            StateMismatchError: the state holds arrays, so it is another policy's.
        """
        if state:
            msg = f"state: arrays {sorted(state)}, expected none for a policy that always admits"
            raise StateMismatchError(msg)

    def take_dirty_pages(self) -> tuple[StatePages, ...]:
        """No pages."""
        return ()

    def apply_pages(self, pages: Sequence[StatePages]) -> None:
        """Accepts no pages only.

        Raises:
            StateMismatchError: there are pages, so they are another policy's.
        """
        if pages:
            msg = f"pages: of arrays {sorted(p.array for p in pages)}, expected none for a policy that always admits"
            raise StateMismatchError(msg)
