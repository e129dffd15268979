"""JSON samples to columns: one object per Kafka message.

`{"id"?, "ts_ms"?, "label": 0|1, "weight"?, "dense": {name: number}, "sparse": {slot: value or [values]}}`

Knows no Kafka. Invariant: a message is decoded alone, from its own bytes, so that nothing another message holds can
change what it becomes. (Joining messages to lines and decoding those at once would be no faster, and `{"label":1,`
before `"sparse":{}}` would become a sample where neither is one.)
"""

from collections.abc import Sequence
from itertools import compress, repeat
from operator import attrgetter, is_not
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_contract.json_columns import FeatureColumns, filled_column
from model_contract.json_faults import Fault, JsonFaults
from model_contract.json_forms import sample_form
from model_contract.samples import Decoded, Reason, Reject, SampleBatch
from model_contract.schema import ModelSchema

__all__ = ["JsonSampleDecoder"]


class JsonSampleDecoder:
    """Decodes lists of JSON messages of one schema; may be used from several threads.

    Args:
        schema: slots and dense features that samples may give; all others are refused.
        max_bytes: longest message.
        max_values_per_bag: longest list of values of a multi-valued slot.
    """

    def __init__(self, schema: ModelSchema, max_bytes: int = 1_000_000, max_values_per_bag: int = 1000) -> None:
        self._decode = msgspec.json.Decoder(sample_form(schema, max_values_per_bag)).decode
        self._columns = FeatureColumns(schema)
        self._faults = JsonFaults(schema, max_values_per_bag)
        self._max_bytes = max_bytes

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decodes messages; a bad one becomes a `Reject` and leaves its neighbours alone.

        Args:
            values: Kafka values; None is a tombstone.
        """
        texts, positions, rejects = self._of_fair_size(values)
        records, failures = self._records(texts)
        rejects += [Reject(int(positions[at]), fault.reason, fault.line) for at, fault in failures]
        rejects.sort(key=attrgetter("index"))
        batch = SampleBatch.empty(self._columns.dense_features)
        if records:
            bags = self._columns.bags(records)
            batch = SampleBatch(
                labels=np.fromiter(map(attrgetter("label"), records), np.float32, len(records)),
                weights=filled_column(records, "weight", pa.float64(), 1.0).astype(np.float32),
                ts_ms=filled_column(records, "ts_ms", pa.int64(), 0).astype(np.int64),
                dense=self._columns.dense(records),
                ids=bags.ids,
                offsets=bags.offsets,
            )
        failed = [at for at, _ in failures]
        return Decoded(batch, np.delete(positions, failed), tuple(rejects))

    def _of_fair_size(self, values: Sequence[bytes | None]) -> tuple[list[bytes], NDArray[np.int64], list[Reject]]:
        present = np.fromiter(map(is_not, values, repeat(None)), np.bool_, len(values))
        texts = cast("list[bytes]", list(compress(values, present)))
        positions = np.flatnonzero(present).astype(np.int64)
        rejects = [
            Reject(int(i), Reason.NULL_MESSAGE, "the message has no value (a tombstone)")
            for i in np.flatnonzero(~present)
        ]
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        fair = sizes <= self._max_bytes
        if not fair.all():
            for at in np.flatnonzero(~fair):
                message = f"message of {sizes[at]} bytes; expected at most {self._max_bytes}"
                rejects.append(Reject(int(positions[at]), Reason.TOO_LARGE, message))
            texts, positions = list(compress(texts, fair)), positions[fair]
        return texts, positions, rejects

    def _records(self, texts: list[bytes]) -> tuple[list[Any], list[tuple[int, Fault]]]:
        """The good records, and for each of the others its place in `texts` and its fault."""
        records: list[Any] = []
        failures: list[tuple[int, Fault]] = []
        rest = iter(texts)
        while True:
            try:
                records.extend(map(self._decode, rest))  # what came before a failure stays in the list
            except (ValueError, RecursionError) as error:
                at = len(records) + len(failures)
                failures.append((at, self._fault(texts[at], error)))
            else:
                return records, failures

    def _fault(self, text: bytes, error: Exception) -> Fault:
        fault = self._faults.in_sample(text)
        if fault is None:  # such as a key given twice, first wrong and then right
            reason = Reason.WRONG_TYPE if isinstance(error, msgspec.ValidationError) else Reason.NOT_JSON
            fault = Fault(reason, str(error), "")
        return fault
