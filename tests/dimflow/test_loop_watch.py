"""Reading the pages of trainer and server, from a real HTTP server that answers what they would."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from dimflow.loop_watch import LoopWatch

PAGE = b"""# TYPE dimflow_trainer_samples counter
dimflow_trainer_samples_total 42.0
# TYPE dimflow_trainer_rows gauge
dimflow_trainer_rows 7.0
# TYPE dimflow_trainer_progressive gauge
dimflow_trainer_progressive{metric="auc"} 0.75
"""


class Pages(BaseHTTPRequestHandler):
    ready = 503

    def do_GET(self) -> None:
        answers = {"/metrics": (200, PAGE), "/model": (200, b'{"sequence": 3}'), "/readyz": (Pages.ready, b"{}")}
        self.answer(*answers[self.path])

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = {"probabilities": [0.5] * len(asked["instances"])}
        self.answer(200 if asked["instances"] else 422, json.dumps(answer).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def watch() -> Iterator[LoopWatch]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with LoopWatch(url, url) as watch:
            yield watch
        server.shutdown()
        thread.join()


def test_the_trainers_page_becomes_values_by_name(watch: LoopWatch) -> None:
    numbers = watch.trainer()

    assert numbers["samples_total"] == 42
    assert numbers["rows"] == 7
    assert numbers["not_there_yet"] == 0
    assert numbers.progressive == {"auc": 0.75}


def test_the_servers_answers(watch: LoopWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch.model() == {"sequence": 3}
    assert not watch.ready()
    monkeypatch.setattr(Pages, "ready", 200)
    assert watch.ready()
    assert watch.predict([{"sparse": {}}, {"sparse": {}}]) == [0.5, 0.5]
    with pytest.raises(httpx.HTTPStatusError):
        watch.predict([])
