"""Machine code for packing rows: the ends of a row and its codes, in whole vectors.

Knows rows of float32 and bytes of codes as `packed_words` reads them; not the forms of scales or rows' places.
Invariant: each function touches exactly the elements named and checks nothing; a code is rint((value - bias) *
inverse), ties to even, held within 0 .. levels, whatever the value.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from embedding_table.machine_words import RowAccess, all_lanes, in_vectors, machine_code, variable

__all__ = ["ends_of_row", "write_int2", "write_int4", "write_int8"]

_LANES = 16
_HUGE = 3.4028234663852886e38  # the largest float32
_ROUND = 12582912.0  # 1.5 * 2**23: adding it rounds to whole numbers, ties to even
_BYTE, _WORD, _FLOAT = ir.IntType(8), ir.IntType(32), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, _LANES)


def _many(value: float, lanes: int = _LANES) -> Any:
    return ir.Constant(ir.VectorType(_FLOAT, lanes), [value] * lanes)


def _picked(builder: Any, one: Any, other: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_WORD, len(lanes)), lanes))


def _chosen(builder: Any, relation: str, one: Any, other: Any) -> Any:
    """The one that stands in this relation to the other, else the other."""
    return builder.select(builder.fcmp_ordered(relation, one, other), one, other)


class _Bytes:
    """One byte array with the position a row's bytes start at."""

    def __init__(self, context: Any, builder: Any, array_type: Any, array: Any, position: Any) -> None:
        self._builder = builder
        self._start = builder.gep(context.make_array(array_type)(context, builder, array).data, [position])

    def _pointer(self, byte: Any, lanes: int) -> Any:
        address = self._builder.gep(self._start, [byte])
        return self._builder.bitcast(address, ir.VectorType(_BYTE, lanes).as_pointer())

    def load(self, byte: Any, lanes: int) -> Any:
        return self._builder.load(self._pointer(byte, lanes), align=1)

    def store(self, byte: Any, lanes: int, vector: Any) -> None:
        self._builder.store(vector, self._pointer(byte, lanes), align=1)


@machine_code
def ends_of_row(typing_context: Any, values: Any, start: Any, width: Any) -> Any:
    """(least, greatest, 0 or NaN) of values[start : start + width]; the last is 0 if all of them are finite."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = RowAccess(context, builder, signature.args[0], *arguments[:2])
        places = [variable(builder, _VECTOR) for _ in range(3)]
        for place, first in zip(places, (_HUGE, -_HUGE, 0.0), strict=True):
            builder.store(_many(first), place)

        def emit(element: Any, lanes: int) -> None:
            part = row.load(element, lanes)
            part = _picked(builder, part, part, [lane % lanes for lane in range(_LANES)])
            low, high, poison = (builder.load(place) for place in places)
            builder.store(_chosen(builder, "<", part, low), places[0])
            builder.store(_chosen(builder, ">", part, high), places[1])
            builder.store(builder.fadd(poison, builder.fmul(part, _many(0.0))), places[2])

        in_vectors(builder, arguments[2], emit)
        found = [builder.load(place) for place in places]
        for half in (8, 4, 2, 1):
            low, high, poison = found
            rest = [_picked(builder, vector, vector, list(range(half, 2 * half))) for vector in found]
            kept = [_picked(builder, vector, vector, list(range(half))) for vector in found]
            found = [
                _chosen(builder, "<", kept[0], rest[0]),
                _chosen(builder, ">", kept[1], rest[1]),
                builder.fadd(kept[2], rest[2]),
            ]
        scalars = [builder.extract_element(vector, _WORD(0)) for vector in found]
        return context.make_tuple(builder, signature.return_type, scalars)

    three = types.Tuple([types.float32] * 3)  # type: ignore[no-untyped-call]
    return three(values, types.uint64, types.uint64), generate


def _coder(store: Callable[[Any, _Bytes, Any, int, Any], None]) -> Callable[..., Any]:
    """An intrinsic (target, at, values, start, width, bias, inverse, levels) that writes a row's codes from `at` on."""

    def write_codes(
        typing_context: Any,
        target: Any,
        at: Any,
        values: Any,
        start: Any,
        width: Any,
        bias: Any,
        inverse: Any,
        levels: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            out = _Bytes(context, builder, signature.args[0], *arguments[:2])
            row = RowAccess(context, builder, signature.args[2], *arguments[2:4])

            def emit(element: Any, lanes: int) -> None:
                bias, inverse, levels = (all_lanes(builder, lanes, scalar) for scalar in arguments[5:8])
                scaled = builder.fmul(builder.fsub(row.load(element, lanes), bias), inverse)
                scaled = _chosen(builder, ">", scaled, _many(0.0, lanes))
                scaled = _chosen(builder, "<", scaled, levels)
                rounded = builder.fadd(scaled, _many(_ROUND, lanes))
                words = builder.bitcast(rounded, ir.VectorType(_WORD, lanes))
                store(builder, out, element, lanes, builder.trunc(words, ir.VectorType(_BYTE, lanes)))

            in_vectors(builder, arguments[4], emit)
            return context.get_dummy_value()

        places = (target, types.uint64, values, types.uint64, types.uint64)
        return types.void(*places, types.float32, types.float32, types.float32), generate

    return machine_code(write_codes)


def _store_bytes(builder: Any, out: _Bytes, element: Any, lanes: int, codes: Any) -> None:
    out.store(element, lanes, codes)


def _store_nibbles(builder: Any, out: _Bytes, element: Any, lanes: int, codes: Any) -> None:
    count = max(1, lanes // 2)
    if lanes > 1:
        even = _picked(builder, codes, codes, list(range(0, lanes, 2)))
        odd = _picked(builder, codes, codes, list(range(1, lanes, 2)))
        codes = builder.or_(even, builder.shl(odd, ir.Constant(ir.VectorType(_BYTE, count), [4] * count)))
    out.store(builder.lshr(element, element.type(1)), count, codes)


def _store_quarters(builder: Any, out: _Bytes, element: Any, lanes: int, codes: Any) -> None:
    byte, count = builder.lshr(element, element.type(2)), max(1, lanes // 4)
    kind = ir.VectorType(_BYTE, count)
    if lanes == 1:  # the last column: what is before it in its byte stays
        place = builder.trunc(builder.shl(builder.and_(element, element.type(3)), element.type(1)), _BYTE)
        before = builder.sub(builder.shl(_BYTE(1), place), _BYTE(1))
        kept = builder.and_(builder.extract_element(out.load(byte, 1), _WORD(0)), before)
        code = builder.or_(kept, builder.shl(builder.extract_element(codes, _WORD(0)), place))
        out.store(byte, 1, builder.insert_element(codes, code, _WORD(0)))
        return
    packed = ir.Constant(kind, [0] * count)
    for part in range(min(lanes, 4)):
        quarter = _picked(builder, codes, codes, list(range(part, lanes, 4)))
        packed = builder.or_(packed, builder.shl(quarter, ir.Constant(kind, [2 * part] * count)))
    out.store(byte, count, packed)


write_int8 = _coder(_store_bytes)
write_int2 = _coder(_store_quarters)
write_int4 = _coder(_store_nibbles)
