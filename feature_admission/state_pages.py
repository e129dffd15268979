"""The parts of a policy's state that changed since the last cut, as pages of bytes.

Knows nothing of what the bytes mean. Invariant: a state of time A plus all pages taken between A and B, applied in
the order in which they were taken, equals the state of time B byte for byte; pages hold absolute bytes, so applying
them twice equals applying them once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_admission.errors import StateMismatchError

__all__ = ["PAGE_BYTES", "StatePages", "take_pages", "whole_array", "write_pages"]

PAGE_BYTES = 256  # small, since a sketch scatters its writes: a page is copied for one changed cell


@dataclass(frozen=True, slots=True)
class StatePages:
    """Changed pages of one array of a policy's state.

    Attributes:
        array: the array's name in `state()`.
        indices: uint32 (p,), strictly rising; page i covers the bytes [i * w, (i + 1) * w) of the array, w the width
            of `pages`.
        pages: uint8 (p, w) absolute bytes.
    """

    array: str
    indices: NDArray[np.uint32]
    pages: NDArray[np.uint8]


def take_pages(name: str, values: NDArray[np.generic], dirty: NDArray[np.uint8]) -> StatePages:
    """Copies the pages of `values` marked in `dirty` and clears the marks.

    Args:
        name: the array's name in the state.
        values: C-contiguous, its bytes a multiple of `PAGE_BYTES`.
        dirty: uint8 (pages,), not zero where the page changed.
    """
    indices = np.flatnonzero(dirty).astype(np.uint32)
    pages = values.view(np.uint8).reshape(-1, PAGE_BYTES)[indices]
    dirty[indices] = 0
    return StatePages(name, indices, pages)


def whole_array(name: str, values: NDArray[np.generic]) -> StatePages:
    """A small array as its one and only page."""
    pages = values.view(np.uint8).reshape(1, -1).copy()
    return StatePages(name, np.zeros(1, np.uint32), pages)


def write_pages(changed: StatePages, values: NDArray[np.generic]) -> None:
    """Overwrites the pages of C-contiguous `values` with those in `changed`.

    Raises:
        StateMismatchError: a page lies outside the array or the array is no multiple of the page's width.
    """
    if changed.indices.size == 0:
        return
    width = changed.pages.shape[1]
    flat = values.view(np.uint8).reshape(-1)
    if width == 0 or flat.size % width or int(changed.indices.max()) >= flat.size // width:
        msg = (
            f"pages of {changed.array!r}: page {int(changed.indices.max())} of {width} bytes "
            f"does not fit an array of {flat.size} bytes"
        )
        raise StateMismatchError(msg)
    flat.reshape(-1, width)[changed.indices] = changed.pages
