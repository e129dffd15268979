import msgspec
import pytest

from model_contract.json_forms import dense_field, request_form, sample_form, sparse_field
from model_contract.schema import ModelSchema


def test_fields_of_a_sample(schema: ModelSchema) -> None:
    form = sample_form(schema, 2)
    sample = msgspec.json.decode(
        b'{"label":1,"id":"x","ts_ms":5,"weight":2,"sparse":{"a/b.c":"v","tags":[1,"b"]},"dense":{"age":3}}', type=form
    )
    assert (sample.label, sample.id, sample.ts_ms, sample.weight) == (1, "x", 5, 2.0)
    assert [getattr(sample.sparse, sparse_field(i)) for i in range(3)] == [None, [1, "b"], "v"]
    assert [getattr(sample.dense, dense_field(i)) for i in range(3)] == [None, 3.0, None]


def test_absent_fields_of_a_sample_have_defaults(schema: ModelSchema) -> None:
    left, right = (msgspec.json.decode(b'{"label":0}', type=sample_form(schema, 2)) for _ in range(2))
    assert (left.id, left.ts_ms, left.weight) == (None, None, None)
    assert left.sparse is not right.sparse


def test_attribute_names_are_no_json_names(schema: ModelSchema) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"label":1,"sparse":{"s0":1}}', type=sample_form(schema, 2))


def test_absent_fields_of_a_request_are_unset(schema: ModelSchema) -> None:
    form = request_form(schema, 2)
    body = msgspec.json.decode(b'{"instances":[{},{"sparse":{"user":1}}]}', type=form.body)
    assert body.sparse is msgspec.UNSET
    assert body.dense is msgspec.UNSET
    assert [type(instance) for instance in body.instances] == [form.instance] * 2
    assert body.instances[1].sparse.s0 == 1
