"""Keeps torch's matrix library, oneDNN, off AMX where it would crash on it.

Knows no tensor and imports no torch. oneDNN uses AMX where the processor has it and reads the tiles' sizes from CPUID
leaf 1DH. Some virtual machines pass AMX on and hide that leaf: oneDNN then sets up no tiles, and its first bfloat16
product ends the process with SIGILL.

Invariant: what somebody has set for oneDNN is left as it is. It is read at oneDNN's first use, so `guard_onednn` comes
before that; called again it does nothing.
Source: oneDNN, "CPU dispatcher control", ONEDNN_MAX_CPU_ISA.
"""

import logging
import os
import platform
from collections.abc import Mapping, MutableMapping

from stream_trainer.amx_support import processor_flags
from stream_trainer.processor_leaves import cpuid

__all__ = ["guard_onednn", "hides_its_tiles"]

logger = logging.getLogger(__name__)

_LIMIT = "ONEDNN_MAX_CPU_ISA"
_LIMITS = (_LIMIT, "DNNL_MAX_CPU_ISA")  # the older name still counts
_BELOW_AMX = "AVX512_CORE_FP16"
_TILE_LEAF = 0x1D
_PALETTE = 1


def hides_its_tiles(flags: frozenset[str], leaves: Mapping[tuple[int, int], tuple[int, int, int, int]]) -> bool:
    """Whether a processor has AMX but describes no tiles.

    Args:
        flags: of the processor, by the kernel's names.
        leaves: CPUID's registers EAX, EBX, ECX, EDX by leaf and subleaf: (0, 0), and (1DH, 0) and (1DH, 1) if there.
    """
    if "amx_tile" not in flags:
        return False
    highest_leaf = leaves[0, 0][0]
    if highest_leaf < _TILE_LEAF or leaves[_TILE_LEAF, 0][0] < _PALETTE:
        return True
    tile_count = leaves[_TILE_LEAF, _PALETTE][1] >> 16
    return tile_count == 0


def guard_onednn(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keeps oneDNN off AMX in this process and its children if the processor hides its tiles.

    Args:
        environment: where oneDNN's settings are.
    """
    if any(name in environment for name in _LIMITS) or platform.machine() not in {"x86_64", "AMD64"}:
        return
    flags = processor_flags()
    if "amx_tile" not in flags:
        return
    leaves = {place: cpuid(*place) for place in ((0, 0), (_TILE_LEAF, 0), (_TILE_LEAF, _PALETTE))}
    if hides_its_tiles(flags, leaves):
        environment[_LIMIT] = _BELOW_AMX
        logger.warning(
            "AMX is here but its description (CPUID leaf 1DH) is hidden, and torch would crash on it: %s=%s is set",
            _LIMIT,
            _BELOW_AMX,
        )
