"""From a file's columns to a sample's: names, types and values that every decoder of the contract accepts.

Knows no file format and no Kafka. Invariant: a batch that comes out has `label` int8 of 0 and 1 without nulls, `ts_ms`
int64 where there is a time, one column of integers, text or lists of them for each slot, one float32 column without
NaN or infinity (null: missing) for each dense feature, all named as in the schema and in its order. What cannot be
made so is refused with column, row and value; nothing is dropped or changed on the way.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from dimflow.errors import SampleFileError
from model_contract.schema import ModelSchema

__all__ = ["Column", "FileColumns", "sample_batch"]

Column: TypeAlias = Any
"""An Arrow array; pyarrow's stubs know only a part of the types that its kernels take."""


@dataclass(frozen=True, slots=True)
class FileColumns:
    """Which of a file's columns hold what every sample has; slots and dense features go by their own names.

    Attributes:
        label: 0 or 1, as integers, floats or booleans.
        time: ms since the epoch as integers, or Arrow times; None where the file has no time.
        list_separator: between the values of a text in a multi-valued slot (CSV has no lists); None: a text is one
            value.
    """

    label: str = "label"
    time: str | None = "ts_ms"
    list_separator: str | None = None

    def needed(self, schema: ModelSchema) -> list[str]:
        """Names of the columns to read."""
        own = [self.label] if self.time is None else [self.label, self.time]
        return [*own, *schema.slot_names, *schema.dense_names]


def sample_batch(
    batch: pa.RecordBatch, schema: ModelSchema, columns: FileColumns, first_row: int = 0
) -> pa.RecordBatch:
    """Renames, orders and casts a file's columns.

    Args:
        batch: B rows that have `columns.needed(schema)`.
        schema: the model's.
        columns: what the file calls label and time.
        first_row: number of the batch's first row in its file, for messages.

    Raises:
        SampleFileError: a column cannot be made what the module's docstring says.
    """
    arrays = [_labels(batch.column(columns.label), columns.label, first_row)]
    names = ["label"]
    if columns.time is not None:
        arrays.append(_times(batch.column(columns.time), columns.time))
        names.append("ts_ms")
    for slot in schema.sparse:
        separator = columns.list_separator if slot.multi else None
        arrays.append(_sparse(batch.column(slot.name), slot.name, slot.multi, separator))
    arrays.extend(_dense(batch.column(name), name, first_row) for name in schema.dense_names)
    names += [*schema.slot_names, *schema.dense_names]
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _refuse_rows(bad: Column, values: Column, name: str, expected: str, first_row: int) -> None:
    """Refuses the first row marked in `bad`; nulls are not marked."""
    places = pc.indices_nonzero(bad)
    if len(places):
        place = places[0].as_py()
        message = f"column {name!r}, row {first_row + place}: {values[place].as_py()!r}, expected {expected}"
        raise SampleFileError(message)


def _cast(values: Column, kind: pa.DataType, name: str, expected: str) -> Column:
    try:
        return pc.cast(values, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        message = f"column {name!r} of type {values.type}: expected {expected} ({error})"
        raise SampleFileError(message) from error


def _labels(values: Column, name: str, first_row: int) -> Column:
    expected = "0 or 1"
    numbers = _cast(values, pa.float64(), name, expected)
    good: Column = pc.is_in(numbers, pa.array([0.0, 1.0]))  # false for a null
    _refuse_rows(pc.invert(good), values, name, expected, first_row)
    return pc.cast(numbers, pa.int8())


def _times(values: Column, name: str) -> Column:
    kind = values.type
    expected = "integers (ms since the epoch) or times"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        values = pc.cast(values, pa.timestamp("ms"), safe=False)  # parts of a millisecond go
    elif not pa.types.is_integer(kind):
        message = f"column {name!r} of type {kind}: expected {expected}"
        raise SampleFileError(message)
    return _cast(values, pa.int64(), name, expected)


def _sparse(values: Column, name: str, multi: bool, separator: str | None) -> Column:
    kind = values.type
    if _is_text(kind) and separator is not None:
        return pc.split_pattern(pc.cast(values, pa.string()), separator)
    if _is_list(kind) and multi:
        inner = kind.value_type
        if pa.types.is_integer(inner) or _is_text(inner):
            return values
    elif pa.types.is_integer(kind) or _is_text(kind):
        return values
    elif pa.types.is_null(kind):
        return pc.cast(values, pa.string())
    elif pa.types.is_floating(kind):  # integers with nulls, as pandas writes them
        return _cast(pc.if_else(pc.is_nan(values), None, values), pa.int64(), name, "whole numbers")
    lists = " or lists of them" if multi else " (a list needs multi = true in the model)"
    message = f"column {name!r} of type {kind}: expected integers or text{lists}"
    raise SampleFileError(message)


def _dense(values: Column, name: str, first_row: int) -> Column:
    numbers = _cast(values, pa.float32(), name, "numbers")
    _refuse_rows(pc.is_inf(numbers), values, name, "a finite float32", first_row)
    return pc.if_else(pc.is_nan(numbers), None, numbers)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
