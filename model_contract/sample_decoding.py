"""Records of both wire forms to one batch of columns.

Knows content types, no Kafka. Invariant: the rows stand in the order of their records, whatever mixture of forms the
records come in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_contract.arrow_samples import ArrowSampleDecoder
from model_contract.json_samples import JsonSampleDecoder
from model_contract.samples import Decoded
from model_contract.schema import ModelSchema

__all__ = ["ARROW_CONTENT_TYPE", "JSON_CONTENT_TYPE", "DecodingLimits", "SampleDecoder"]

ARROW_CONTENT_TYPE = "application/vnd.apache.arrow.stream"
JSON_CONTENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """The largest records that are decoded.

    Attributes:
        max_json_bytes: longest JSON message.
        max_arrow_bytes: longest Arrow message.
        max_arrow_rows: most rows of an Arrow message.
        max_values_per_bag: longest list of values of a multi-valued slot.
    """

    max_json_bytes: int = 1_000_000
    max_arrow_bytes: int = 64 * 1024 * 1024
    max_arrow_rows: int = 1_000_000
    max_values_per_bag: int = 1000


class SampleDecoder:
    """Decodes lists of records of one schema; may be used from several threads.

    Args:
        schema: slots and dense features that samples may give; all others are refused.
        limits: the largest records that are decoded, `DecodingLimits()` if None.
    """

    def __init__(self, schema: ModelSchema, limits: DecodingLimits | None = None) -> None:
        limits = limits or DecodingLimits()
        self._json = JsonSampleDecoder(schema, limits.max_json_bytes, limits.max_values_per_bag)
        self._arrow = ArrowSampleDecoder(
            schema, limits.max_arrow_bytes, limits.max_arrow_rows, limits.max_values_per_bag
        )

    def decode(self, values: Sequence[bytes | None], content_types: Sequence[str | None]) -> Decoded:
        """Decodes records; a bad one becomes a `Reject` and leaves its neighbours alone.

        Args:
            values: Kafka values; None is a tombstone.
            content_types: the `content-type` header of each record; Arrow's is recognised, also with parameters and
                in capitals, and everything else is read as JSON.

        Raises:
            ValueError: the two lists differ in length.
        """
        if len(values) != len(content_types):
            message = f"{len(content_types)} content types for {len(values)} values; expected as many"
            raise ValueError(message)
        kinds = {kind: _is_arrow(kind) for kind in set(content_types)}
        if not any(kinds.values()):
            return self._json.decode(values)
        if all(kinds.values()):
            return self._arrow.decode(values)
        is_arrow = np.fromiter(map(kinds.__getitem__, content_types), np.bool_, len(values))
        return Decoded.merged(
            [
                _decoded_at(self._json, values, np.flatnonzero(~is_arrow)),
                _decoded_at(self._arrow, values, np.flatnonzero(is_arrow)),
            ]
        )


def _is_arrow(content_type: str | None) -> bool:
    return content_type is not None and content_type.partition(";")[0].strip().lower() == ARROW_CONTENT_TYPE


def _decoded_at(
    decoder: JsonSampleDecoder | ArrowSampleDecoder, values: Sequence[bytes | None], positions: NDArray[np.int64]
) -> Decoded:
    """Decodes the values at some positions; the indices of the answer are those of the whole list."""
    part = decoder.decode([values[i] for i in positions.tolist()])
    rejects = tuple(replace(reject, index=int(positions[reject.index])) for reject in part.rejects)
    return Decoded(part.batch, positions[part.source_index], rejects)
