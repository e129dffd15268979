"""Decoded JSON structs to columns.

Knows the structs of `json_forms`, no bytes. Invariant: no Python code runs for a single sample; every pass over a
column is a loop in C.
"""

from collections.abc import Sequence
from itertools import chain, repeat
from operator import attrgetter, is_
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_contract.bag_columns import Bags, SlotColumn, assemble_bags, ids_of, interleaved_bags
from model_contract.feature_id import slot_seed
from model_contract.json_forms import dense_field, sparse_field
from model_contract.schema import ModelSchema

__all__ = ["FeatureColumns", "filled_column"]

_FEW_RECORDS = 64  # below it one pass over all slots as text beats a pass over each slot by its type


class FeatureColumns:
    """Turns structs with `sparse` and `dense` into bags and a dense matrix, for one schema.

    Attributes:
        dense_features: n.
    """

    def __init__(self, schema: ModelSchema) -> None:
        self.dense_features = len(schema.dense)
        self._slots = [
            (attrgetter(sparse_field(i)), slot_seed(slot.name), slot.multi) for i, slot in enumerate(schema.sparse)
        ]
        self._all_single = not any(slot.multi for slot in schema.sparse)
        self._values = attrgetter(*[sparse_field(i) for i in range(len(schema.sparse))])
        self._seeds = np.array([slot_seed(name) for name in schema.slot_names], np.uint64)
        self._dense = [attrgetter(dense_field(i)) for i in range(len(schema.dense))]
        self._missing_ids = schema.missing_ids

    def bags(self, records: Sequence[Any]) -> Bags:
        """Bags of ids of all slots."""
        sparse = list(map(attrgetter("sparse"), records))
        if self._all_single and len(sparse) <= _FEW_RECORDS:
            rows = map(self._values, sparse)
            values = list(rows) if len(self._slots) == 1 else list(chain.from_iterable(rows))
            return interleaved_bags(pa.array(_as_texts(values), pa.large_string()), self._seeds)
        columns = [
            _multiple_column(list(map(get, sparse)), seed)
            if multi
            else SlotColumn(_ids_of_values(list(map(get, sparse)), seed))
            for get, seed, multi in self._slots
        ]
        return assemble_bags(columns, self._missing_ids)

    def dense(self, records: Sequence[Any]) -> NDArray[np.float32]:
        """(B, n) float32, NaN where a feature is null or absent."""
        dense = list(map(attrgetter("dense"), records))
        out = np.empty((len(records), len(self._dense)), np.float32)
        for i, get in enumerate(self._dense):
            out[:, i] = np.fromiter(map(get, dense), np.float32, len(dense))  # None becomes NaN
        return out


def filled_column(records: Sequence[Any], name: str, kind: pa.DataType, default: float) -> NDArray[Any]:
    """One attribute of all records as numbers, `default` where it is None."""
    values: Any = pa.array(list(map(attrgetter(name), records)), kind)
    if values.null_count:
        values = values.fill_null(default)
    return cast("NDArray[Any]", values.to_numpy(zero_copy_only=False))


def _ids_of_values(values: list[Any], seed: np.uint64) -> NDArray[np.uint64]:
    """Ids of a list of int, str and None in any mixture."""
    kinds = [pa.large_string(), pa.int64()] if values and type(values[0]) is str else [pa.int64(), pa.large_string()]
    for kind in kinds:  # Arrow converts strictly: no text becomes a number, no number becomes text
        try:
            return ids_of(pa.array(values, kind), seed)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            continue
    return ids_of(pa.array(_as_texts(values), pa.large_string()), seed)


def _as_texts(values: list[Any]) -> list[Any]:
    """The same values with every integer as its decimal text: for columns of both, and for more than 64 bits."""
    objects = np.fromiter(values, object, len(values))
    is_int = _of_type(values, int)
    integers = objects[is_int].tolist()
    objects[is_int] = np.fromiter(map(str, integers), object, len(integers))
    return objects.tolist()  # type: ignore[no-any-return]


def _multiple_column(values: list[Any], seed: np.uint64) -> SlotColumn:
    """Column of a slot whose values are lists or single values."""
    is_list = _of_type(values, list)
    if not is_list.all():
        objects = np.fromiter(values, object, len(values))
        single = objects[~is_list].tolist()
        objects[~is_list] = np.fromiter(zip(single, strict=True), object, len(single))  # each becomes a tuple of one
        values = objects.tolist()
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    return SlotColumn(_ids_of_values(list(chain.from_iterable(values)), seed), lengths)


def _of_type(values: list[Any], kind: type) -> NDArray[np.bool_]:
    return np.fromiter(map(is_, map(type, values), repeat(kind)), np.bool_, len(values))
