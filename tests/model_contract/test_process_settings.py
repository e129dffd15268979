"""Reading settings: precedence, every kind of wrong value, masks."""

import argparse
import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from model_contract.process_settings import (
    SettingError,
    add_setting_arguments,
    arguments_of,
    describe_settings,
    environment_of,
    mask_url,
    read_settings,
    setting,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    folder: Path = setting(dataclasses.MISSING, "where")
    rows: int = setting(10, "how many", minimum=1, maximum=100)
    wait_s: float = setting(0.5, "how long", minimum=0)
    mode: Literal["fast", "safe"] = setting("safe", "which")
    loud: bool = setting(False, "whether")
    key: str = setting("", "secret key", secret=True)
    limit: int | None = setting(None, "at most", minimum=1)


FOLDER = {"X_FOLDER": "/tmp/x"}


def test_command_line_goes_before_variables_before_defaults() -> None:
    parser = argparse.ArgumentParser()
    add_setting_arguments(parser, Example, "X_")
    given = arguments_of(parser.parse_args(["--rows", "7"]), Example)

    settings = read_settings(Example, {**FOLDER, "X_ROWS": "8", "X_WAIT_S": "2", "X_LOUD": "on"}, "X_", given)

    assert settings == Example(folder=Path("/tmp/x"), rows=7, wait_s=2.0, loud=True)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("X_ROWS", "many", "a value of type int"),
        ("X_ROWS", "0", "a number from 1 to 100"),
        ("X_ROWS", "101", "a number from 1 to 100"),
        ("X_WAIT_S", "nan", "a number from 0 to any"),
        ("X_WAIT_S", "inf", "a number from 0 to any"),
        ("X_MODE", "quick", "one of fast, safe"),
        ("X_LOUD", "perhaps", "true or false"),
        ("X_LIMIT", "0", "a number from 1 to any"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_seen_and_expected(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingError) as caught:
        read_settings(Example, {**FOLDER, variable: value}, "X_")

    assert (caught.value.name, caught.value.seen, caught.value.expected) == (variable, value, expected)
    assert str(caught.value) == f"{variable}: got {value!r}, expected {expected}"


def test_a_missing_or_unknown_variable_stops_the_start() -> None:
    with pytest.raises(SettingError, match="X_FOLDER: got None"):
        read_settings(Example, {}, "X_")
    with pytest.raises(SettingError, match="X_ROWZ"):
        read_settings(Example, {**FOLDER, "X_ROWZ": "1"}, "X_")


def test_secrets_show_nowhere() -> None:
    settings = read_settings(Example, {**FOLDER, "X_KEY": "hunter2"}, "X_")

    assert settings.key == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(describe_settings(settings))
    with pytest.raises(SettingError) as caught:
        read_settings(Example, {**FOLDER, "X_KEYS": "hunter2"}, "X_")
    assert "hunter2" not in str(caught.value)


def test_the_password_in_a_url_is_masked() -> None:
    assert mask_url("redis://me:hunter2@host:6379/0") == "redis://me:***@host:6379/0"
    assert mask_url("redis://:hunter2@host/0") == "redis://:***@host/0"
    assert mask_url("redis://host:6379/0") == "redis://host:6379/0"
    assert mask_url("plain text") == "plain text"


def test_a_child_process_reads_the_same_settings() -> None:
    settings = Example(folder=Path("/tmp/x"), rows=3, loud=True, key="k")

    assert read_settings(Example, environment_of(settings, "X_"), "X_") == settings
