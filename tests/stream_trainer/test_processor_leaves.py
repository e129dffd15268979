"""The instruction's answer against what the system says of the same processor."""

import platform

import pytest

from stream_trainer.amx_support import processor_flags
from stream_trainer.processor_leaves import cpuid

pytestmark = pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="CPUID is x86's")


def test_leaf_0_names_the_maker() -> None:
    _, *words = cpuid(0)
    name = b"".join(words[i].to_bytes(4, "little") for i in (0, 2, 1))
    assert name.isascii()
    assert name.decode().isprintable()


def test_bits_are_the_flags_that_the_system_lists() -> None:
    if cpuid(0)[0] < 7 or not processor_flags():
        pytest.skip("no leaf 7, or no /proc/cpuinfo")
    ebx, edx = cpuid(7)[1], cpuid(7)[3]
    assert bool(ebx >> 5 & 1) == ("avx2" in processor_flags())
    if "amx_tile" in processor_flags():
        assert edx >> 24 & 1
