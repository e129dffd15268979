"""`dimflow versions | rollback | pin | unpin` on what a real publisher stored in a real Redis."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dimflow.command import main
from model_contract.published_versions import Hold
from stream_trainer.publisher import Publisher


@pytest.fixture
def model(redis_server: Any) -> Iterator[tuple[str, Publisher]]:
    name = redis_server.fresh_prefix("model")
    publisher = Publisher(redis_server.url, name, kept_bases=3, stream_increments=100)
    yield name, publisher
    publisher.close()


@pytest.fixture
def say(model: Any, redis_server: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> tuple[int, str, str]:
        code = main([words[0], "--redis", redis_server.url, "--model", model[0], *words[1:]])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_versions_are_listed_rolled_back_to_and_left_again(model: Any, say: Any) -> None:
    _, publisher = model
    facts = {"created_ms": 1_700_000_000_000, "samples_trained": 1_234_567}
    for sequence in (1, 2, 3):
        metrics = {"window_log_loss": 0.5 + sequence / 100, "window_auc": 0.75}
        publisher.replace_base("abc", 1, sequence, "f", b"base", metrics=metrics, **facts)
    publisher.append("abc", 1, 4, b"four")
    publisher.tell_hold("abc", 1, Hold(reason="log_loss", detail="twice its level", since_ms=0, sequence=5))

    code, out, _ = say("versions")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith(" abc-")] == ["abc-3", "abc-2", "abc-1"]
    assert "1,234,567 0.5300 0.7500" in " ".join(out.split())
    assert "head abc-4" in out
    assert "twice its level" in out

    code, out, _ = say("rollback", "abc-1", "--by", "ops")
    assert (code, out) == (0, f"All servers of {model[0]} serve abc-1 and stay there until `dimflow unpin`.\n")
    listed = json.loads(say("versions", "--json")[1])
    assert listed["pinned"]["version"] == "abc-1"
    assert listed["pinned"]["by"] == "ops"
    assert listed["versions"][0]["samples_trained"] == 1_234_567
    assert "pinned by ops" in say("versions")[1]

    assert json.loads(say("pin", "--json")[1])["pinned"]["version"] == "abc-3"
    assert "@" in json.loads(say("versions", "--json")[1])["pinned"]["by"]
    assert json.loads(say("unpin", "--json")[1]) == {"pinned": None}
    assert json.loads(say("versions", "--json")[1])["pinned"] is None


def test_an_unknown_version_lists_those_there_are(model: Any, say: Any) -> None:
    _, publisher = model
    publisher.replace_base("abc", 1, 1, "f", b"base")
    code, out, err = say("rollback", "abc-9")
    assert (code, out) == (1, "")
    assert err == "dimflow rollback: version abc-9: is not stored; expected one of abc-1\n"


@pytest.mark.parametrize("words", [("versions",), ("rollback", "x-1"), ("pin",), ("unpin",)])
def test_a_model_that_nobody_published_is_an_error(words: tuple[str, ...], say: Any) -> None:
    code, out, err = say(*words)
    assert (code, out) == (1, "")
    assert "no trainer has published this model yet" in err
