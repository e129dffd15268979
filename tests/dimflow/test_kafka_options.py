"""How a word of the command is told where the brokers are and who asks."""

import argparse
from pathlib import Path

import pytest

from dimflow.kafka_options import add_client_arguments, client_options
from model_contract.process_settings import SettingError


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_client_arguments(parser)
    return parser.parse_args(words)


def test_secrets_go_by_file_alone(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    words = ["--sasl-username", "me", "--sasl-password-file", str(secret)]
    options = client_options(parsed(*words, "--security-protocol", "SASL_SSL", "--ssl-cafile", "ca.pem"))
    assert options == {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "ca.pem",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "me",
        "sasl_plain_password": "s3cret",
    }
    assert client_options(parsed()) == {}


def test_a_user_without_a_password_is_refused() -> None:
    with pytest.raises(SettingError, match="--sasl-password-file: got 'nothing'"):
        client_options(parsed("--sasl-username", "me"))
