"""Machine code for packed rows: bytes to float32 in whole vectors, and the 16-bit float that numba has no type for.

Knows how values of one row lie in bytes, nothing of rows' places, scales' forms or tables. A row of `width` values is

    fp32   width little-endian float32
    fp16   width little-endian binary16
    int8   width bytes, one code each
    int4   (width + 1) // 2 bytes, column c in the low half of byte c // 2 where c is even, else in its high half
    int2   (width + 3) // 4 bytes, column c in bits 2 (c % 4) and above of byte c // 4

Invariant: what is unpacked for a code q is `scale * q + bias` in float32, each of the two operations rounded once, so
that a pooled row and a decoded one are the same bits. Positions are byte positions and are not checked.

Scale and bias of codes are in one of three forms, behind the codes or apart:

    HALF   two binary16 behind the codes: scale, bias (as in PyTorch's packed embedding bags)
    CODED  two bytes behind the codes: numbers of a scale and of a bias in codebooks of 256 each, one after the other
    BLOCK  nothing in the row, one pair for all rows
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from embedding_table.machine_words import RowAccess, all_lanes, in_vectors, machine_code, variable

__all__ = [
    "BLOCK",
    "CODED",
    "CODES",
    "HALF",
    "add_unpacked",
    "as_half",
    "copy_bytes",
    "range_at",
    "set_half_at",
    "set_unpacked",
]

HALF, CODED, BLOCK = 0, 1, 2  # forms of scale and bias
CODES = 256  # entries of a codebook

_BYTE, _WORD, _HALF, _FLOAT = ir.IntType(8), ir.IntType(32), ir.HalfType(), ir.FloatType()
_Decoder = Callable[[Any, Any, Any, int], Any]


def _loaded(builder: Any, base: Any, byte: Any, kind: Any, lanes: int) -> Any:
    address = builder.bitcast(builder.gep(base, [byte]), ir.VectorType(kind, lanes).as_pointer())
    return builder.load(address, align=1)


def _bytes_to_floats(builder: Any, codes: Any, lanes: int) -> Any:
    return builder.sitofp(builder.zext(codes, ir.VectorType(_WORD, lanes)), ir.VectorType(_FLOAT, lanes))


def _fp32(builder: Any, base: Any, element: Any, lanes: int) -> Any:
    return _loaded(builder, base, builder.shl(element, element.type(2)), _FLOAT, lanes)


def _fp16(builder: Any, base: Any, element: Any, lanes: int) -> Any:
    halves = _loaded(builder, base, builder.shl(element, element.type(1)), _HALF, lanes)
    return builder.fpext(halves, ir.VectorType(_FLOAT, lanes))


def _int8(builder: Any, base: Any, element: Any, lanes: int) -> Any:
    return _bytes_to_floats(builder, _loaded(builder, base, element, _BYTE, lanes), lanes)


def _int4(builder: Any, base: Any, element: Any, lanes: int) -> Any:
    count = max(1, lanes // 2)
    kind = ir.VectorType(_BYTE, count)
    pairs = _loaded(builder, base, builder.lshr(element, element.type(1)), _BYTE, count)
    codes = builder.and_(pairs, ir.Constant(kind, [15] * count))
    if lanes > 1:
        upper = builder.lshr(pairs, ir.Constant(kind, [4] * count))
        order = [_WORD(lane // 2 + count * (lane % 2)) for lane in range(lanes)]
        codes = builder.shuffle_vector(codes, upper, ir.Constant(ir.VectorType(_WORD, lanes), order))
    return _bytes_to_floats(builder, codes, lanes)


def _int2(builder: Any, base: Any, element: Any, lanes: int) -> Any:
    count = max(1, lanes // 4)
    kind = ir.VectorType(_BYTE, count)
    fours = _loaded(builder, base, builder.lshr(element, element.type(2)), _BYTE, count)
    if lanes < 4:  # the last columns: they begin at an even one, perhaps in the middle of a byte
        place = builder.shl(builder.and_(element, element.type(3)), element.type(1))
        shift = builder.insert_element(ir.Constant(kind, ir.Undefined), builder.trunc(place, _BYTE), _WORD(0))
        fours = builder.lshr(fours, shift)
    three = ir.Constant(kind, [3] * count)
    quarters = [
        builder.and_(builder.lshr(fours, ir.Constant(kind, [2 * part] * count)), three) for part in range(min(lanes, 4))
    ]
    while len(quarters) > 1:  # joined end to end: part k's codes from k * count on
        longer = ir.Constant(ir.VectorType(_WORD, 2 * quarters[0].type.count), list(range(2 * quarters[0].type.count)))
        quarters = [builder.shuffle_vector(a, b, longer) for a, b in zip(quarters[::2], quarters[1::2], strict=True)]
    codes = quarters[0]
    if lanes > 4:
        order = [_WORD(count * (lane % 4) + lane // 4) for lane in range(lanes)]
        codes = builder.shuffle_vector(codes, codes, ir.Constant(ir.VectorType(_WORD, lanes), order))
    return _bytes_to_floats(builder, codes, lanes)


_DECODERS: dict[int, _Decoder] = {2: _int2, 4: _int4, 8: _int8, 16: _fp16, 32: _fp32}


def _unpacker(*, add: bool) -> Callable[..., Any]:
    def unpack(
        typing_context: Any,
        target: Any,
        at: Any,
        memory: Any,
        start: Any,
        width: Any,
        bits: Any,
        scale: Any,
        bias: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            row = RowAccess(context, builder, signature.args[0], *arguments[:2])
            data = context.make_array(signature.args[2])(context, builder, arguments[2]).data
            base = builder.gep(data, [arguments[3]])
            width, bits = arguments[4:6]
            for form, decode in _DECODERS.items():

                def emit(element: Any, lanes: int, form: int = form, decode: _Decoder = decode) -> None:
                    values = decode(builder, base, element, lanes)
                    if form <= 8:
                        values = builder.fmul(all_lanes(builder, lanes, arguments[6]), values)
                        values = builder.fadd(values, all_lanes(builder, lanes, arguments[7]))
                    row.store(element, lanes, builder.fadd(row.load(element, lanes), values) if add else values)

                with builder.if_then(builder.icmp_unsigned("==", bits, bits.type(form))):
                    in_vectors(builder, width, emit)
            return context.get_dummy_value()

        places = (target, types.uint64, memory, types.uint64, types.uint64, types.uint64)
        return types.void(*places, types.float32, types.float32), generate

    unpack.__doc__ = (
        f"target[at : at + width] {'+=' if add else '='} the row that begins at byte `start` of `memory`, its values "
        "in `bits` bits each: 2, 4, 8, 16 or 32. Scale and bias are those of its codes, if it has any."
    )
    return machine_code(unpack)


set_unpacked = _unpacker(add=False)
add_unpacked = _unpacker(add=True)


@machine_code
def as_half(typing_context: Any, value: Any) -> Any:
    """A float32 rounded to the nearest binary16, ties to even; infinity from 65520 up."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.fptrunc(arguments[0], _HALF), _FLOAT)

    return types.float32(types.float32), generate


@machine_code
def range_at(typing_context: Any, memory: Any, at: Any, form: Any, shared: Any, first: Any) -> Any:
    """(scale, bias) of a row whose codes end at byte `at`; what it shares with others begins at shared[first]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        common = context.make_array(signature.args[3])(context, builder, arguments[3]).data
        at, form, first = arguments[1], arguments[2], arguments[4]
        integer = at.type
        found = [variable(builder, _FLOAT) for _ in range(2)]

        def when(wanted: int) -> Any:
            return builder.if_then(builder.icmp_unsigned("==", form, integer(wanted)))

        with when(HALF):
            for place, byte in zip(found, (0, 2), strict=True):
                address = builder.gep(data, [builder.add(at, integer(byte))])
                half = builder.load(builder.bitcast(address, _HALF.as_pointer()), align=1)
                builder.store(builder.fpext(half, _FLOAT), place)
        with when(CODED):
            for number, place in enumerate(found):
                code = builder.load(builder.gep(data, [builder.add(at, integer(number))]))
                entry = builder.add(builder.add(first, integer(number * CODES)), builder.zext(code, integer))
                builder.store(builder.load(builder.gep(common, [entry])), place)
        with when(BLOCK):
            for number, place in enumerate(found):
                builder.store(builder.load(builder.gep(common, [builder.add(first, integer(number))])), place)
        return context.make_tuple(builder, signature.return_type, [builder.load(place) for place in found])

    places = (memory, types.uint64, types.uint64, shared, types.uint64)
    pair = types.Tuple([types.float32] * 2)  # type: ignore[no-untyped-call]
    return pair(*places), generate


@machine_code
def set_half_at(typing_context: Any, memory: Any, position: Any, value: Any) -> Any:
    """Writes a float32, rounded to binary16, to a byte position of a u8 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), _HALF.as_pointer())
        builder.store(builder.fptrunc(arguments[2], _HALF), address, align=1)
        return context.get_dummy_value()

    return types.void(memory, types.uint64, types.float32), generate


@machine_code
def copy_bytes(typing_context: Any, target: Any, at: Any, source: Any, start: Any, count: Any) -> Any:
    """target[at : at + count] = source[start : start + count], both u8."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        come_from = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        to, come_from = builder.gep(to, [arguments[1]]), builder.gep(come_from, [arguments[3]])
        cgutils.raw_memcpy(builder, to, come_from, arguments[4], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(target, types.uint64, source, types.uint64, types.uint64), generate
