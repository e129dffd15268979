"""The protocol of admission: which feature id may have a row of its own.

Knows neither slots nor rows: a policy sees 64-bit ids (model_contract.feature_id) and how often they came. The
trainer calls it so, for the ids of a batch that have no row: `observe` counts them, then `admitted` says which of them
get one. Ids that have a row need not be observed: the table counts their traffic itself. A refused id is scored and
trained through its slot's missing row.

Invariant of every policy: `admitted` answers and changes nothing, `observe` counts and answers nothing; memory is
bounded by `memory_bytes` whatever comes; the state depends on the observations alone (no clock, no unseeded
randomness), so the same observations give the same state, byte for byte.

Not promised: safety under concurrent calls. One thread at a time may call a policy. Kernels release the GIL.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from feature_admission.errors import ObservationError, StateMismatchError
from feature_admission.state_pages import StatePages

__all__ = ["AdmissionPolicy", "checked_counts", "checked_ids", "state_array"]


@runtime_checkable
class AdmissionPolicy(Protocol):
    """Counts ids and answers which of them may have a row."""

    def observe(
        self, ids: NDArray[np.uint64], counts: NDArray[np.uint32] | None = None, now_s: int | None = None
    ) -> None:
        """Counts ids.

        Args:
            ids: uint64 (n,); an id that stands there k times counts k times.
            counts: uint32 (n,), how often each came; None means once each.
            now_s: seconds since the epoch, UTC; needed by policies that forget by seconds, ignored by others. A time
                before the latest one seen is taken for the latest one.

        Raises:
            ObservationError: shapes or dtypes are not as above.
            ClockError: the policy needs `now_s`.
        """
        ...

    def admitted(self, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Bool (n,): may each of the ids have a row, by what was observed so far. Changes nothing."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes that the policy holds and will ever hold between two calls."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of all arrays that make up the state; without Python objects, so that they can go to a file."""
        ...

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Takes on a saved state; afterwards no page is dirty.

        Raises:
            StateMismatchError: the state is not of a policy like this one; nothing was changed.
        """
        ...

    def take_dirty_pages(self) -> tuple[StatePages, ...]:
        """Copies what changed since the last call, `restore` or `apply_pages`, and forgets that it changed."""
        ...

    def apply_pages(self, pages: Sequence[StatePages]) -> None:
        """Writes pages that a policy like this one took, oldest first; the written pages are not dirty.

        Raises:
            StateMismatchError: a page does not fit.
        """
        ...


def checked_ids(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The ids, C-contiguous.

    Raises:
        ObservationError: not uint64 (n,).
    """
    if ids.ndim != 1 or ids.dtype != np.uint64:
        msg = f"ids: {ids.dtype} of shape {ids.shape}, expected uint64 of shape (n,)"
        raise ObservationError(msg)
    return np.ascontiguousarray(ids)


def checked_counts(counts: NDArray[np.uint32] | None, n: int) -> NDArray[np.uint32]:
    """The counts, C-contiguous; of length 0 for None, which stands for once each.

    Raises:
        ObservationError: not uint32 (n,).
    """
    if counts is None:
        return np.empty(0, np.uint32)
    if counts.shape != (n,) or counts.dtype != np.uint32:
        msg = f"counts: {counts.dtype} of shape {counts.shape}, expected uint32 of shape ({n},) like the ids"
        raise ObservationError(msg)
    return np.ascontiguousarray(counts)


def state_array(state: Mapping[str, NDArray[Any]], name: str, like: NDArray[Any]) -> NDArray[Any]:
    """The array `name` of a saved state.

    Raises:
        StateMismatchError: it is not there, or not of `like`'s dtype and shape.
    """
    found = state.get(name)
    if found is None:
        msg = f"state: no array {name!r}, found {sorted(state)}"
        raise StateMismatchError(msg)
    if found.dtype != like.dtype or found.shape != like.shape:
        msg = f"state {name!r}: {found.dtype} of shape {found.shape}, expected {like.dtype} of shape {like.shape}"
        raise StateMismatchError(msg)
    return found
