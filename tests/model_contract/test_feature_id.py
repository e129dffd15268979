import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from model_contract.feature_id import (
    feature_id,
    hash_integers,
    hash_interleaved_texts,
    hash_texts,
    hash_unsigned,
    missing_id,
    slot_seed,
    xxh64,
)

NONE_MISSING = np.empty(0, np.bool_)


def by_definition(slot: str, text: str) -> int:
    return xxhash.xxh64_intdigest(text.encode(), seed=xxhash.xxh64_intdigest(slot.encode(), seed=0)) or 1


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_xxh64_is_the_published_function(data: bytes, seed: int) -> None:
    padded = np.frombuffer(b"?" + data + b"?", np.uint8)  # neighbours must not be read into the hash
    assert int(xxh64(padded, 1, 1 + len(data), np.uint64(seed))) == xxhash.xxh64_intdigest(data, seed=seed)


@given(st.text(max_size=20), st.lists(st.none() | st.text(max_size=70), max_size=20))
def test_texts_hash_as_one_by_one(slot: str, texts: list[str | None]) -> None:
    encoded = [(text or "").encode() for text in texts]
    offsets = np.cumsum([0] + [len(text) for text in encoded])
    out = np.empty(len(texts), np.uint64)
    valid = np.array([text is not None for text in texts], np.bool_)
    hash_texts(np.frombuffer(b"".join(encoded), np.uint8), offsets, valid, slot_seed(slot), out)
    assert out.tolist() == [by_definition(slot, text or "") for text in texts]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_integers_hash_as_their_decimal_text(values: list[int]) -> None:
    out = np.empty(len(values), np.uint64)
    hash_integers(np.array(values, np.int64), NONE_MISSING, slot_seed("s"), out)
    assert out.tolist() == [by_definition("s", str(value)) for value in values]


@pytest.mark.parametrize("value", [0, 9, 10, 99, 100, 10**18, 10**19, 2**63, 2**64 - 1])
def test_unsigned_integers_hash_as_their_decimal_text(value: int) -> None:
    out = np.empty(2, np.uint64)
    hash_unsigned(np.array([value, 5], np.uint64), np.array([True, False]), slot_seed("s"), out)
    assert out.tolist() == [by_definition("s", str(value)), missing_id("s")]


def test_masked_integers_are_missing() -> None:
    out = np.empty(3, np.uint64)
    hash_integers(np.array([1, 2, -3], np.int64), np.array([True, False, True]), slot_seed("s"), out)
    assert out.tolist() == [feature_id("s", 1), missing_id("s"), feature_id("s", -3)]


def test_interleaved_texts_use_the_seed_of_their_slot() -> None:
    texts = ["a", "b", "c", "a", "", "c"]
    out = np.empty(6, np.uint64)
    data = np.frombuffer("".join(texts).encode(), np.uint8)
    offsets = np.cumsum([0] + [len(text) for text in texts])
    seeds = np.array([slot_seed(slot) for slot in ("x", "y", "z")], np.uint64)
    hash_interleaved_texts(data, offsets, np.array([True] * 5 + [False]), seeds, out)
    expected = [by_definition(slot, text) for slot, text in zip("xyzxyz", ["a", "b", "c", "a", "", ""], strict=True)]
    assert out.tolist() == expected


def test_integer_and_its_text_are_one_value_and_slots_differ() -> None:
    assert feature_id("user", 7) == feature_id("user", "7") == by_definition("user", "7")
    assert feature_id("user", 7) != feature_id("article", 7)
    assert missing_id("user") == feature_id("user", "")


def test_zero_is_never_an_id() -> None:
    # XXH64 of "" is avalanche(seed + PRIME64_5): only this seed makes it 0
    seed = np.uint64(2**64 - 0x27D4EB2F165667C5)
    assert xxhash.xxh64_intdigest(b"", seed=int(seed)) == 0
    out = np.empty(1, np.uint64)
    hash_texts(np.empty(0, np.uint8), np.zeros(2, np.int64), NONE_MISSING, seed, out)
    assert out.tolist() == [1]
