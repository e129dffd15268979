"""Greedy range search: which part of a row's range its codes should cover, sixteen rows at a time.

Knows rows of float32 values and a number of bits; not how codes are stored. The search is that of Guan et al. 2019
(arXiv 1911.02079), as PyTorch's `choose_qparams_optimized` does it with 200 bins and ratio 0.16: from [min, max], as
long as the range is wider than 168 of 200 steps, raise the lower end or lower the upper end by one step, whichever
costs less, and keep the range left behind where both cost more than it did and it is the best so far.

A row has few columns and its search is one long chain of dependent operations, so each lane of a vector is a row of its
own: sixteen rows are laid column by column, and every operation serves all of them.

Invariant: each lane computes what PyTorch's loop computes, operation by operation in the same order and rounding, so
the ranges are equal; where that loop would never end (a step too small to move an end), this one gives up.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numpy.typing import NDArray

from embedding_table.machine_words import machine_code, variable
from embedding_table.thread_parts import in_parts
from model_contract.compiled import kernel

__all__ = ["greedy_ranges"]

_LANES = 16
_BINS = 200
_KEPT_BINS = 168  # 200 * (1 - 0.16)
_MOST_MOVES = 40  # 33 take any range down to 168 of 200 steps; the rest is for rounding
_HUGE = 3.0e38
_VECTOR = ir.VectorType(ir.FloatType(), _LANES)
_HALVES = ir.VectorType(ir.HalfType(), _LANES)


def _constant(value: float) -> Any:
    return ir.Constant(_VECTOR, [value] * _LANES)


class _Lanes:
    """Sixteen rows while code is generated: column c of all of them lies at [c * 16]."""

    def __init__(self, builder: Any, data: Any, width: Any, levels: Any) -> None:
        self._builder = builder
        self._data = data
        self._width = width
        many = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(_LANES):
            many = builder.insert_element(many, levels, ir.IntType(32)(lane))
        self._levels = many

    def for_columns(self, emit: Callable[[Any], None]) -> None:
        builder, integer = self._builder, self._width.type
        with cgutils.for_range_slice(builder, integer(0), self._width, integer(1), integer) as (column, _):
            address = builder.gep(self._data, [builder.mul(column, integer(_LANES))])
            emit(builder.load(builder.bitcast(address, _VECTOR.as_pointer()), align=4))

    def call(self, name: str, *values: Any) -> Any:
        """One of LLVM's operations on vectors of float."""
        module = self._builder.module
        full = f"llvm.{name}.v{_LANES}f32"
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(values))
        function = module.globals.get(full) or ir.Function(module, kind, full)
        return self._builder.call(function, values)

    def as_half(self, vector: Any) -> Any:
        return self._builder.fpext(self._builder.fptrunc(vector, _HALVES), _VECTOR)

    def ends(self) -> tuple[Any, Any]:
        """Least and greatest value of each row."""
        builder = self._builder
        low, high = self.variable(_constant(_HUGE)), self.variable(_constant(-_HUGE))

        def emit(values: Any) -> None:
            builder.store(self.least(builder.load(low), values), low)
            builder.store(self.greatest(builder.load(high), values), high)

        self.for_columns(emit)
        return builder.load(low), builder.load(high)

    def least(self, one: Any, other: Any) -> Any:
        return self._builder.select(self._builder.fcmp_ordered("<", other, one), other, one)

    def greatest(self, one: Any, other: Any) -> Any:
        return self._builder.select(self._builder.fcmp_ordered(">", other, one), other, one)

    def variable(self, vector: Any) -> Any:
        place = variable(self._builder, _VECTOR)
        self._builder.store(vector, place)
        return place

    def losses(self, *ranges: tuple[Any, Any]) -> list[Any]:
        """Euclidean norm of what each row loses under each of the ranges."""
        builder = self._builder
        forms = [self._scale(low, high) for low, high in ranges]
        sums = [self.variable(_constant(0.0)) for _ in ranges]

        def emit(values: Any) -> None:
            for (bias, scale, inverse), total in zip(forms, sums, strict=True):
                code = self.call("rint", builder.fmul(builder.fsub(values, bias), inverse))
                code = self.greatest(_constant(0.0), self.least(self._levels, code))
                error = builder.fsub(values, builder.fadd(builder.fmul(code, scale), bias))
                builder.store(builder.fadd(builder.load(total), builder.fmul(error, error)), total)

        self.for_columns(emit)
        return [self.call("sqrt", builder.load(total)) for total in sums]

    def _scale(self, low: Any, high: Any) -> tuple[Any, Any, Any]:
        builder, one, zero = self._builder, _constant(1.0), _constant(0.0)
        bias = self.as_half(low)
        reach = builder.fsub(high, bias)
        scale = self.as_half(builder.fdiv(reach, self._levels))
        scale = builder.select(builder.fcmp_ordered("==", reach, zero), one, scale)
        inverse = builder.fdiv(one, scale)
        return bias, scale, builder.select(builder.fcmp_ordered("==", scale, zero), one, inverse)


def _search(builder: Any, lanes: _Lanes) -> tuple[Any, Any]:
    """The search in all lanes until the last one has ended."""
    low, high = lanes.ends()
    step = builder.fdiv(builder.fsub(high, low), _constant(_BINS))
    kept = builder.fmul(_constant(_KEPT_BINS), step)
    (loss,) = lanes.losses((low, high))
    best_low, best_high, best_loss = lanes.variable(low), lanes.variable(high), lanes.variable(loss)
    at_low, at_high, at_loss = lanes.variable(low), lanes.variable(high), lanes.variable(loss)
    with cgutils.for_range(builder, ir.IntType(64)(_MOST_MOVES)) as loop:
        now_low, now_high, now_loss = builder.load(at_low), builder.load(at_high), builder.load(at_loss)
        going = builder.fcmp_ordered("<", builder.fadd(now_low, kept), now_high)
        none = builder.icmp_unsigned("==", builder.bitcast(going, ir.IntType(_LANES)), ir.IntType(_LANES)(0))
        with builder.if_then(none, likely=False):
            loop.do_break()
        raised, lowered = builder.fadd(now_low, step), builder.fsub(now_high, step)
        left, right = lanes.losses((raised, now_high), (now_low, lowered))
        better = going
        for other in (left, right, builder.load(best_loss)):
            better = builder.and_(better, builder.fcmp_ordered("<", now_loss, other))
        for best, now in ((best_low, now_low), (best_high, now_high), (best_loss, now_loss)):
            builder.store(builder.select(better, now, builder.load(best)), best)
        by_left = builder.fcmp_ordered("<", left, right)
        go_left, go_right = builder.and_(going, by_left), builder.and_(going, builder.not_(by_left))
        builder.store(builder.select(go_left, raised, now_low), at_low)
        builder.store(builder.select(go_right, lowered, now_high), at_high)
        builder.store(builder.select(by_left, left, right), at_loss)
    return builder.load(best_low), builder.load(best_high)


@machine_code
def _search_lanes(typing_context: Any, columns: Any, width: Any, levels: Any, low: Any, high: Any, at: Any) -> Any:
    """Ranges of the sixteen rows of which `columns` f32 (width * 16) holds column by column, to [at : at + 16]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        found = _search(builder, _Lanes(builder, data, arguments[1], arguments[2]))
        for number, vector in zip((3, 4), found, strict=True):
            out = context.make_array(signature.args[number])(context, builder, arguments[number]).data
            address = builder.bitcast(builder.gep(out, [arguments[5]]), _VECTOR.as_pointer())
            builder.store(vector, address, align=4)
        return context.get_dummy_value()

    return types.void(columns, types.uint64, types.float32, low, high, types.uint64), generate


@kernel
def _search_rows(
    values: NDArray[np.float32],
    width: int,
    levels: np.float32,
    first: int,
    last: int,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
) -> None:
    columns = np.empty(width * _LANES, np.float32)
    found_low, found_high = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32)
    for start in range(first, last, _LANES):
        count = min(_LANES, last - start)
        for lane in range(_LANES):
            row = np.uint64((start + min(lane, count - 1)) * width)
            for column in range(np.uint64(width)):
                columns[column * np.uint64(_LANES) + np.uint64(lane)] = values[row + column]
        _search_lanes(columns, np.uint64(width), levels, found_low, found_high, np.uint64(0))
        for lane in range(count):
            low[start + lane] = found_low[lane]
            high[start + lane] = found_high[lane]


def greedy_ranges(
    values: NDArray[np.float32], bits: int, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The range of each row, as PyTorch's choose_qparams_optimized(row, d, 200, 0.16, bits) finds it.

    Args:
        values: f32 (n, d), C order, finite.
        bits: of a code, 8 at most.
        threads: how many share the rows.

    Returns:
        lower ends f32 (n,) and upper ends f32 (n,).
    """
    rows, width = values.shape
    low, high = np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    if width == 0:
        return low, high
    flat, levels = values.reshape(-1), np.float32((1 << bits) - 1)

    def search(part: int) -> None:
        begin, end = rows * part // threads, rows * (part + 1) // threads
        _search_rows(flat, width, levels, begin, end, low, high)

    in_parts(search, threads)
    return low, high
