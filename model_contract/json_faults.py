"""Why a JSON text is no sample, or no request: the first fault, with a code for machines and a line for people.

Knows the schema and plain Python objects, not msgspec's messages. Runs for refused texts only, so it may be slow.
Invariant: it is a second, plain statement of the rules that `json_forms` compiles; the tests hold the two together.
"""

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from model_contract.json_forms import FLOAT32_MAX, TS_MS_MAX
from model_contract.samples import Reason
from model_contract.schema import ModelSchema

__all__ = ["Fault", "JsonFaults"]

_SHOWN_CHARACTERS = 80
_SAMPLE_FIELDS = frozenset({"id", "ts_ms", "label", "weight", "sparse", "dense"})
_INSTANCE_FIELDS = frozenset({"sparse", "dense"})


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and where.

    Attributes:
        reason: short code.
        detail: one line for a person, without the place.
        pointer: JSON pointer (RFC 6901) to the place, "" for the whole text.
    """

    reason: Reason
    detail: str
    pointer: str

    @property
    def line(self) -> str:
        """Place and detail in one line."""
        return f"{self.pointer}: {self.detail}" if self.pointer else self.detail


def shown(value: object) -> str:
    """A value as text, cut to what a person wants to read."""
    text = str(value)[: _SHOWN_CHARACTERS + 1] if isinstance(value, int) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _wrong(value: object, expected: str, pointer: str) -> Fault:
    kind = "null" if value is None else type(value).__name__
    return Fault(Reason.WRONG_TYPE, f"got {kind} {shown(value)}; expected {expected}", pointer)


class JsonFaults:
    """Finds the first fault of texts that were refused.

    Args:
        schema: whose slots and dense features are known.
        max_values_per_bag: longest list a slot may give.
    """

    def __init__(self, schema: ModelSchema, max_values_per_bag: int) -> None:
        self._multi = {slot.name: slot.multi for slot in schema.sparse}
        self._dense = frozenset(schema.dense_names)
        self._max_values = max_values_per_bag

    def in_sample(self, text: bytes) -> Fault | None:
        """The first fault of a sample's text; None when by these rules it has none."""
        record, fault = self._parsed(text)
        return fault or self._object_fault(record, _SAMPLE_FIELDS, "") or self._sample_fault(record)

    def in_request(self, text: bytes) -> Fault | None:
        """The first fault of a request's text; None when by these rules it has none."""
        body, fault = self._parsed(text)
        fault = fault or self._object_fault(body, _INSTANCE_FIELDS | {"instances"}, "")
        if fault or "instances" not in body:
            return fault or self._features_fault(body, "")
        instances = body["instances"]
        if not isinstance(instances, list):
            return _wrong(instances, "a list of instances", "/instances")
        for i, instance in enumerate(instances):
            at = f"/instances/{i}"
            fault = self._object_fault(instance, _INSTANCE_FIELDS, at) or self._features_fault(instance, at)
            if fault:
                return fault
        return self._features_fault(body, "")

    def _parsed(self, text: bytes) -> tuple[Any, Fault | None]:
        constants: list[str] = []

        def constant(name: str) -> float:
            constants.append(name)
            return float(name)

        try:
            decoded = text.decode()
            record = json.loads(decoded, parse_constant=constant)
            json.dumps(record, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8
        except (ValueError, RecursionError) as error:
            message = f"not JSON: {error}; text starts with {shown(text[:_SHOWN_CHARACTERS])}"
            return None, Fault(Reason.NOT_JSON, message, "")
        if constants:
            message = f"{constants[0]} is no JSON; expected finite numbers, or null for a missing one"
            return record, Fault(Reason.NOT_FINITE, message, "")
        return record, None

    def _object_fault(self, value: object, fields: frozenset[str], at: str) -> Fault | None:
        if not isinstance(value, dict):
            return _wrong(value, "an object", at)
        return _unknown(value, fields, Reason.UNKNOWN_FIELD, "field", at)

    def _sample_fault(self, record: dict[str, Any]) -> Fault | None:
        label = record.get("label")
        if "label" not in record:
            return Fault(Reason.BAD_LABEL, "no label; expected 0 or 1", "")
        if type(label) is not int or label not in {0, 1}:
            return Fault(Reason.BAD_LABEL, f"got {shown(label)}; expected the integer 0 or 1", "/label")
        if type(record.get("id")) not in {int, str, type(None)}:
            return _wrong(record["id"], "text, an integer or null", "/id")
        ts_ms = record.get("ts_ms")
        if type(ts_ms) not in {int, type(None)}:
            return _wrong(ts_ms, "an integer of milliseconds or null", "/ts_ms")
        if ts_ms is not None and not 0 <= ts_ms <= TS_MS_MAX:
            return Fault(Reason.OUT_OF_RANGE, f"got {shown(ts_ms)}; expected 0 to {TS_MS_MAX}", "/ts_ms")
        return _number_fault(record.get("weight"), 0.0, "/weight") or self._features_fault(record, "")

    def _features_fault(self, record: dict[str, Any], at: str) -> Fault | None:
        sparse, dense = record.get("sparse", {}), record.get("dense", {})
        if not isinstance(sparse, dict):
            return _wrong(sparse, "an object of slots", f"{at}/sparse")
        if not isinstance(dense, dict):
            return _wrong(dense, "an object of numbers", f"{at}/dense")
        fault = _unknown(sparse, self._multi, Reason.UNKNOWN_SLOT, "slot", f"{at}/sparse")
        fault = fault or _unknown(dense, self._dense, Reason.UNKNOWN_DENSE, "dense feature", f"{at}/dense")
        if fault:
            return fault
        faults = [self._slot_fault(name, value, f"{at}/sparse/{_escaped(name)}") for name, value in sparse.items()]
        faults += [_number_fault(value, -FLOAT32_MAX, f"{at}/dense/{_escaped(name)}") for name, value in dense.items()]
        return next(filter(None, faults), None)

    def _slot_fault(self, name: str, value: object, at: str) -> Fault | None:
        if not isinstance(value, list) or not self._multi[name]:
            expected = "text, an integer, null" + (" or a list of those" if self._multi[name] else "")
            return None if type(value) in {int, str, type(None)} else _wrong(value, expected, at)
        if len(value) > self._max_values:
            message = f"got {len(value)} values; expected at most {self._max_values}"
            return Fault(Reason.TOO_MANY_VALUES, message, at)
        for i, entry in enumerate(value):
            if type(entry) not in {int, str, type(None)}:
                return _wrong(entry, "text, an integer or null", f"{at}/{i}")
        return None


def _number_fault(value: object, least: float, at: str) -> Fault | None:
    if value is None:
        return None
    if type(value) is not int and type(value) is not float:
        return _wrong(value, "a number or null", at)
    if type(value) is float and not math.isfinite(value):
        return Fault(Reason.NOT_FINITE, f"got {value}; expected a finite number or null", at)
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 300 digits
        number = math.inf
    if not least <= number <= FLOAT32_MAX:
        return Fault(Reason.OUT_OF_RANGE, f"got {shown(value)}; expected {least:g} to {FLOAT32_MAX:g}", at)
    return None


def _unknown(value: dict[str, Any], known: Collection[str], reason: Reason, what: str, at: str) -> Fault | None:
    for name in value:
        if name not in known:
            shown_names = ", ".join(sorted(known)[:20])
            return Fault(reason, f"unknown {what} {shown(name)}; expected one of {shown_names or 'none'}", at)
    return None


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
