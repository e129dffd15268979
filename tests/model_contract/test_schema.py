from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_contract.errors import SchemaError
from model_contract.feature_id import missing_id
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot

MODELS = Path(__file__).resolve().parents[2] / "dimflow" / "models"

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,9}", fullmatch=True).filter(
    lambda name: name not in {"id", "ts_ms", "label", "weight"}
)


@st.composite
def schemas(draw: st.DrawFn) -> ModelSchema:
    chosen = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    cut = draw(st.integers(1, len(chosen)))
    widths = st.lists(st.integers(1, 2048), max_size=3).map(tuple)
    return ModelSchema(
        draw(st.sampled_from(["m", "a.b-c_1"])),
        tuple(SparseSlot(n, draw(st.sampled_from(["sum", "mean"])), draw(st.booleans())) for n in chosen[:cut]),
        tuple(DenseFeature(n, draw(st.sampled_from(["none", "log1p", "standardise"]))) for n in chosen[cut:]),
        draw(st.integers(1, 256)),
        draw(widths) if cut < len(chosen) else (),
        draw(widths),
        draw(st.sampled_from(["zero_pad", "linear"])),
    )


@given(schemas())
def test_json_round_trip_keeps_schema_and_fingerprint(schema: ModelSchema) -> None:
    again = ModelSchema.from_json(schema.to_json())
    assert again == schema
    assert again.fingerprint == schema.fingerprint
    assert len(schema.fingerprint) == 16
    assert again.to_json() == schema.to_json()


@given(schemas(), schemas())
def test_fingerprints_differ_exactly_when_schemas_do(left: ModelSchema, right: ModelSchema) -> None:
    assert (left == right) == (left.fingerprint == right.fingerprint)


def test_derived_arrays(schema: ModelSchema) -> None:
    assert schema.slot_names == ("user", "tags", "a/b.c")
    assert schema.pooling_codes.dtype == np.int8
    assert schema.pooling_codes.tolist() == [0, 1, 0]
    assert schema.missing_ids.dtype == np.uint64
    assert schema.missing_ids.tolist() == [missing_id(name) for name in schema.slot_names]
    with pytest.raises(ValueError, match="read-only"):
        schema.missing_ids[0] = 1


def test_a_model_file_gives_what_it_says() -> None:
    text = """
    [model]
    name = "m"
    dim = 8
    bottom = [32]
    top = [64, 16]
    [[sparse]]
    name = "user"
    [[sparse]]
    name = "genres"
    pooling = "mean"
    multi = true
    [[dense]]
    name = "year"
    transform = "standardise"
    """
    expected = ModelSchema(
        "m",
        (SparseSlot("user"), SparseSlot("genres", "mean", True)),
        (DenseFeature("year", "standardise"),),
        8,
        (32,),
        (64, 16),
    )
    assert ModelSchema.parse_toml(text) == expected


def test_model_files_of_the_package() -> None:
    globo, movielens, criteo = (
        ModelSchema.parse_toml((MODELS / f"{name}.toml").read_text()) for name in ("globo", "movielens", "criteo")
    )
    assert globo.slot_names == tuple("user article environment device os country region referrer hour".split())
    assert (globo.dense, globo.dim, globo.bottom, globo.top) == ((), 16, (), (128, 64))
    assert movielens.slot_names == tuple("user movie gender age occupation zip3 genres".split())
    assert movielens.sparse[-1] == SparseSlot("genres", "mean", True)
    assert movielens.dense == (DenseFeature("year", "standardise"),)
    assert criteo.slot_names == tuple(f"c{i}" for i in range(1, 27))
    assert criteo.dense == tuple(DenseFeature(f"i{i}", "log1p") for i in range(1, 14))


ONE = '[[sparse]]\nname = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model", "cannot be read as TOML"),
        ('[model]\nname = "m"\n', "lacks the key 'sparse'"),
        (ONE, "lacks the key 'model'"),
        ("[model]\ndim = 4\n" + ONE, "lacks the key 'name'"),
        ('[model]\nname = "m"\nwidth = 4\n' + ONE, r"\[model\] has the unknown key 'width'"),
        ('[model]\nname = "m"\n[other]\n' + ONE, "unknown key 'other'"),
        ('[model]\nname = "m"\n[[sparse]]\npooling = "sum"\n', r"\[\[sparse\]\] number 1 lacks the key 'name'"),
        ('[model]\nname = "m"\n' + ONE + "size = 3\n", "number 1 has the unknown key 'size'"),
        ('[model]\nname = "m"\n[sparse]\nname = "a"\n', "sparse is .*; expected a list of tables"),
        ('[model]\nname = "m"\n' + ONE + 'pooling = "max"\n', "pooling of sparse a is 'max'; expected 'sum' or 'mean'"),
        ('[model]\nname = "m"\n' + ONE + "multi = 1\n", "multi of sparse a is 1; expected true or false"),
        (
            '[model]\nname = "m"\n' + ONE + '[[dense]]\nname = "x"\ntransform = "sqrt"\n',
            "transform of dense x is 'sqrt'",
        ),
        ('[model]\nname = "m"\n' + ONE + ONE, "feature name is 'a'; expected a name that no other"),
        ('[model]\nname = "m"\n' + ONE + '[[dense]]\nname = "a"\n', "feature name is 'a'"),
        ('[model]\nname = "m"\n[[sparse]]\nname = "label"\n', "sparse name is 'label'"),
        ('[model]\nname = "m"\n[[sparse]]\nname = "a b"\n', "sparse name is 'a b'"),
        ('[model]\nname = "m"\n[[sparse]]\nname = 3\n', "sparse name is 3"),
        ('[model]\nname = "m/n"\n' + ONE, "model name is 'm/n'"),
        ('[model]\nname = "m"\ndim = 0\n' + ONE, "dim is 0; expected an integer from 1"),
        ('[model]\nname = "m"\ndim = true\n' + ONE, "dim is True"),
        ('[model]\nname = "m"\ntop = 64\n' + ONE, "top is 64; expected a list of widths"),
        ('[model]\nname = "m"\ntop = [64, 0]\n' + ONE, r"top\[1\] is 0"),
        ('[model]\nname = "m"\nbottom = [8]\n' + ONE, "bottom is .8.; expected nothing"),
        ('[model]\nname = "m"\nalign = "pad"\n' + ONE, "align is 'pad'; expected 'zero_pad' or 'linear'"),
        ('[model]\nname = "m"\nalign = ["linear"]\n' + ONE, "align is .'linear'.; expected"),
        ("model = 3\n" + ONE, r"\[model\] is 3; expected a table"),
    ],
)
def test_a_wrong_model_file_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        ModelSchema.parse_toml(text)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", '{"name":"m"}', '{"name":"m","sparse":{}}', "[" * 100_000])
def test_wrong_schema_json_is_refused(text: str) -> None:
    with pytest.raises(SchemaError):
        ModelSchema.from_json(text)


def test_a_model_without_slots_is_refused() -> None:
    with pytest.raises(SchemaError, match="number of sparse slots is 0"):
        ModelSchema("m", ())


def test_zero_pad_has_the_fingerprint_from_before_there_was_a_choice() -> None:
    plain = ModelSchema("m", (SparseSlot("a"), SparseSlot("b")), dim=4)
    assert "align" not in plain.to_json()
    assert plain == ModelSchema.parse_toml(
        '[model]\nname = "m"\ndim = 4\nalign = "zero_pad"\n' + ONE + '[[sparse]]\nname = "b"\n'
    )
    linear = ModelSchema.from_json(plain.to_json()[:-1] + ',"align":"linear"}')
    assert linear.align == "linear"
    assert linear.fingerprint != plain.fingerprint
