"""The one machine instruction numba has no word for: ask the cache for a line that will be read soon.

Knows nothing of what it fetches. Invariant: it never changes a result and never faults, whatever the index.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["prefetch"]

_READ, _KEEP_IN_ALL_LEVELS, _DATA_CACHE = 0, 3, 1


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Starts loading the cache line that holds `array[index]` of a one-dimensional array; usable in kernels only."""
    signature = types.void(array, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        structure = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(structure.data, [arguments[1]]), cgutils.voidptr_t)
        word = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [address, word(_READ), word(_KEEP_IN_ALL_LEVELS), word(_DATA_CACHE)])
        return context.get_dummy_value()

    return signature, generate
