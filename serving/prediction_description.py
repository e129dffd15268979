"""`POST /predict` as OpenAPI describes it, made from the model's schema and the server's limits.

Knows no route: the endpoint runs beside the framework, so its description is written here and not derived from types.
Invariant: what the description allows is what `model_contract.prediction_request` takes.
"""

from typing import Any

from model_contract.schema import ModelSchema
from serving.problem import PROBLEM_TYPE
from serving.settings import ServingSettings

__all__ = ["describe_prediction", "example_instance"]

_VALUE = {"type": ["string", "integer", "null"]}
_PROBLEMS = {
    "400": "The body is not JSON.",
    "408": "The request did not arrive in time.",
    "413": "The body, its instances or the values of a slot are too many.",
    "415": "The body is not `application/json`.",
    "422": "The JSON does not fit the model; `pointer` says where.",
    "503": "No model is loaded yet, or the server is busy; try again after `Retry-After` seconds.",
}


def describe_prediction(schema: ModelSchema, settings: ServingSettings) -> dict[str, Any]:
    """The OpenAPI 3.1 path item of `/predict`."""
    instance = _instance(schema, settings)
    instances = {"type": "array", "minItems": 1, "maxItems": settings.max_instances, "items": instance}
    many = {"type": "object", "required": ["instances"], "properties": {"instances": instances}}
    body = {
        "oneOf": [
            many | {"additionalProperties": False, "title": "Many"},
            instance | {"minProperties": 1, "title": "One"},
        ]
    }
    responses: dict[str, Any] = {
        status: {"description": text, "content": {PROBLEM_TYPE: {"schema": _problem()}}}
        for status, text in _PROBLEMS.items()
    }
    responses["200"] = {
        "description": "One probability for each instance, in order, all from one version of the model.",
        "content": {"application/json": {"schema": _answer()}},
    }
    return {
        "post": {
            "summary": "Score one or many instances",
            "description": (
                f"Probabilities of label 1 by the model `{schema.name}`. A feature left out, null or empty counts as "
                "missing; a value never seen in training is scored by the slot's missing row."
            ),
            "operationId": "predict",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": body, "example": {"instances": [example_instance(schema)]}}},
            },
            "responses": responses,
        }
    }


def _instance(schema: ModelSchema, settings: ServingSettings) -> dict[str, Any]:
    values = {"type": "array", "maxItems": settings.max_values, "items": _VALUE}
    sparse = {slot.name: {"anyOf": [_VALUE, values]} if slot.multi else _VALUE for slot in schema.sparse}
    dense = {name: {"type": ["number", "null"]} for name in schema.dense_names}
    properties = {
        "sparse": {"type": "object", "additionalProperties": False, "properties": sparse},
        "dense": {"type": "object", "additionalProperties": False, "properties": dense},
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def example_instance(schema: ModelSchema) -> dict[str, Any]:
    """One instance with a value for every feature."""
    sparse: dict[str, Any] = {slot.name: ["1", "2"] if slot.multi else "1" for slot in schema.sparse}
    example: dict[str, Any] = {"sparse": sparse}
    if schema.dense:
        example["dense"] = dict.fromkeys(schema.dense_names, 0.5)
    return example


def _answer() -> dict[str, Any]:
    model = {
        "name": {"type": "string"},
        "lineage": {"type": "string"},
        "version": {"type": "string", "description": "lineage and sequence: one state of the model, for good"},
        "sequence": {"type": "integer"},
        "age_ms": {"type": "integer", "description": "milliseconds since the trainer cut this version"},
    }
    probabilities = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
    return {
        "type": "object",
        "required": ["probabilities", "model"],
        "properties": {
            "probabilities": probabilities,
            "model": {"type": "object", "required": list(model), "properties": model},
        },
    }


def _problem() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "pointer": {"type": "string", "description": "JSON pointer (RFC 6901) into the body"},
        },
    }
