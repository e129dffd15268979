"""Notes beside the head: what was written is read back, and nothing else is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_contract.errors import BadHeader
from model_contract.published_versions import Hold, Pin, StoredBase, parse_note, version_name

BASE = StoredBase(lineage="abc-1", sequence=7, epoch=2, chunks=1, size_bytes=9, fingerprint="f", metrics={"auc": 0.7})
NOTES = [BASE, Pin(base=BASE, by="ops", since_ms=5), Hold(reason="log_loss", detail="ü", since_ms=5, sequence=8)]


@pytest.mark.parametrize("note", NOTES, ids=["base", "pin", "hold"])
def test_a_note_comes_back_as_it_was_written(note: msgspec.Struct) -> None:
    assert parse_note(type(note), msgspec.json.encode(note)) == note


def test_absent_and_empty_are_no_note() -> None:
    assert parse_note(Pin, None) is None
    assert parse_note(Pin, b"") is None


@given(st.binary(min_size=1))
def test_any_bytes_at_all_are_a_note_or_an_error_of_the_contract(data: bytes) -> None:
    with pytest.raises(BadHeader, match="hold"):
        parse_note(Hold, data)


def test_a_version_is_named_by_lineage_and_sequence() -> None:
    assert BASE.version == version_name("abc-1", 7) == "abc-1-7"
