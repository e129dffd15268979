import inspect
import struct
from collections.abc import Callable

import pyarrow as pa
import pytest

from model_contract import errors
from model_contract.arrow_samples import encode_arrow
from model_contract.increment import decode, encode
from model_contract.increment_content import Increment, IncrementHeader, IncrementLimits
from model_contract.increment_header import header_bytes, parse_header
from model_contract.prediction_request import PredictionRequestDecoder
from model_contract.schema import ModelSchema, SparseSlot

SCHEMA = ModelSchema("m", (SparseSlot("user"),))
HEADER = IncrementHeader("base", "f", "l", 1, 7, 7, 0)
GOOD = encode(Increment(HEADER, (), pa.array([], pa.uint64()).to_numpy(), ()))


def with_prefix(version: int, header_bytes: int) -> bytes:
    return struct.pack("<8sIII", b"DIMFLOW1", version, header_bytes, 0)


def _no_ids() -> object:
    return decode(GOOD).tombstones


def _header_with_a_gap() -> object:
    text = header_bytes(decode(GOOD))
    return parse_header(text.replace(b'"buffer_bytes":0', b'"buffer_bytes":8'), IncrementLimits())


RAISES: dict[str, Callable[[], object]] = {
    "SchemaError": lambda: ModelSchema("m", ()),
    "SampleError": lambda: encode_arrow(pa.table({"user": [1]}), SCHEMA),
    "RequestError": lambda: PredictionRequestDecoder(SCHEMA).decode(b"{}"),
    "RequestTooLarge": lambda: PredictionRequestDecoder(SCHEMA, max_bytes=3).decode(b"{}  "),
    "BadMagic": lambda: decode(b"x" * 20),
    "UnsupportedVersion": lambda: decode(with_prefix(9, 0)),
    "HeaderTooLarge": lambda: decode(with_prefix(2, 2**31)),
    "Truncated": lambda: decode(GOOD[:10]),
    "BadChecksum": lambda: decode(GOOD[:-1]),
    "LimitExceeded": lambda: decode(GOOD, limits=IncrementLimits(max_bytes=30)),
    "SchemaMismatch": lambda: decode(GOOD, expected_fingerprint="g"),
    "BadHeader": lambda: encode(Increment(IncrementHeader("base", "f", "", 1, 7, 7, 0), (), _no_ids(), ())),
    "InvalidContent": lambda: encode(Increment(IncrementHeader("base", "f", "l", 1, 7, 8, 0), (), _no_ids(), ())),
    "BadRanges": _header_with_a_gap,
}


@pytest.mark.parametrize("name", sorted(RAISES))
def test_each_kind_is_raised(name: str) -> None:
    kind = getattr(errors, name)
    with pytest.raises(errors.DimflowError) as caught:
        RAISES[name]()
    assert type(caught.value) is kind
    assert str(caught.value)


def test_no_kind_is_left_out() -> None:
    parents = {"DimflowError", "ContractError", "IncrementError"}
    assert set(errors.__all__) == set(RAISES) | parents
    assert {name for name, value in vars(errors).items() if inspect.isclass(value)} == set(errors.__all__)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    lines = [line for line in (errors.__doc__ or "").splitlines() if "Error " in line or "──" in line]
    depth_of: list[tuple[int, str]] = []
    for line in lines:
        name = line.lstrip(" │├└─").split()[0]
        depth_of.append(((len(line) - len(line.lstrip(" │├└─"))) // 4, name))
    assert [name for _, name in depth_of[:1]] == ["DimflowError"]
    assert {name for _, name in depth_of} == set(errors.__all__)
    stack: list[str] = []
    for depth, name in depth_of:
        stack[depth:] = [name]
        if depth:
            assert stack[depth - 1] in {base.__name__ for base in getattr(errors, name).__bases__}


def test_reasons_of_increment_errors_differ() -> None:
    kinds = errors.IncrementError.__subclasses__()
    assert len({kind.reason for kind in kinds}) == len(kinds)


def test_attributes_and_messages() -> None:
    sample = errors.SampleError("wrong_type", "got 1")
    assert (sample.reason, sample.detail, str(sample)) == ("wrong_type", "got 1", "wrong_type: got 1")
    request = errors.RequestError("got 1", "/a/0")
    assert (request.detail, request.pointer, str(request)) == ("got 1", "/a/0", "got 1 (at '/a/0')")
    assert str(errors.RequestError("got 1")) == "got 1"
    assert isinstance(errors.SchemaError("x"), ValueError)
