"""Dense weights in 16 bits: binary16, or bfloat16 as the upper half of a float32, rounded to nearest, ties to even.

Knows arrays of any shape, not what they are weights of. Invariant: narrowing what was widened gives the same bytes; a
value that does not stay finite is refused, never sent as infinity.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_contract.errors import InvalidContent
from model_contract.increment_content import DenseType

__all__ = ["WIRE_DTYPES", "holds", "narrowed", "widened"]

WIRE_DTYPES: dict[DenseType, str] = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}

_BELOW_HALF, _ONE, _UPPER = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
_BFLOAT16_INFINITY = np.uint16(0x7F80)


def holds(values: NDArray[np.float32], dtype: DenseType) -> bool:
    """Whether all values, rounded to this type, are finite numbers."""
    return _rounded(values, dtype)[1]


def narrowed(name: str, values: NDArray[np.float32], dtype: DenseType) -> NDArray[Any]:
    """The values of tensor `name` as they are sent: f32, f16 or, for bfloat16, u16, in C order.

    Raises:
        InvalidContent: a value that this type cannot hold, or NaN or infinity on their way into 16 bits.
    """
    rounded, finite = _rounded(values, dtype)
    if dtype != "float32" and not finite:
        message = f"dense tensor {name} has values that {dtype} cannot hold: expected finite numbers in its range"
        raise InvalidContent(message)
    return rounded


def widened(sent: NDArray[Any], dtype: DenseType) -> NDArray[np.float32]:
    """f32 of what was sent: the array itself where it is f32, read-only and new where it is narrower."""
    if dtype == "float32":
        return sent
    if dtype == "float16":
        wide = sent.astype(np.float32)
    else:
        wide = (sent.reshape(-1).astype(np.uint32) << _UPPER).view(np.float32).reshape(sent.shape)
    wide.flags.writeable = False
    return wide


def _rounded(values: NDArray[np.float32], dtype: DenseType) -> tuple[NDArray[Any], bool]:
    """As sent, and whether all of it is finite."""
    if dtype == "float32":
        return np.ascontiguousarray(values, "<f4").reshape(values.shape), bool(np.isfinite(values).all())
    if dtype == "float16":
        with np.errstate(over="ignore", under="ignore"):
            halves = values.astype("<f2", order="C")
        return halves, bool(np.isfinite(halves).all())
    finite = bool(np.isfinite(values).all())
    bits = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
    upper = ((bits + _BELOW_HALF + ((bits >> _UPPER) & _ONE)) >> _UPPER).astype("<u2")
    return upper.reshape(values.shape), finite and not bool(np.any((upper & _BFLOAT16_INFINITY) == _BFLOAT16_INFINITY))
