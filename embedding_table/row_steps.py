"""Steps of many rows of one width in one piece of machine code: each row is read once and written once.

Knows positions, not tables; see `machine_words` for what a row is here. Sums over the rows stay in registers until the
last row is done: 64 columns at a time, as many as the machine holds.

Invariant: exactly the elements named are touched, nothing is checked; rows are stepped in the order given.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from embedding_table.machine_words import RowAccess, all_lanes, in_vectors, machine_code, variable

__all__ = ["step_rows", "step_rows_noting_products"]

_LANES_AT_ONCE = 64
_FAST = ("reassoc", "contract", "nsz", "arcp")


class _Rows:
    """The arguments that both kinds of step have, while code is generated."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        kinds = signature.args
        zero = arguments[5].type(0)
        self._builder = builder
        self.target = RowAccess(context, builder, kinds[0], arguments[0], zero)
        self.source = RowAccess(context, builder, kinds[2], arguments[2], zero)
        self._lists = [context.make_array(kinds[k])(context, builder, arguments[k]).data for k in (1, 3, 4)]
        self.begin, self.end, self.width = arguments[5:8]

    def each(self) -> Any:
        """A loop over the rows."""
        kind = self.begin.type
        return cgutils.for_range_slice(self._builder, self.begin, self.end, kind(1), kind)

    def of(self, number: Any) -> list[Any]:
        """Where row `number` starts, where its gradient does, and its step."""
        return [self._builder.load(self._builder.gep(data, [number])) for data in self._lists]


@machine_code
def step_rows(
    typing_context: Any,
    target: Any,
    starts: Any,
    source: Any,
    origins: Any,
    steps: Any,
    begin: Any,
    end: Any,
    width: Any,
) -> Any:
    """target[starts[k] : + width] += steps[k] * source[origins[k] : + width] for k in begin .. end; positions u64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = _Rows(context, builder, signature, arguments)

        def emit(element: Any, lanes: int) -> None:
            with rows.each() as (number, _):
                start, origin, step = rows.of(number)
                place = builder.add(start, element)
                added = rows.source.load(builder.add(origin, element), lanes)
                product = builder.fmul(all_lanes(builder, lanes, step), added, flags=_FAST)
                stepped = builder.fadd(rows.target.load(place, lanes), product, flags=_FAST)
                rows.target.store(place, lanes, stepped)

        in_vectors(builder, rows.width, emit, _LANES_AT_ONCE)
        return context.get_dummy_value()

    place = types.uint64
    return types.void(target, starts, source, origins, steps, place, place, place), generate


@machine_code
def step_rows_noting_products(
    typing_context: Any,
    target: Any,
    starts: Any,
    source: Any,
    origins: Any,
    steps: Any,
    begin: Any,
    end: Any,
    width: Any,
    sums: Any,
    squares: Any,
    to: Any,
) -> Any:
    """As step_rows; also sums[to : to + width] += p and squares += p * p, p = target * source as they were."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = _Rows(context, builder, signature, arguments)
        sum_row = RowAccess(context, builder, signature.args[8], arguments[8], arguments[10])
        square_row = RowAccess(context, builder, signature.args[9], arguments[9], arguments[10])

        def emit(element: Any, lanes: int) -> None:
            vector = ir.VectorType(ir.FloatType(), lanes)
            noted_sum, noted_squares = variable(builder, vector), variable(builder, vector)
            builder.store(sum_row.load(element, lanes), noted_sum)
            builder.store(square_row.load(element, lanes), noted_squares)
            with rows.each() as (number, _):
                start, origin, step = rows.of(number)
                place = builder.add(start, element)
                held = rows.target.load(place, lanes)
                added = rows.source.load(builder.add(origin, element), lanes)
                noted = builder.fmul(held, added)
                builder.store(builder.fadd(builder.load(noted_sum), noted), noted_sum)
                square = builder.fmul(noted, noted, flags=_FAST)
                builder.store(builder.fadd(builder.load(noted_squares), square, flags=_FAST), noted_squares)
                product = builder.fmul(all_lanes(builder, lanes, step), added, flags=_FAST)
                rows.target.store(place, lanes, builder.fadd(held, product, flags=_FAST))
            sum_row.store(element, lanes, builder.load(noted_sum))
            square_row.store(element, lanes, builder.load(noted_squares))

        in_vectors(builder, rows.width, emit, _LANES_AT_ONCE)
        return context.get_dummy_value()

    place = types.uint64
    rows = (target, starts, source, origins, steps, place, place, place)
    return types.void(*rows, sums, squares, place), generate
