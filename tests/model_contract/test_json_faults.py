import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model_contract.json_faults import Fault, JsonFaults, shown
from model_contract.json_forms import FLOAT32_MAX, TS_MS_MAX, request_form, sample_form
from model_contract.samples import Reason
from model_contract.schema import ModelSchema

MAX_VALUES = 3

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([2**63, 2**64, -(2**63) - 1, TS_MS_MAX, TS_MS_MAX + 1, 10**38, 10**39, 10**400])
    | st.floats()
    | st.sampled_from([0.0, 1.0, FLOAT32_MAX, FLOAT32_MAX * 1.0000001, -FLOAT32_MAX, 1e39])
    | st.text(max_size=3)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner)
)
good_value = st.none() | st.integers() | st.text(max_size=3)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, anything)


features = {
    "sparse": mostly(
        st.fixed_dictionaries(
            {},
            optional={
                "user": mostly(good_value),
                "tags": mostly(st.lists(mostly(good_value), max_size=4)),
                "a/b.c": mostly(good_value),
                "other": anything,
            },
        )
    ),
    "dense": mostly(
        st.fixed_dictionaries({}, optional={"price": scalars, "age": mostly(st.floats(-9, 9)), "no": anything})
    ),
}
sample = mostly(
    st.fixed_dictionaries(
        {},
        optional={
            "label": mostly(st.sampled_from([0, 1])),
            "id": mostly(good_value),
            "ts_ms": scalars,
            "weight": scalars,
            **features,
            "more": anything,
        },
    )
)
instance = mostly(st.fixed_dictionaries({}, optional={**features, "label": anything}))
request = mostly(
    st.fixed_dictionaries({}, optional={"instances": mostly(st.lists(instance, max_size=2)), **features, "x": anything})
)


def accepts(form: type[Any], text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=form)
    except (ValueError, RecursionError):
        return False
    return True


@given(sample)
@example({"label": 1, "weight": FLOAT32_MAX, "ts_ms": TS_MS_MAX})
@example({"label": 1, "sparse": {"tags": [1, 2, 3]}})
@example({"label": 1, "dense": {"price": int(FLOAT32_MAX) + 1}})
def test_samples_are_accepted_exactly_when_no_fault_is_found(schema: ModelSchema, value: Any) -> None:
    text = json.dumps(value).encode()
    fault = JsonFaults(schema, MAX_VALUES).in_sample(text)
    assert accepts(sample_form(schema, MAX_VALUES), text) == (fault is None), fault


@given(request)
def test_requests_are_accepted_exactly_when_no_fault_is_found(schema: ModelSchema, value: Any) -> None:
    text = json.dumps(value).encode()
    fault = JsonFaults(schema, MAX_VALUES).in_request(text)
    assert accepts(request_form(schema, MAX_VALUES).body, text) == (fault is None), fault


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,0123456789eE.-+ \t\r\n\\ualbeNI', max_size=20).map(str.encode))
def test_texts_that_are_no_samples_have_a_fault(schema: ModelSchema, text: bytes) -> None:
    fault = JsonFaults(schema, MAX_VALUES).in_sample(text)
    assert accepts(sample_form(schema, MAX_VALUES), text) == (fault is None)


@pytest.mark.parametrize(
    ("value", "fault_pointer"),
    [
        ({"instances": [{}, {"sparse": {"tags": [1, 2.5]}}]}, "/instances/1/sparse/tags/1"),
        ({"instances": [{"dense": {"price": "x"}}]}, "/instances/0/dense/price"),
        ({"instances": [3]}, "/instances/0"),
        ({"instances": {}}, "/instances"),
        ({"instances": [], "sparse": {"a/b.c": 1.5}}, "/sparse/a~1b.c"),
        ({"sparse": {"user": []}}, "/sparse/user"),
        ([], ""),
    ],
)
def test_pointers_lead_to_the_fault(schema: ModelSchema, value: Any, fault_pointer: str) -> None:
    fault = JsonFaults(schema, MAX_VALUES).in_request(json.dumps(value).encode())
    assert fault is not None
    assert fault.pointer == fault_pointer


def test_line_holds_place_and_detail() -> None:
    assert Fault(Reason.WRONG_TYPE, "got 1", "/a").line == "/a: got 1"
    assert Fault(Reason.WRONG_TYPE, "got 1", "").line == "got 1"


def test_long_values_are_cut() -> None:
    assert len(shown("x" * 1000)) < 100
    assert len(shown(10**4000)) < 100
    assert shown(7) == "7"
