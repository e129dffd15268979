"""Arrays of the one kind that kernels are compiled for, and vectors that start on a cache line.

Knows nothing of their content. A vector register across two lines costs twice, and a group of words that is to be
read as one line must be one. numba compiles a kernel anew, for seconds, for an array that is read-only or strided;
callers hand in such arrays without knowing, a view of an Arrow buffer for one. Invariant: what comes back is
C-contiguous and writable, a copy only where it has to be.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["empty_on_lines", "kernel_array", "zeros_on_lines"]

_LINE_BYTES = 64

Scalar = TypeVar("Scalar", bound=np.generic)


def kernel_array(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """The array itself, or a copy if it is read-only or strided."""
    flags = array.flags
    return array if flags.c_contiguous and flags.writeable else array.copy(order="C")


def empty_on_lines(size: int, dtype: type[Scalar]) -> NDArray[Scalar]:
    """An uninitialised vector that starts on a cache line."""
    return _on_lines(np.empty, size, dtype)


def zeros_on_lines(size: int, dtype: type[Scalar]) -> NDArray[Scalar]:
    """A vector of zeros that starts on a cache line; a large one takes memory when it is touched."""
    return _on_lines(np.zeros, size, dtype)


def _on_lines(make: Callable[[int, type[np.uint8]], NDArray[Any]], size: int, dtype: type[Scalar]) -> NDArray[Scalar]:
    size_bytes = size * np.dtype(dtype).itemsize
    held = make(size_bytes + _LINE_BYTES, np.uint8)
    start = -held.ctypes.data % _LINE_BYTES
    return held[start : start + size_bytes].view(dtype)
