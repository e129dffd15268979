import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_contract.errors import RequestError, RequestTooLarge
from model_contract.json_samples import JsonSampleDecoder
from model_contract.prediction_request import PredictionRequestDecoder
from model_contract.samples import SampleBatch
from model_contract.schema import ModelSchema

Plain = Callable[[ModelSchema, list[dict[str, Any]]], SampleBatch]
Same = Callable[[SampleBatch, SampleBatch], None]
AsJson = Callable[[Any], bytes]

INSTANCES: list[dict[str, Any]] = [
    {"sparse": {"user": 7, "tags": ["a", 3], "a/b.c": "x"}, "dense": {"price": 2.5}},
    {},
    {"sparse": {"tags": []}, "dense": {}},
    {"dense": {"age": None, "raw": 1}},
]


@pytest.fixture(scope="module")
def decoder(schema: ModelSchema) -> PredictionRequestDecoder:
    return PredictionRequestDecoder(schema, max_instances=50, max_values=3, max_bytes=10_000)


def test_instances_decode_as_the_plain_decoder_does(
    decoder: PredictionRequestDecoder, schema: ModelSchema, plain: Plain, same_batch: Same, as_json: AsJson
) -> None:
    same_batch(decoder.decode(as_json({"instances": INSTANCES})), plain(schema, INSTANCES))


def test_one_instance_needs_no_list(
    decoder: PredictionRequestDecoder, schema: ModelSchema, plain: Plain, same_batch: Same, as_json: AsJson
) -> None:
    for instance in (INSTANCES[0], INSTANCES[2], INSTANCES[3], {"sparse": {"user": 1}}):
        same_batch(decoder.decode(as_json(instance)), plain(schema, [instance]))


def test_an_instance_means_what_a_sample_means(
    decoder: PredictionRequestDecoder, schema: ModelSchema, same_batch: Same, as_json: AsJson
) -> None:
    samples = JsonSampleDecoder(schema).decode([as_json({"label": 0, **instance}) for instance in INSTANCES])
    same_batch(decoder.decode(as_json({"instances": INSTANCES})), samples.batch)


@pytest.mark.parametrize(
    ("body", "kind", "pointer", "words"),
    [
        (b"", RequestError, "", "not JSON"),
        (b"{", RequestError, "", "not JSON"),
        (b"[]", RequestError, "", "expected an object"),
        (b"{}", RequestError, "", "neither instances nor sparse nor dense"),
        (b'{"instances":[]}', RequestError, "/instances", "expected at least one"),
        (b'{"instances":{}}', RequestError, "/instances", "expected a list"),
        (b'{"instances":[{}],"dense":{}}', RequestError, "", "instances beside dense"),
        (b'{"instances":[{},{"label":1}]}', RequestError, "/instances/1", "unknown field 'label'"),
        (b'{"instances":[{"sparse":{"usr":1}}]}', RequestError, "/instances/0/sparse", "unknown slot 'usr'"),
        (b'{"sparse":{"user":1.5}}', RequestError, "/sparse/user", "got float 1.5"),
        (b'{"dense":{"price":NaN}}', RequestError, "", "NaN"),
        (b'{"dense":{"price":1e39}}', RequestError, "/dense/price", "expected"),
        (b'{"inputs":[]}', RequestError, "", "unknown field 'inputs'"),
        (b'{"sparse":3,"sparse":{}}', RequestError, "", "sparse"),  # a key given twice, first wrong and then right
        (b'{"sparse":{"tags":[1,2,3,4]}}', RequestTooLarge, "/sparse/tags", "at most 3"),
        (b'{"instances":[' + b"{}," * 50 + b"{}]}", RequestTooLarge, "/instances", "got 51 instances"),
        (b'{"sparse":{}}'.ljust(10_001), RequestTooLarge, "", "body of 10001 bytes"),
    ],
)
def test_a_wrong_body_says_what_is_wrong_and_where(
    decoder: PredictionRequestDecoder, body: bytes, kind: type[RequestError], pointer: str, words: str
) -> None:
    with pytest.raises(RequestError) as caught:
        decoder.decode(body)
    assert type(caught.value) is kind
    assert caught.value.pointer == pointer
    assert words in caught.value.detail


@given(
    st.binary(max_size=50)
    | st.recursive(st.none() | st.floats() | st.text(max_size=3), st.lists).map(
        lambda value: json.dumps({"instances": value}).encode()
    )
)
def test_any_body_at_all_is_decoded_or_refused(decoder: PredictionRequestDecoder, body: bytes) -> None:
    try:
        assert decoder.decode(body).rows > 0
    except RequestError as error:
        assert error.detail
