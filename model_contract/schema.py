"""The model's schema: its slots, dense features and widths, and the fingerprint that names them all.

Knows no table, no file system and no settings: the text of a model file is handed in. Invariant: two schemas have the
same fingerprint exactly when trainer, server and producers may treat them as one model.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from model_contract.errors import SchemaError
from model_contract.feature_id import missing_id

__all__ = ["RESERVED_NAMES", "Align", "DenseFeature", "ModelSchema", "Pooling", "SparseSlot", "Transform"]

Align = Literal["zero_pad", "linear"]
Pooling = Literal["sum", "mean"]
Transform = Literal["none", "log1p", "standardise"]

RESERVED_NAMES = frozenset({"id", "ts_ms", "label", "weight"})
"""Names of a sample's own columns, which no feature may take."""

_MAX_FEATURES = 4096
_MAX_DIM = 1024
_MAX_WIDTH = 65536
_MAX_LAYERS = 32
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_FEATURE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}")
_POOLING_CODES: Mapping[str, int] = {"sum": 0, "mean": 1}


def _refuse(key: str, value: object, expected: str) -> NoReturn:
    message = f"{key} is {value!r}; expected {expected}"
    raise SchemaError(message)


@dataclass(frozen=True, slots=True)
class SparseSlot:
    """A categorical feature.

    Attributes:
        name: its key in samples; its feature ids depend on it.
        pooling: how the rows of several values become one: their sum or their mean.
        multi: whether a sample may give a list of values.
    """

    name: str
    pooling: Pooling = "sum"
    multi: bool = False

    def __post_init__(self) -> None:
        _check_feature_name("sparse name", self.name)
        if self.pooling not in get_args(Pooling):
            _refuse(f"pooling of sparse {self.name}", self.pooling, "'sum' or 'mean'")
        if type(self.multi) is not bool:
            _refuse(f"multi of sparse {self.name}", self.multi, "true or false")


@dataclass(frozen=True, slots=True)
class DenseFeature:
    """A numeric feature.

    Attributes:
        name: its key in samples.
        transform: what the network sees: the value, its signed log1p, or standardised on the stream.
    """

    name: str
    transform: Transform = "none"

    def __post_init__(self) -> None:
        _check_feature_name("dense name", self.name)
        if self.transform not in get_args(Transform):
            _refuse(f"transform of dense {self.name}", self.transform, "'none', 'log1p' or 'standardise'")


@dataclass(frozen=True, slots=True)
class ModelSchema:
    """What a model is made of.

    Attributes:
        name: the model's name, part of its Redis keys.
        sparse: the F slots, in the order of the interaction.
        dense: the n dense features, in the order of the columns.
        dim: interaction width D, the widest row.
        bottom: hidden widths of the bottom MLP; with dense features a last layer to D is implied, without any there
            is no bottom MLP and this stays empty.
        top: hidden widths of the top MLP; a last layer to 1 is implied.
        align: how rows narrower than D meet in the interaction: with zeros in the columns they have not got, or through
            a learned linear map of each slot, see `model_contract.row_alignment`.

    Raises:
        SchemaError: a value out of bounds, a name used twice or reserved.
    """

    name: str
    sparse: tuple[SparseSlot, ...]
    dense: tuple[DenseFeature, ...] = ()
    dim: int = 16
    bottom: tuple[int, ...] = ()
    top: tuple[int, ...] = (256, 64)
    align: Align = "zero_pad"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _MODEL_NAME.fullmatch(self.name):
            _refuse("model name", self.name, "1 to 64 of A-Z a-z 0-9 _ . - and not . or - first")
        _check_int("dim", self.dim, _MAX_DIM)
        _check_widths("bottom", self.bottom)
        _check_widths("top", self.top)
        if self.align not in get_args(Align):
            _refuse("align", self.align, "'zero_pad' or 'linear'")
        if not 1 <= len(self.sparse) <= _MAX_FEATURES:
            _refuse("number of sparse slots", len(self.sparse), f"1 to {_MAX_FEATURES}")
        if len(self.dense) > _MAX_FEATURES:
            _refuse("number of dense features", len(self.dense), f"at most {_MAX_FEATURES}")
        if self.bottom and not self.dense:
            _refuse("bottom", list(self.bottom), "nothing, as the model has no dense features")
        seen: set[str] = set()
        for name in (*self.slot_names, *self.dense_names):
            if name in seen:
                _refuse("feature name", name, "a name that no other feature has")
            seen.add(name)

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the F slots, in order."""
        return tuple(slot.name for slot in self.sparse)

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the n dense features, in order."""
        return tuple(feature.name for feature in self.dense)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over the canonical JSON of the whole schema."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def pooling_codes(self) -> NDArray[np.int8]:
        """(F,) int8: 0 where a slot pools by sum, 1 by mean."""
        return np.array([_POOLING_CODES[slot.pooling] for slot in self.sparse], np.int8)

    @property
    def missing_ids(self) -> NDArray[np.uint64]:
        """(F,) uint64, read-only: the id that stands for a slot's missing value."""
        return _missing_ids(self.slot_names)

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, no spaces; what the fingerprint is made of."""
        fields = asdict(self)
        if self.align == "zero_pad":
            del fields["align"]  # as before there was a choice: models that do not use it keep their fingerprint
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> "ModelSchema":
        """Reads what `to_json` wrote.

        Raises:
            SchemaError: not JSON, an unknown or missing key, or a value that breaks a rule.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = f"schema JSON cannot be read: {error}"
            raise SchemaError(message) from error
        return _schema_of(_table("schema", document, _SCHEMA_KEYS, {"name", "sparse"}))

    @staticmethod
    def parse_toml(text: str) -> "ModelSchema":
        """Reads a model file: a `[model]` table, `[[sparse]]` and `[[dense]]` entries.

        Raises:
            SchemaError: not TOML, an unknown or missing key, or a value that breaks a rule.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            message = f"model file cannot be read as TOML: {error}"
            raise SchemaError(message) from error
        _table("model file", document, {"model", "sparse", "dense"}, {"model", "sparse"})
        model = _table("[model]", document["model"], _SCHEMA_KEYS - {"sparse", "dense"}, {"name"})
        features: dict[str, Any] = {key: document[key] for key in ("sparse", "dense") if key in document}
        return _schema_of({**model, **features})


_SCHEMA_KEYS = {"name", "sparse", "dense", "dim", "bottom", "top", "align"}


@lru_cache(maxsize=256)
def _missing_ids(names: tuple[str, ...]) -> NDArray[np.uint64]:
    ids = np.array([missing_id(name) for name in names], np.uint64)
    ids.setflags(write=False)
    return ids


def _schema_of(document: Mapping[str, Any]) -> ModelSchema:
    fields = dict(document)
    for key in ("bottom", "top"):
        if key in fields:
            if not isinstance(fields[key], list):
                _refuse(key, fields[key], "a list of widths")
            fields[key] = tuple(fields[key])
    entries = _entries("sparse", fields.pop("sparse"), {"name", "pooling", "multi"})
    sparse = tuple(SparseSlot(**entry) for entry in entries)
    entries = _entries("dense", fields.pop("dense", []), {"name", "transform"})
    dense = tuple(DenseFeature(**entry) for entry in entries)
    return ModelSchema(sparse=sparse, dense=dense, **fields)


def _entries(where: str, value: object, allowed: set[str]) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        _refuse(where, value, f"a list of tables ([[{where}]] in a model file)")
    return [_table(f"[[{where}]] number {i + 1}", entry, allowed, {"name"}) for i, entry in enumerate(value)]


def _table(where: str, value: object, allowed: set[str], required: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where, value, "a table of keys and values")
    unknown = sorted(value.keys() - allowed)
    if unknown:
        message = f"{where} has the unknown key {unknown[0]!r}; expected one of {', '.join(sorted(allowed))}"
        raise SchemaError(message)
    absent = sorted(required - value.keys())
    if absent:
        message = f"{where} lacks the key {absent[0]!r}"
        raise SchemaError(message)
    return value


def _check_int(key: str, value: object, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        _refuse(key, value, f"an integer from 1 to {most}")


def _check_widths(key: str, widths: object) -> None:
    if not isinstance(widths, tuple) or len(widths) > _MAX_LAYERS:
        _refuse(key, widths, f"at most {_MAX_LAYERS} widths")
    for i, width in enumerate(widths):
        _check_int(f"{key}[{i}]", width, _MAX_WIDTH)


def _check_feature_name(key: str, name: object) -> None:
    if not isinstance(name, str) or not _FEATURE_NAME.fullmatch(name):
        _refuse(key, name, "1 to 128 of A-Z a-z 0-9 _ . : / - and not punctuation first")
    if name in RESERVED_NAMES:
        _refuse(key, name, f"a name other than {', '.join(sorted(RESERVED_NAMES))}")
