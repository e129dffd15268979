"""What the processor says of itself by the CPUID instruction, past what the system repeats.

Knows nothing of who asks. Invariant: only on x86-64; elsewhere `cpuid` must not be called.
Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID.
"""

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import types
from numpy.typing import NDArray

from embedding_table.machine_words import machine_code
from model_contract.compiled import kernel

__all__ = ["cpuid"]

binding.initialize_native_asmparser()  # numba starts LLVM without; a kernel that calls a cached one needs it as well

_WORD = ir.IntType(32)


@machine_code
def _cpuid(typing_context: Any, leaf: Any, subleaf: Any, registers: Any) -> Any:
    """Writes EAX, EBX, ECX, EDX to registers[0 : 4]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.LiteralStructType([_WORD] * 4), [_WORD, _WORD])
        constraint = "={eax},={ebx},={ecx},={edx},{eax},{ecx}"
        found = builder.asm(function, "cpuid", constraint, list(arguments[:2]), side_effect=True)
        data = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        for number in range(4):
            builder.store(builder.extract_value(found, number), builder.gep(data, [_WORD(number)]))
        return context.get_dummy_value()

    return types.void(types.uint32, types.uint32, registers), generate


@kernel
def _read_leaf(leaf: np.uint32, subleaf: np.uint32, registers: NDArray[np.uint32]) -> None:
    _cpuid(leaf, subleaf, registers)


def cpuid(leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    """Registers EAX, EBX, ECX, EDX of a leaf; of one the processor does not have, whatever it answers."""
    registers = np.empty(4, np.uint32)
    _read_leaf(np.uint32(leaf), np.uint32(subleaf), registers)
    eax, ebx, ecx, edx = registers.tolist()
    return eax, ebx, ecx, edx
