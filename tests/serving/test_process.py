"""The process as a whole: it starts, answers, and ends when told to."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_contract.process_settings import SettingError, environment_of
from serving.process import assemble, listen
from serving.settings import PREFIX, ServingSettings

ROOT = Path(__file__).resolve().parents[2]


def start(settings: ServingSettings, **extra: str) -> "subprocess.Popen[str]":
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environ |= environment_of(settings, PREFIX) | extra
    return subprocess.Popen([sys.executable, "-m", "serving"], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_answers_and_ends_cleanly(
    kit: Any, redis_model: Any, settings_for: Callable[..., ServingSettings], number: signal.Signals
) -> None:
    model, store = redis_model
    store.put_base(model.base())
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = start(settings_for(model.schema, port=port))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def ready() -> bool:
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.ConnectError:
                    return False

            kit.eventually(ready, "the server is ready", 180)
            instances = [model.instance() for _ in range(3)]
            answer = client.post("/predict", json={"instances": instances}).json()
            expected = [model.probability(instance) for instance in instances]
            assert answer["probabilities"] == pytest.approx(expected, abs=1e-6)
            process.send_signal(number)
            log = process.communicate(timeout=20)[1]
    finally:
        process.kill()
        process.communicate()

    assert process.returncode == 0, log
    assert "setting redis = " in log
    assert log.rstrip().endswith("stopped")


def test_a_wrong_setting_stops_the_start_and_names_itself(
    kit: Any, tmp_path: Path, settings_for: Callable[..., ServingSettings]
) -> None:
    settings = settings_for(kit.schema_with_dense())
    process = start(settings, **{f"{PREFIX}MAX_INSTANCES": "-1"})
    log = process.communicate(timeout=60)[1]

    assert process.returncode == 2
    assert f"{PREFIX}MAX_INSTANCES" in log
    assert "'-1'" in log


def test_a_model_file_that_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[model]\nname = 1\n", encoding="utf-8")

    for path in (tmp_path / "missing.toml", wrong):
        with pytest.raises(SettingError, match=f"{PREFIX}MODEL_FILE.*{path.name}"):
            assemble(ServingSettings(model_file=path))


def test_an_address_in_use_is_named(kit: Any, settings_for: Callable[..., ServingSettings]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = settings_for(kit.schema_with_dense(), port=taken.getsockname()[1])
        with pytest.raises(SettingError, match=f"{PREFIX}PORT"):
            listen(settings)
    with pytest.raises(SettingError, match="no.such.host"):
        listen(settings_for(kit.schema_with_dense(), host="no.such.host.invalid"))


def test_serving_loads_neither_torch_nor_a_policy_nor_the_trainer() -> None:
    program = (
        "import sys, serving.process, serving.__main__\n"
        "print([m for m in ('torch', 'faust', 'feature_admission', 'stream_trainer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
