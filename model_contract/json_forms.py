"""The JSON forms of a sample and of a prediction request, as types that msgspec decodes into.

Knows the schema, no columns and no reasons. Invariant: what these types accept is exactly what `json_faults` finds no
fault with, so that a record is never refused without a reason.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from model_contract.schema import ModelSchema

__all__ = ["FLOAT32_MAX", "TS_MS_MAX", "RequestForm", "dense_field", "request_form", "sample_form", "sparse_field"]

FLOAT32_MAX = float(np.finfo(np.float32).max)
TS_MS_MAX = 2**53  # beyond it JSON's readers disagree about integers

_SingleValue = int | str | None
_Number = Annotated[float, msgspec.Meta(ge=-FLOAT32_MAX, le=FLOAT32_MAX)] | None
_Weight = Annotated[float, msgspec.Meta(ge=0.0, le=FLOAT32_MAX)] | None
_TsMs = Annotated[int, msgspec.Meta(ge=0, le=TS_MS_MAX)] | None


@dataclass(frozen=True, slots=True)
class RequestForm:
    """The structs of a prediction request.

    Attributes:
        body: `instances`, a list of instances, or `sparse` and `dense` of the only one.
        instance: `sparse` and `dense`.
    """

    body: type[Any]
    instance: type[Any]


def sparse_field(slot: int) -> str:
    """Attribute of the sparse struct that holds the value of this slot; slot names need not be identifiers."""
    return f"s{slot}"


def dense_field(feature: int) -> str:
    """Attribute of the dense struct that holds this feature."""
    return f"d{feature}"


def _features(schema: ModelSchema, max_values_per_bag: int) -> list[tuple[str, Any, Any]]:
    values = Annotated[list[_SingleValue], msgspec.Meta(max_length=max_values_per_bag)]
    multiple = int | str | None | values
    # gc=False: the collector would otherwise walk every struct of a large batch again and again
    sparse = msgspec.defstruct(
        "Sparse",
        [(sparse_field(i), multiple if slot.multi else _SingleValue, None) for i, slot in enumerate(schema.sparse)],
        rename={sparse_field(i): name for i, name in enumerate(schema.slot_names)},
        forbid_unknown_fields=True,
        gc=False,
    )
    dense = msgspec.defstruct(
        "Dense",
        [(dense_field(i), _Number, None) for i in range(len(schema.dense))],
        rename={dense_field(i): name for i, name in enumerate(schema.dense_names)},
        forbid_unknown_fields=True,
        gc=False,
    )
    return [
        ("sparse", sparse, msgspec.field(default_factory=sparse)),
        ("dense", dense, msgspec.field(default_factory=dense)),
    ]


def sample_form(schema: ModelSchema, max_values_per_bag: int) -> type[Any]:
    """Struct of one sample: label, id, ts_ms, weight, sparse, dense."""
    return msgspec.defstruct(
        "Sample",
        [
            ("label", Literal[0, 1]),
            ("id", int | str | None, None),
            ("ts_ms", _TsMs, None),
            ("weight", _Weight, None),
            *_features(schema, max_values_per_bag),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )


def request_form(schema: ModelSchema, max_values_per_bag: int) -> RequestForm:
    """Structs of a request: all fields of the body are `msgspec.UNSET` where they are absent."""
    features = _features(schema, max_values_per_bag)
    instance: Any = msgspec.defstruct("Instance", features, forbid_unknown_fields=True, gc=False)
    kinds = {"instances": list[instance], **{name: kind for name, kind, _ in features}}
    fields = [(name, kind | msgspec.UnsetType, msgspec.UNSET) for name, kind in kinds.items()]
    body = msgspec.defstruct("Request", fields, forbid_unknown_fields=True, gc=False)
    return RequestForm(body, instance)
