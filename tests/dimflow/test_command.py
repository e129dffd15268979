"""The command line: what leads where, what is refused, what each word may import."""

import subprocess
import sys

import pytest

from dimflow.command import main

WORDS = ["demo", "train", "serve", "produce", "inspect", "checkpoint", "search"]


@pytest.mark.parametrize("word", WORDS)
def test_every_word_explains_itself(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word, "--help"])

    assert ended.value.code == 0
    assert f"dimflow {word}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train"], "DIMFLOW_TRAINER_MODEL_FILE: got None"),
        (["train", "--model-file", "absent.toml", "--state-dir", "x"], "DIMFLOW_TRAINER_MODEL_FILE: got 'absent.toml'"),
        (["serve", "--port", "http"], "DIMFLOW_SERVING_PORT: got 'http', expected a value of type int"),
        (["inspect", "model", "absent.toml"], "--model-file: got 'absent.toml'"),
    ],
)
def test_a_refused_setting_ends_with_two_and_its_name(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DIMFLOW_TRAINER_MODEL_FILE", "DIMFLOW_SERVING_MODEL_FILE"):
        monkeypatch.delenv(name, raising=False)
    if arguments[0] == "serve":
        arguments = [*arguments, "--model-file", "x.toml"]

    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_an_unknown_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fly"])

    assert ended.value.code == 2
    assert "invalid choice: 'fly'" in capsys.readouterr().err


def test_an_ending_by_the_projects_own_error_is_one_line(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "state", str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err.startswith("dimflow inspect: state_dir: ")


@pytest.mark.parametrize(
    ("word", "forbidden"),
    [
        ("serve", ["torch", "faust", "kafka", "aiokafka"]),
        ("produce", ["torch", "faust", "fastapi"]),
        ("search", ["torch", "faust", "fastapi", "kafka", "redis"]),
    ],
)
def test_a_word_imports_only_what_it_needs(word: str, forbidden: list[str]) -> None:
    needed = {"serve": "serving.process", "produce": "dimflow.produce_command"}.get(word, f"dimflow.{word}_command")
    program = f"""
import sys
from dimflow.command import main
import {needed}
found = [name for name in {forbidden!r} if name in sys.modules]
sys.exit(", ".join(found) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=False, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
