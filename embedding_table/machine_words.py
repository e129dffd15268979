"""Machine code that numba does not write by itself: fetch a cache line early, work on a few floats in whole vectors.

Knows nothing of tables: a row here is `width` float32 elements of a C-contiguous array from a position on. numba's own
loops over so few elements run one by one, because it can neither rule out that two arrays overlap nor know how few
they are; these go by 16, then 8, 4, 2, 1 without a check between.

Invariant: `prefetch` never changes a result and never faults, whatever the position; the others touch exactly the
elements named and check nothing, and two rows given to one of them do not overlap.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = [
    "RowAccess",
    "add_row",
    "add_rows",
    "add_rows_fetching",
    "add_scaled_row",
    "add_scaled_row_noting_products",
    "all_lanes",
    "copy_row",
    "fill_row",
    "in_vectors",
    "machine_code",
    "prefetch",
    "prefetch_row",
    "sum_of_squares",
    "variable",
]

_LANES = 16
_POOLED_LANES = 64  # as many sums as the machine's registers hold
_PREFETCH = "llvm.prefetch.p0"
_READ, _KEEP_IN_ALL_LEVELS, _KEEP_PAST_FIRST_LEVEL, _DATA_CACHE = 0, 3, 2, 1
_FAST = ("reassoc", "contract", "nsz", "arcp")
_LANE_NUMBER = ir.IntType(32)


def machine_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """An intrinsic as kernels see it, without the typing context that numba hands to `function`."""
    return intrinsic(function)


class RowAccess:
    """One array argument with the position its row starts at, while code is generated."""

    def __init__(self, context: Any, builder: Any, array_type: Any, array: Any, position: Any) -> None:
        self._builder = builder
        self._start = builder.gep(context.make_array(array_type)(context, builder, array).data, [position])

    def _pointer(self, element: Any, lanes: int) -> Any:
        address = self._builder.gep(self._start, [element])
        return self._builder.bitcast(address, ir.VectorType(ir.FloatType(), lanes).as_pointer())

    def load(self, element: Any, lanes: int) -> Any:
        """A vector of floats from `element` on."""
        return self._builder.load(self._pointer(element, lanes), align=4)

    def store(self, element: Any, lanes: int, vector: Any) -> None:
        """Writes a vector of floats from `element` on."""
        self._builder.store(vector, self._pointer(element, lanes), align=4)


def in_vectors(builder: Any, width: Any, emit: Callable[[Any, int], None], widest: int = _LANES) -> None:
    """Generates `emit(element, lanes)` for the vectors that make up `width` elements, none longer than `widest`."""
    integer = width.type
    whole = builder.and_(width, integer(-widest))
    with builder.if_then(builder.icmp_signed("!=", whole, integer(0)), likely=True):
        emit(integer(0), widest)  # apart from the loop, which LLVM unrolls at a cost to rows of one vector
        with cgutils.for_range_slice(builder, integer(widest), whole, integer(widest), integer) as (element, _):
            emit(element, widest)
    with builder.if_then(builder.icmp_signed("!=", whole, width), likely=False):
        lanes = widest // 2
        while lanes:
            present = builder.icmp_signed("!=", builder.and_(width, integer(lanes)), integer(0))
            with builder.if_then(present):
                emit(builder.and_(width, integer(-2 * lanes)), lanes)
            lanes //= 2


def variable(builder: Any, kind: Any) -> Any:
    """The address of a local variable of that type."""
    with builder.goto_entry_block():  # where LLVM turns it into a register
        return builder.alloca(kind)


def all_lanes(builder: Any, lanes: int, scalar: Any) -> Any:
    """A vector with the scalar in every lane."""
    vector = builder.insert_element(
        ir.Constant(ir.VectorType(ir.FloatType(), lanes), ir.Undefined), scalar, _LANE_NUMBER(0)
    )
    first_lane = ir.Constant(ir.VectorType(_LANE_NUMBER, lanes), [0] * lanes)
    return builder.shuffle_vector(vector, vector, first_lane)


def _sum_lanes(builder: Any, lanes: int, vector: Any) -> Any:
    mask = ir.VectorType(_LANE_NUMBER, lanes)
    width = lanes
    while width > 1:
        width //= 2
        upper = [_LANE_NUMBER(lane + width if lane < width else 0) for lane in range(lanes)]
        vector = builder.fadd(vector, builder.shuffle_vector(vector, vector, ir.Constant(mask, upper)))
    return builder.extract_element(vector, _LANE_NUMBER(0))


@machine_code
def prefetch(typing_context: Any, array: Any, position: Any) -> Any:
    """Starts loading the cache line that holds `array[position]`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        _fetch(builder, builder.gep(data, [arguments[1]]), _KEEP_IN_ALL_LEVELS)
        return context.get_dummy_value()

    return types.void(array, types.uint64), generate


def _fetch(builder: Any, address: Any, kept: int) -> None:
    word = ir.IntType(32)
    function_type = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
    function = builder.module.globals.get(_PREFETCH) or ir.Function(builder.module, function_type, _PREFETCH)
    place = builder.bitcast(address, cgutils.voidptr_t)
    builder.call(function, [place, word(_READ), word(kept), word(_DATA_CACHE)])


@machine_code
def prefetch_row(typing_context: Any, array: Any, start: Any, width: Any) -> Any:
    """Starts loading all lines of array[start : start + width] into the second-level cache, from far ahead.

    More of them may be under way at a time than into the first level, which holds few rows anyway.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        row, width = builder.gep(data, [arguments[1]]), arguments[2]
        integer = width.type
        with cgutils.for_range_slice(builder, integer(0), width, integer(_LANES), integer) as (element, _):
            _fetch(builder, builder.gep(row, [element]), _KEEP_PAST_FIRST_LEVEL)
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.uint64), generate


@machine_code
def fill_row(typing_context: Any, target: Any, at: Any, width: Any, value: Any) -> Any:
    """target[at : at + width] = value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = RowAccess(context, builder, signature.args[0], *arguments[:2])

        def emit(element: Any, lanes: int) -> None:
            row.store(element, lanes, all_lanes(builder, lanes, arguments[3]))

        in_vectors(builder, arguments[2], emit)
        return context.get_dummy_value()

    return types.void(target, types.uint64, types.uint64, types.float32), generate


@machine_code
def copy_row(typing_context: Any, target: Any, at: Any, source: Any, start: Any, width: Any) -> Any:
    """target[at : at + width] = source[start : start + width]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = RowAccess(context, builder, signature.args[0], *arguments[:2])
        other = RowAccess(context, builder, signature.args[2], *arguments[2:4])

        def emit(element: Any, lanes: int) -> None:
            row.store(element, lanes, other.load(element, lanes))

        in_vectors(builder, arguments[4], emit)
        return context.get_dummy_value()

    return types.void(target, types.uint64, source, types.uint64, types.uint64), generate


@machine_code
def add_row(typing_context: Any, target: Any, at: Any, source: Any, start: Any, width: Any) -> Any:
    """target[at : at + width] += source[start : start + width]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = RowAccess(context, builder, signature.args[0], *arguments[:2])
        other = RowAccess(context, builder, signature.args[2], *arguments[2:4])

        def emit(element: Any, lanes: int) -> None:
            row.store(element, lanes, builder.fadd(row.load(element, lanes), other.load(element, lanes)))

        in_vectors(builder, arguments[4], emit)
        return context.get_dummy_value()

    return types.void(target, types.uint64, source, types.uint64, types.uint64), generate


@machine_code
def add_scaled_row(typing_context: Any, target: Any, at: Any, source: Any, start: Any, width: Any, scale: Any) -> Any:
    """target[at : at + width] += scale * source[start : start + width], each in one rounding where the machine can."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = RowAccess(context, builder, signature.args[0], *arguments[:2])
        other = RowAccess(context, builder, signature.args[2], *arguments[2:4])

        def emit(element: Any, lanes: int) -> None:
            factor = all_lanes(builder, lanes, arguments[5])
            product = builder.fmul(factor, other.load(element, lanes), flags=_FAST)
            row.store(element, lanes, builder.fadd(row.load(element, lanes), product, flags=_FAST))

        in_vectors(builder, arguments[4], emit)
        return context.get_dummy_value()

    return types.void(target, types.uint64, source, types.uint64, types.uint64, types.float32), generate


@machine_code
def add_scaled_row_noting_products(
    typing_context: Any,
    target: Any,
    at: Any,
    source: Any,
    start: Any,
    width: Any,
    scale: Any,
    sums: Any,
    squares: Any,
    to: Any,
) -> Any:
    """As add_scaled_row; first sums[to : to + width] += p and squares += p * p, p = target * source as they were."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = RowAccess(context, builder, signature.args[0], *arguments[:2])
        other = RowAccess(context, builder, signature.args[2], *arguments[2:4])
        sum_row = RowAccess(context, builder, signature.args[6], arguments[6], arguments[8])
        square_row = RowAccess(context, builder, signature.args[7], arguments[7], arguments[8])

        def emit(element: Any, lanes: int) -> None:
            held, added = row.load(element, lanes), other.load(element, lanes)
            noted = builder.fmul(held, added)
            sum_row.store(element, lanes, builder.fadd(sum_row.load(element, lanes), noted))
            square = builder.fmul(noted, noted, flags=_FAST)
            square_row.store(element, lanes, builder.fadd(square_row.load(element, lanes), square, flags=_FAST))
            product = builder.fmul(all_lanes(builder, lanes, arguments[5]), added, flags=_FAST)
            row.store(element, lanes, builder.fadd(held, product, flags=_FAST))

        in_vectors(builder, arguments[4], emit)
        return context.get_dummy_value()

    place = types.uint64
    return types.void(target, place, source, place, place, types.float32, sums, squares, place), generate


@machine_code
def sum_of_squares(typing_context: Any, source: Any, start: Any, width: Any) -> Any:
    """Sum of source[start : start + width] ** 2, added up by lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row = RowAccess(context, builder, signature.args[0], *arguments[:2])
        vector = ir.VectorType(ir.FloatType(), _LANES)
        lanes_sum = variable(builder, vector)
        rest_sum = variable(builder, ir.FloatType())
        builder.store(ir.Constant(vector, [0.0] * _LANES), lanes_sum)
        builder.store(ir.FloatType()(0.0), rest_sum)

        def emit(element: Any, lanes: int) -> None:
            values = row.load(element, lanes)
            squares = builder.fmul(values, values, flags=_FAST)
            if lanes == _LANES:
                builder.store(builder.fadd(builder.load(lanes_sum), squares, flags=_FAST), lanes_sum)
            else:
                rest = _sum_lanes(builder, lanes, squares)
                builder.store(builder.fadd(builder.load(rest_sum), rest), rest_sum)

        in_vectors(builder, arguments[2], emit)
        return builder.fadd(_sum_lanes(builder, _LANES, builder.load(lanes_sum)), builder.load(rest_sum))

    return types.float32(source, types.uint64, types.uint64), generate


def _adding_rows(fetch: bool) -> Callable[..., Any]:
    """Code generator of both kinds of add_rows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target_row = RowAccess(context, builder, signature.args[0], *arguments[:2])
        source_row = RowAccess(context, builder, signature.args[3], arguments[3], arguments[5].type(0))
        width, begin, end = arguments[2], arguments[5], arguments[6]
        source = context.make_array(signature.args[3])(context, builder, arguments[3]).data
        positions = context.make_array(signature.args[4])(context, builder, arguments[4]).data

        def emit(element: Any, lanes: int) -> None:
            total = variable(builder, ir.VectorType(ir.FloatType(), lanes))
            builder.store(target_row.load(element, lanes), total)
            with cgutils.for_range_slice(builder, begin, end, begin.type(1), begin.type) as (k, _):
                if fetch:
                    ahead = builder.load(builder.gep(positions, [builder.add(k, arguments[7])]))
                    row = builder.gep(source, [builder.add(ahead, element)])
                    for line in range(0, lanes, _LANES):
                        _fetch(builder, builder.gep(row, [element.type(line)]), _KEEP_PAST_FIRST_LEVEL)
                start = builder.load(builder.gep(positions, [k]))
                values = source_row.load(builder.add(start, element), lanes)
                builder.store(builder.fadd(builder.load(total), values), total)
            target_row.store(element, lanes, builder.load(total))

        in_vectors(builder, width, emit, _POOLED_LANES)
        return context.get_dummy_value()

    return generate


@machine_code
def add_rows(
    typing_context: Any, target: Any, at: Any, width: Any, source: Any, starts: Any, begin: Any, end: Any
) -> Any:
    """target[at : at + width] += sum over k in begin .. end of source[starts[k] : starts[k] + width], starts u64."""
    place = types.uint64
    return types.void(target, place, place, source, starts, place, place), _adding_rows(fetch=False)


@machine_code
def add_rows_fetching(
    typing_context: Any, target: Any, at: Any, width: Any, source: Any, starts: Any, begin: Any, end: Any, ahead: Any
) -> Any:
    """As add_rows; with row k row k + ahead begins to be loaded, so that memory is never idle while rows are added.

    `starts` goes on for `ahead` behind the end.
    """
    place = types.uint64
    return types.void(target, place, place, source, starts, place, place, place), _adding_rows(fetch=True)
