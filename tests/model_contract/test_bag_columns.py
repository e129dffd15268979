import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_contract.bag_columns import SlotColumn, assemble_bags, ids_of, interleaved_bags
from model_contract.errors import SampleError
from model_contract.feature_id import feature_id, missing_id, slot_seed
from model_contract.samples import Reason

SEED = slot_seed("s")


def expected(values: list[object]) -> list[int]:
    return [missing_id("s") if value is None else feature_id("s", value) for value in values]  # type: ignore[arg-type]


TYPES = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("with_null", [False, True])
def test_integers_of_every_type(kind: pa.DataType, with_null: bool) -> None:
    info = np.iinfo(kind.to_pandas_dtype())
    values = [info.min, 0, 1, 12, info.max, *([None] if with_null else [])]
    array = pa.array(values, kind)
    assert ids_of(array, SEED).tolist() == expected(values)
    assert ids_of(array.slice(2, 2), SEED).tolist() == expected(values[2:4])
    assert ids_of(array.slice(3), SEED).tolist() == expected(values[3:])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
@given(values=st.lists(st.none() | st.text(max_size=40), max_size=10), data=st.data())
def test_texts(kind: pa.DataType, values: list[str | None], data: st.DataObject) -> None:
    array = pa.array(values, kind)
    start = data.draw(st.integers(0, len(values)))
    assert ids_of(array, SEED).tolist() == expected(list(values))
    assert ids_of(array.slice(start), SEED).tolist() == expected(list(values[start:]))


@given(st.lists(st.none() | st.sampled_from(["", "a", "bb"]), max_size=10))
def test_dictionaries(values: list[str | None]) -> None:
    array = pa.array(values, pa.string()).dictionary_encode()
    assert ids_of(array, SEED).tolist() == expected(list(values))


def test_dictionaries_with_nulls_among_their_words_and_of_integers() -> None:
    words = pa.array(["a", None], pa.string())
    array = pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.int8()), words)
    assert ids_of(array, SEED).tolist() == expected([None, "a", None])
    array = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.uint16()), pa.array([7, -8], pa.int32()))
    assert ids_of(array, SEED).tolist() == expected([-8, 7, -8])


def test_dictionaries_of_nothing_are_missing() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int8()), pa.nulls(1))
    assert ids_of(array, SEED).tolist() == expected([None, None])


def test_nulls_and_nothing() -> None:
    assert ids_of(pa.nulls(3), SEED).tolist() == [missing_id("s")] * 3
    for kind in (pa.string(), pa.int64(), pa.null()):
        assert ids_of(pa.array([], kind), SEED).tolist() == []


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1.0]),
        pa.array([True]),
        pa.array([b"x"]),
        pa.array([["a"]]),
        pa.array([{"a": 1}]),
        pa.array([1], pa.timestamp("ms")),
        pa.array([1.5]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_other_types_are_refused(array: pa.Array) -> None:
    with pytest.raises(SampleError) as caught:
        ids_of(array, SEED)
    assert caught.value.reason == Reason.WRONG_TYPE


def test_interleaved_bags_are_the_bags_of_single_columns() -> None:
    seeds = np.array([slot_seed("x"), slot_seed("y")], np.uint64)
    bags = interleaved_bags(pa.array(["a", "b", None, "", "ü", "a"], pa.large_string()), seeds)
    columns = [
        SlotColumn(ids_of(pa.array(v), s)) for v, s in zip((["a", None, "ü"], ["b", "", "a"]), seeds, strict=True)
    ]
    same = assemble_bags(columns, np.zeros(2, np.uint64))
    np.testing.assert_array_equal(bags.ids, same.ids)
    np.testing.assert_array_equal(bags.offsets, same.offsets)


@given(st.data())
def test_bags_are_interleaved_and_never_empty(data: st.DataObject) -> None:
    slots, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 5))
    missing = np.arange(1, slots + 1, dtype=np.uint64) * np.uint64(1000)
    number = iter(range(1, 1000))
    bags_of_slot: list[list[list[int]]] = []
    columns = []
    for _ in range(slots):
        single = data.draw(st.booleans())
        lengths = [1 if single else data.draw(st.integers(0, 3)) for _ in range(rows)]
        bags_of_slot.append([[next(number) for _ in range(length)] for length in lengths])
        ids = np.array([i for bag in bags_of_slot[-1] for i in bag], np.uint64)
        columns.append(SlotColumn(ids, None if single else np.array(lengths, np.int64)))
    bags = assemble_bags(columns, missing)
    seen = [bags.ids[a:b].tolist() for a, b in zip(bags.offsets[:-1], bags.offsets[1:], strict=True)]
    assert seen == [bags_of_slot[s][b] or [int(missing[s])] for b in range(rows) for s in range(slots)]
    assert bags.offsets.dtype == np.int64
    assert bags.ids.dtype == np.uint64
