"""The trainer's settings: what is required, what is refused, what stays secret."""

import pytest

from model_contract.process_settings import SettingError, describe_settings, read_settings
from stream_trainer.settings import PREFIX, TrainerSettings

NEEDED = {f"{PREFIX}MODEL_FILE": "model.toml", f"{PREFIX}STATE_DIR": "state"}


def test_model_and_state_are_all_that_must_be_given() -> None:
    settings = read_settings(TrainerSettings, NEEDED, PREFIX)

    assert settings.publish_interval_s == 1.0
    assert settings.metrics_host == "127.0.0.1"
    for name in NEEDED:
        with pytest.raises(SettingError, match=name):
            read_settings(TrainerSettings, {k: v for k, v in NEEDED.items() if k != name}, PREFIX)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PUBLISH_INTERVAL_S", "0"),
        ("MEMORY_BYTES", "1GB"),
        ("ADMISSION", "never"),
        ("PRECISION", "int4"),
        ("METRICS_PORT", "70000"),
        ("SEED", "-1"),
    ],
)
def test_wrong_values_name_the_setting(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=PREFIX + name) as caught:
        read_settings(TrainerSettings, {**NEEDED, PREFIX + name: value}, PREFIX)
    assert caught.value.seen == value


def test_passwords_are_masked() -> None:
    environ = {
        **NEEDED,
        f"{PREFIX}KAFKA_SASL_PASSWORD": "hunter2",
        f"{PREFIX}REDIS": "redis://me:hunter3@127.0.0.1/0",
    }
    settings = read_settings(TrainerSettings, environ, PREFIX)

    assert "hunter" not in str(describe_settings(settings))
    assert "hunter2" not in repr(settings)
