"""Arrays of the one kind that kernels are compiled for.

Knows nothing of their content. numba compiles a kernel anew, for seconds, for an array that is read-only or strided;
callers hand in such arrays without knowing, a view of an Arrow buffer for one. Invariant: what comes back is
C-contiguous and writable, a copy only where it has to be.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["kernel_array"]

Scalar = TypeVar("Scalar", bound=np.generic)


def kernel_array(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """The array itself, or a copy if it is read-only or strided."""
    flags = array.flags
    return array if flags.c_contiguous and flags.writeable else array.copy(order="C")
