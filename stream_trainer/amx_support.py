"""Whether this process may use AMX for bfloat16, asked of the processor and of the system.

Knows no kernel. Invariant: the permission is asked for once per process, at the first question, never at import.

The flags alone do not say it: the system hands the 8 KiB of tile state to a process only on request, and refuses where
a thread's signal stack is too small for them. Whether the processor describes its tiles (leaf 1DH of CPUID, which some
virtual machines hide) does not matter here: palette 1 is the only one there is.
Source: Linux, Documentation/arch/x86/xstate.rst.
"""

import ctypes
import functools
import platform
from pathlib import Path

__all__ = ["amx_is_usable", "processor_flags"]

_NEEDED = {"amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512vl", "avx512_bf16"}
_ARCH_PRCTL = 158
_REQUEST_STATE, _TILE_DATA = 0x1023, 18


def processor_flags() -> frozenset[str]:
    """What the system says the first processor can do, by the kernel's names; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))


def _permission_given() -> bool:
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    return bool(syscall(_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA) == 0)


@functools.cache
def amx_is_usable() -> bool:
    """Whether kernels of `amx_code` may run in this process."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    return processor_flags() >= _NEEDED and _permission_given()
