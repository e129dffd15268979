"""Arrow samples to columns: one IPC stream of many rows per Kafka message.

Columns: `label`, optional `id` (ignored), `ts_ms`, `weight`, and one for each slot and dense feature by its name; a
column that is absent is missing in every row. Slots are text, integers, dictionaries of those, or lists of those for
multi-valued slots; a uint64 column with the field metadata dimflow=feature_id holds ids that are hashed already.

Knows no Kafka. Invariants: messages of equal schema are decoded as one table, but each is read and validated from
its own bytes, and a message with one bad row is refused whole, with column and row in its reason.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_contract.arrow_columns import ArrowColumns, RowFault
from model_contract.arrow_stream import read_stream
from model_contract.errors import SampleError
from model_contract.samples import Decoded, Reason, Reject, SampleBatch
from model_contract.schema import ModelSchema

__all__ = ["ArrowSampleDecoder", "encode_arrow"]


class ArrowSampleDecoder:
    """Decodes lists of Arrow messages of one schema; may be used from several threads.

    Args:
        schema: slots and dense features that may be columns; all others are refused.
        max_bytes: longest message.
        max_rows: most rows of a message.
        max_values_per_bag: longest list of values of a multi-valued slot.
    """

    def __init__(
        self,
        schema: ModelSchema,
        max_bytes: int = 64 * 1024 * 1024,
        max_rows: int = 1_000_000,
        max_values_per_bag: int = 1000,
    ) -> None:
        self._columns = ArrowColumns(schema, max_values_per_bag)
        self._dense_features = len(schema.dense)
        self._max_bytes = max_bytes
        self._max_rows = max_rows

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decodes messages; a bad one becomes a `Reject` and leaves its neighbours alone.

        Args:
            values: Kafka values; None is a tombstone.
        """
        rejects: list[Reject] = []
        groups: dict[bytes, list[tuple[int, pa.Table]]] = {}
        for index, value in enumerate(values):
            try:
                if value is None:
                    message = "the message has no value (a tombstone)"
                    raise SampleError(Reason.NULL_MESSAGE, message)
                if len(value) > self._max_bytes:
                    message = f"message of {len(value)} bytes; expected at most {self._max_bytes}"
                    raise SampleError(Reason.TOO_LARGE, message)
                read = read_stream(value, self._max_rows)
            except SampleError as error:
                rejects.append(Reject(index, error.reason, error.detail))
            else:
                groups.setdefault(read.schema_key, []).append((index, read.table))
        parts = [self._group([i for i, _ in group], [table for _, table in group]) for group in groups.values()]
        empty = Decoded(SampleBatch.empty(self._dense_features), np.empty(0, np.int64), tuple(rejects))
        return Decoded.merged([empty, *parts])

    def _group(self, indices: list[int], tables: list[pa.Table]) -> Decoded:
        """Decodes messages of one schema as one table."""
        empty = SampleBatch.empty(self._dense_features)
        sizes = np.array([table.num_rows for table in tables], np.int64)
        sources = np.repeat(np.array(indices, np.int64), sizes)
        starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
        batches, faults = [], []
        try:
            self._columns.check_names(tables[0].schema)
            first = 0
            for part in _batches(tables):
                batch, found = self._columns.read(part)
                batches.append(batch)
                faults += [(first, fault) for fault in found]
                first += batch.rows
        except SampleError as error:
            rejects = tuple(Reject(index, error.reason, error.detail) for index in indices)
            return Decoded(empty, np.empty(0, np.int64), rejects)
        if not batches:
            return Decoded(empty, np.empty(0, np.int64), ())
        batch = SampleBatch.concatenate(batches)
        rejects = _rejects_of(faults, sources, starts)
        if rejects:
            kept = np.flatnonzero(~np.isin(sources, [reject.index for reject in rejects]))
            batch, sources = batch.take(kept), sources[kept]
        return Decoded(batch, sources, rejects)


def _batches(tables: list[pa.Table]) -> list[pa.RecordBatch]:
    table = pa.concat_tables(tables)
    try:
        table = table.combine_chunks()
    except pa.ArrowException:  # such as dictionaries whose union has more words than their indices can count
        pass
    return table.to_batches()


def _rejects_of(
    faults: list[tuple[int, RowFault]], sources: NDArray[np.int64], starts: NDArray[np.int64]
) -> tuple[Reject, ...]:
    """For each message with a bad row its first fault: the first column's, at its first bad row."""
    rejects: dict[int, Reject] = {}
    for first, fault in faults:
        messages, at = np.unique(sources[first + fault.rows], return_index=True)
        for message, row in zip(messages.tolist(), fault.rows[at].tolist(), strict=True):
            if message not in rejects:
                detail = fault.detail(row, int(first + row - starts[first + row]))
                rejects[message] = Reject(message, fault.reason, detail)
    return tuple(rejects.values())


def encode_arrow(table: pa.Table, schema: ModelSchema) -> bytes:
    """One message of all rows of a table; columns that the schema does not know are refused, types are not checked.

    Raises:
        SampleError: an unknown column, one that comes twice, or no label.
    """
    ArrowColumns(schema, max_values_per_bag=1).check_names(table.schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
