"""Trainer and server as children: a wrong setting is told at once, with the child's own words."""

import time
from pathlib import Path

import httpx
import pytest

from dimflow.errors import ServerNotReady
from dimflow.local_processes import LocalPredictor, LocalTrainer
from dimflow.model_files import packaged_model_file


@pytest.mark.parametrize("kind", [LocalTrainer, LocalPredictor])
def test_a_child_that_refuses_its_settings_is_reported_with_its_reason(tmp_path: Path, kind: type) -> None:
    process = kind(tmp_path, model_file=tmp_path / "absent.toml")

    with pytest.raises(ServerNotReady, match=r"ended with code 2(.|\n)*MODEL_FILE: got"):
        process.start()


def test_a_server_starts_is_killed_and_comes_back_on_its_port(tmp_path: Path, redis_server) -> None:
    model_file = tmp_path / "model.toml"
    text = packaged_model_file("teacher").read_text()
    model_file.write_text(text.replace("teacher", redis_server.fresh_prefix("model")))  # nobody publishes this one
    with LocalPredictor(tmp_path, model_file=model_file, redis=redis_server.url) as server:
        url = server.url
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(f"{url}/readyz").status_code == 503
        server.kill()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/healthz")
        server.restart()
        assert server.url == url
        assert httpx.get(f"{url}/healthz").status_code == 200
    deadline = time.monotonic() + 10
    while server.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.running
