"""What tests of bfloat16 kernels share: where they run, and the rounding they are measured against."""

import numpy as np
import pytest

from stream_trainer.amx_support import amx_is_usable

needs_amx = pytest.mark.skipif(not amx_is_usable(), reason="this machine has no AMX for bfloat16, or does not lend it")


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """f32 to the bits of the nearest bfloat16, ties to even, by integers alone."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bits(bits: np.ndarray) -> np.ndarray:
    """Bits of bfloat16 to f32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """F32 rounded to bfloat16, as f64 to compute with."""
    return from_bits(bf16_bits(values)).astype(np.float64)
