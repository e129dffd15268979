"""Machine code of a search in one cache line of `hash_index`: all of its entries are compared at once.

Knows what an entry looks like, not how ids get their homes. Invariant: nothing is written, and one line is read.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from embedding_table.machine_words import machine_code

__all__ = ["ENTRIES_A_LINE", "ENTRY_WORDS", "LINE_WORDS", "entry_of"]

LINE_WORDS, ENTRY_WORDS, ENTRIES_A_LINE = 16, 3, 5

_WORD, _BITS = ir.IntType(32), ir.IntType(LINE_WORDS)
_WORDS = ir.VectorType(_WORD, LINE_WORDS)
_STARTS = _BITS(sum(1 << entry * ENTRY_WORDS for entry in range(ENTRIES_A_LINE)))


@machine_code
def entry_of(typing_context: Any, entries: Any, line: Any, low: Any, high: Any) -> Any:
    """Where in entries[line : line + 16] the first entry starts that holds this id or is empty; 16 where none does."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), _WORDS.as_pointer())
        words = builder.load(place, align=4)

        def equal(word: Any, distance: int) -> Any:
            """A bit for every entry that has `word` so far behind its start."""
            one = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), word, _WORD(0))
            all_of_it = builder.shuffle_vector(one, one, ir.Constant(_WORDS, [0] * LINE_WORDS))
            bits = builder.bitcast(builder.icmp_unsigned("==", words, all_of_it), _BITS)
            return builder.lshr(bits, _BITS(distance))

        held = builder.and_(equal(arguments[2], 0), equal(arguments[3], 1))
        found = builder.and_(builder.or_(held, equal(_WORD(0), 2)), _STARTS)
        first = builder.cttz(found, ir.Constant(ir.IntType(1), 0))
        return builder.zext(first, ir.IntType(64))

    return types.uint64(entries, types.uint64, types.uint32, types.uint32), generate
