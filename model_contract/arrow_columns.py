"""The columns of Arrow record batches to a `SampleBatch`, and the rows that break a rule.

Knows the schema and validated Arrow arrays, no messages. Invariant: a column of the wrong type raises, a wrong value
is reported with its row; nothing is guessed or cut to fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model_contract.bag_columns import SlotColumn, assemble_bags, ids_of
from model_contract.errors import SampleError
from model_contract.feature_id import slot_seed
from model_contract.json_forms import FLOAT32_MAX, TS_MS_MAX
from model_contract.samples import Reason, SampleBatch
from model_contract.schema import RESERVED_NAMES, ModelSchema

__all__ = ["FEATURE_ID_METADATA", "ArrowColumns", "RowFault"]

FEATURE_ID_METADATA = {b"dimflow": b"feature_id"}
"""Field metadata that marks a uint64 column whose values are feature ids already."""


@dataclass(frozen=True, slots=True, eq=False)
class RowFault:
    """Rows of one column that break the same rule.

    Attributes:
        rows: (k,) int64, ascending positions in the batch.
        reason: short code.
        column: its name.
        values: the whole column, to show what was seen.
        expected: what the rule wants.
    """

    rows: NDArray[np.int64]
    reason: Reason
    column: str
    values: "pa.Array[Any]"
    expected: str

    def detail(self, row: int, row_in_message: int) -> str:
        """One line about one of the rows."""
        seen = str(self.values[row])[:80]
        return f"column {self.column}, row {row_in_message}: got {seen}; expected {self.expected}"


@dataclass(slots=True, eq=False)
class _Faults:
    """Collects the faults of one batch."""

    found: list[RowFault] = field(default_factory=list)

    def add(self, bad: NDArray[np.bool_], reason: Reason, column: str, values: "pa.Array[Any]", expected: str) -> None:
        if bad.any():
            self.found.append(RowFault(np.flatnonzero(bad), reason, column, values, expected))


class ArrowColumns:
    """Reads record batches of one model.

    Args:
        schema: whose slots and dense features may be columns; all others are refused.
        max_values_per_bag: longest list of values of a multi-valued slot.
    """

    def __init__(self, schema: ModelSchema, max_values_per_bag: int) -> None:
        self._schema = schema
        self._slots = {slot.name: (slot, slot_seed(slot.name)) for slot in schema.sparse}
        self._missing_ids = schema.missing_ids
        self._max_values = max_values_per_bag

    def check_names(self, columns: pa.Schema) -> None:
        """Refuses column names that are unknown or come twice, and a schema without a label.

        Raises:
            SampleError: names the column.
        """
        known = RESERVED_NAMES | set(self._slots) | set(self._schema.dense_names)
        seen: set[str] = set()
        for name in columns.names:
            if name not in known or name in seen:
                message = f"column {name[:80]!r} {'comes twice' if name in seen else 'is unknown'}"
                raise SampleError(Reason.UNKNOWN_FIELD if name in seen else Reason.UNKNOWN_SLOT, message)
            seen.add(name)
        if "label" not in seen:
            message = "no column label; expected 0 or 1 for each row"
            raise SampleError(Reason.BAD_LABEL, message)

    def read(self, batch: pa.RecordBatch) -> tuple[SampleBatch, list[RowFault]]:
        """Columns to a sample batch of the same rows, those that break a rule included, and what they break.

        Raises:
            SampleError: a column of the wrong type.
        """
        faults = _Faults()
        columns = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
        rows = batch.num_rows
        labels = _labels(columns["label"], faults)
        ts_ms = _ts_ms(columns["ts_ms"], faults) if "ts_ms" in columns else np.zeros(rows, np.int64)
        weights = _weights(columns["weight"], faults) if "weight" in columns else np.ones(rows, np.float32)
        dense = np.full((rows, len(self._schema.dense)), np.nan, np.float32)
        for i, name in enumerate(self._schema.dense_names):
            if name in columns:
                dense[:, i] = _dense(name, columns[name], faults)
        bags = assemble_bags(list(self._slot_columns(batch.schema, columns, rows, faults)), self._missing_ids)
        return SampleBatch(labels, weights, ts_ms, dense, bags.ids, bags.offsets), faults.found

    def _slot_columns(
        self, columns_schema: pa.Schema, columns: dict[str, Any], rows: int, faults: _Faults
    ) -> Iterator[SlotColumn]:
        for index, (slot, seed) in enumerate(self._slots.values()):
            missing = self._missing_ids[index]
            if slot.name not in columns:
                yield SlotColumn(np.full(rows, missing, np.uint64))
                continue
            values = columns[slot.name]
            is_list = _is_list(values.type)
            if is_list and not slot.multi:
                _refuse_type(slot.name, values.type, "one value for each row: the slot is not multi-valued")
            lengths = None
            entries = values
            if is_list:
                entries = values.flatten()
                lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
                expected = f"a list of at most {self._max_values} values"
                faults.add(lengths > self._max_values, Reason.TOO_MANY_VALUES, slot.name, values, expected)
            if is_list and pa.types.is_null(entries.type):
                _refuse_type(slot.name, values.type, "lists of text or integers")
            metadata = columns_schema.field(slot.name).metadata or {}
            if metadata.items() >= FEATURE_ID_METADATA.items():
                ids, bad = _hashed_already(slot.name, entries, missing)
                bad = bad if lengths is None else _any_in_lists(bad, lengths)
                faults.add(bad, Reason.OUT_OF_RANGE, slot.name, values, "feature ids, which are never 0")
            else:
                try:
                    ids = ids_of(entries, seed)
                except SampleError as error:
                    raise SampleError(error.reason, f"column {slot.name}: {error.detail}") from error
            yield SlotColumn(ids, lengths)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _refuse_type(column: str, kind: pa.DataType, expected: str) -> NoReturn:
    message = f"column {column} of type {str(kind)[:80]}; expected {expected}"
    raise SampleError(Reason.WRONG_TYPE, message)


def _numbers(column: str, values: Any) -> NDArray[np.float64]:
    """The column as float64, NaN where it is null."""
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type)):
        _refuse_type(column, values.type, "numbers")
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)


def _labels(values: Any, faults: _Faults) -> NDArray[np.float32]:
    numbers = _numbers("label", values)
    faults.add((numbers != 0) & (numbers != 1), Reason.BAD_LABEL, "label", values, "0 or 1")
    return numbers.astype(np.float32)


def _ts_ms(values: Any, faults: _Faults) -> NDArray[np.int64]:
    if not pa.types.is_integer(values.type):
        _refuse_type("ts_ms", values.type, "integers of milliseconds")
    numbers = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)  # beyond 63 bits turns negative
    bad = (numbers < 0) | (numbers > TS_MS_MAX)
    faults.add(bad, Reason.OUT_OF_RANGE, "ts_ms", values, f"0 to {TS_MS_MAX}")
    return np.array(numbers)


def _finite(column: str, values: Any, numbers: NDArray[np.float64], faults: _Faults) -> NDArray[np.bool_]:
    """Reports what is not finite and not null; returns where numbers are finite."""
    finite = np.isfinite(numbers)
    bad = ~finite
    if values.null_count:
        bad &= values.is_valid().to_numpy(zero_copy_only=False)
    faults.add(bad, Reason.NOT_FINITE, column, values, "a finite number or null")
    return finite


def _weights(values: Any, faults: _Faults) -> NDArray[np.float32]:
    numbers = _numbers("weight", values)
    finite = _finite("weight", values, numbers, faults)
    bad = finite & ((numbers < 0) | (numbers > FLOAT32_MAX))
    faults.add(bad, Reason.OUT_OF_RANGE, "weight", values, f"0 to {FLOAT32_MAX:g}")
    return np.where(finite & ~bad, numbers, 1.0).astype(np.float32)


def _dense(column: str, values: Any, faults: _Faults) -> NDArray[np.float32]:
    numbers = _numbers(column, values)
    finite = _finite(column, values, numbers, faults)
    bad = finite & (np.abs(numbers) > FLOAT32_MAX)
    faults.add(bad, Reason.OUT_OF_RANGE, column, values, f"{-FLOAT32_MAX:g} to {FLOAT32_MAX:g}")
    return np.where(finite & ~bad, numbers, np.nan).astype(np.float32)


def _hashed_already(column: str, values: Any, missing: np.uint64) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    if not pa.types.is_uint64(values.type):
        _refuse_type(column, values.type, "uint64, as its metadata says that it holds feature ids")
    ids = values.fill_null(int(missing)).to_numpy(zero_copy_only=False)
    return ids, ids == 0


def _any_in_lists(bad: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return np.bincount(rows[bad], minlength=len(lengths)) > 0
