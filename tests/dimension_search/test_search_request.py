"""A request for a search: whole, taken once, refused with a reason where it is broken."""

import json
import logging
from pathlib import Path

import pytest

from dimension_search.errors import SearchError
from dimension_search.search_request import SearchMode, SearchRequest, ask, take, withdraw


@pytest.mark.parametrize("mode", ["plan-only", "apply"])
def test_a_request_is_taken_once(tmp_path: Path, mode: SearchMode) -> None:
    assert take(tmp_path) is None
    ask(tmp_path, mode, 1234)

    assert json.loads((tmp_path / "search.request").read_text()) == {"mode": mode, "asked_ms": 1234}
    assert take(tmp_path) == SearchRequest(mode=mode, asked_ms=1234)
    assert take(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_later_request_replaces_an_earlier_one(tmp_path: Path) -> None:
    ask(tmp_path, "plan-only", 1)
    ask(tmp_path, "apply", 2)

    assert take(tmp_path) == SearchRequest(mode="apply", asked_ms=2)
    assert take(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"apply",
        b"\xff\xfe",
        b'{"mode": "apply"}',
        b'{"mode": "widen", "asked_ms": 1}',
        b'{"mode": "apply", "asked_ms": "1"}',
        b'{"mode": "apply", "asked_ms": 1, "force": true}',
        b'{"mode": "apply", "asked_ms": 1' + b" " * 10_000 + b"}",
    ],
)
def test_a_broken_request_is_removed_and_refused_with_its_reason(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "search.request").write_bytes(text)
    with caplog.at_level(logging.WARNING):
        assert take(tmp_path) is None

    assert [record.message.split(" is refused: ")[0] for record in caplog.records] == [str(tmp_path / "search.request")]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"state_dir: .*absent: No such file or directory, expected a folder"):
        ask(tmp_path / "absent", "apply", 1)
    assert take(tmp_path / "absent") is None


def test_a_request_can_be_withdrawn_until_it_is_taken(tmp_path: Path) -> None:
    ask(tmp_path, "apply", 1)

    assert withdraw(tmp_path)
    assert take(tmp_path) is None
    assert not withdraw(tmp_path)
