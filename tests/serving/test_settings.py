import dataclasses

import pytest

from model_contract.process_settings import SettingError, describe_settings
from serving.settings import PREFIX, ServingSettings

MODEL = {f"{PREFIX}MODEL_FILE": "model.toml"}


def test_defaults_listen_on_loopback_only() -> None:
    settings = ServingSettings.from_environ(MODEL)

    assert settings.host == "127.0.0.1"
    assert settings == ServingSettings.from_environ({**MODEL, "PATH": "/bin", "DIMFLOW_TRAINER_SEED": "1"})


def test_every_field_can_be_set_by_its_variable() -> None:
    for field in dataclasses.fields(ServingSettings):
        if field.name == "model_file":
            continue
        value = str(field.default)
        settings = ServingSettings.from_environ({**MODEL, PREFIX + field.name.upper(): value})
        assert getattr(settings, field.name) == field.default
        assert field.metadata["help"]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PORT", "http", "int"),
        ("PORT", "70000", "65535"),
        ("MAX_INSTANCES", "0", "from 1"),
        ("REDIS_TIMEOUT_S", "nan", "number"),
        ("LOG_LEVEL", "LOUD", "INFO"),
        ("MAX_INSTANCE", "5", "MAX_INSTANCES"),
    ],
)
def test_a_wrong_or_unknown_setting_stops_with_name_and_expectation(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingError) as caught:
        ServingSettings.from_environ({**MODEL, PREFIX + variable: value})

    assert PREFIX + variable in str(caught.value)
    assert expected in str(caught.value)


def test_a_missing_model_file_is_named() -> None:
    with pytest.raises(SettingError, match=f"{PREFIX}MODEL_FILE"):
        ServingSettings.from_environ({})


def test_secrets_never_show() -> None:
    settings = ServingSettings.from_environ(
        {**MODEL, f"{PREFIX}REDIS_PASSWORD": "hunter2", f"{PREFIX}REDIS": "rediss://me:hunter3@host:1/0"}
    )

    assert settings.redis_password == "hunter2"
    for text in (repr(settings), str(settings), str(describe_settings(settings))):
        assert "hunter" not in text
        assert "host:1" in text
