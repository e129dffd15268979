"""The client counts every failure and every answer that its judge turns down."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.chaos.asking_client import Answer, AskingClient, OneStory


class Answering(BaseHTTPRequestHandler):
    """Answers with version 1, 2, 3, ... and fails at every tenth request."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        Answering.asked += 1
        number = Answering.asked
        model = {"lineage": "l", "sequence": number, "version": f"l-{number}"}
        content = json.dumps({"probabilities": [0.5], "model": model}).encode()
        self.send_response(503 if number % 10 == 0 else 200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Answering.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_failures_and_wrong_answers_are_counted(port: int) -> None:
    with AskingClient(port, [b"{}"], lambda answer: answer.sequence != 5) as client:
        client.wait_for_answers(30, 20)
    assert client.failed == Answering.asked // 10 >= 3
    assert client.answers == Answering.asked - client.failed
    assert client.wrong == 1
    assert client.examples[0].sequence == 5
    assert client.failures[0].startswith("503")


def test_a_server_that_is_gone_is_a_failure() -> None:
    with AskingClient(9, [b"{}"], pause_s=0.01) as client, pytest.raises(TimeoutError, match="0 answers"):
        client.wait_for_answers(1, 0.2)
    assert client.failed > 0


def answers(*places: tuple[str, int]) -> list[Answer]:
    return [Answer(0, lineage, sequence, "", (0.5,)) for lineage, sequence in places]


def test_a_story_goes_forward() -> None:
    judge = OneStory()
    assert all(judge(answer) for answer in answers(("a", 1), ("a", 1), ("a", 4), ("b", 2), ("b", 3)))
    assert judge.lineages == {"a", "b"}


@pytest.mark.parametrize("back", [("a", 3), ("b", 9)], ids=["sequence", "lineage"])
def test_a_story_that_goes_back_is_found(back: tuple[str, int]) -> None:
    judge = OneStory()
    assert all(judge(answer) for answer in answers(("b", 8), ("a", 1), ("a", 4)))
    assert not judge(answers(back)[0])
