"""Machine code of a search in one cache line of `hash_index`: all of its entries are compared at once.

Knows how entries lie in a line, not how ids get their homes: the lower halves of all ids, the upper halves, and then a
word each that is 0 for an empty entry. Invariant: nothing is written, and one line is read.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from embedding_table.machine_words import machine_code

__all__ = ["ENTRIES_A_LINE", "LINE_WORDS", "entry_of"]

LINE_WORDS, ENTRIES_A_LINE = 16, 5

_WORD, _BITS = ir.IntType(32), ir.IntType(LINE_WORDS)
_WORDS = ir.VectorType(_WORD, LINE_WORDS)
_LOWER, _UPPER, _ZERO = 0, 1, LINE_WORDS  # lanes of what is compared, the last of a second vector
_ORDER = [place for place in (_LOWER, _UPPER, _ZERO) for _ in range(ENTRIES_A_LINE)] + [_ZERO]


@machine_code
def entry_of(typing_context: Any, entries: Any, line: Any, low: Any, high: Any) -> Any:
    """Number of the first entry in entries[line : line + 16] that holds this id or is empty; 16 where none does."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), _WORDS.as_pointer())
        words = builder.load(place, align=4)
        wanted = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), arguments[2], _WORD(_LOWER))
        wanted = builder.insert_element(wanted, arguments[3], _WORD(_UPPER))
        zeros = ir.Constant(_WORDS, [0] * LINE_WORDS)
        wanted = builder.shuffle_vector(wanted, zeros, ir.Constant(_WORDS, _ORDER))
        equal = builder.bitcast(builder.icmp_unsigned("==", words, wanted), _BITS)
        held = builder.and_(equal, builder.lshr(equal, _BITS(ENTRIES_A_LINE)))
        empty = builder.lshr(equal, _BITS(2 * ENTRIES_A_LINE))
        found = builder.and_(builder.or_(held, empty), _BITS((1 << ENTRIES_A_LINE) - 1))
        first = builder.cttz(found, ir.Constant(ir.IntType(1), 0))
        return builder.zext(first, ir.IntType(64))

    return types.uint64(entries, types.uint64, types.uint32, types.uint32), generate
