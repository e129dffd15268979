"""A client that asks `/predict` all the time and writes down what it was told.

Knows no scenario: who starts it hands in a judge of answers. Invariant: every request ends as an answer, a failure or
a refusal by the judge; nothing is left out of the counts.
"""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer: to which of the bodies, from which version, what."""

    body: int
    lineage: str
    sequence: int
    version: str
    probabilities: tuple[float, ...]


class OneStory:
    """Judges that a model's answers never go back to an earlier sequence of their lineage.

    Attributes:
        lineages: all that were served.
    """

    def __init__(self) -> None:
        self.lineages: set[str] = set()
        self._highest: dict[str, int] = {}
        self._lineage = ""

    def __call__(self, answer: Answer) -> bool:
        returned = answer.lineage != self._lineage and answer.lineage in self.lineages
        self.lineages.add(answer.lineage)
        self._lineage = answer.lineage
        highest = self._highest.get(answer.lineage, -1)
        self._highest[answer.lineage] = max(highest, answer.sequence)
        return not returned and answer.sequence >= highest


def body_of(instances: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps({"instances": list(instances)}).encode()


class AskingClient:
    """Asks with each of some bodies in turn until it is stopped; a context manager."""

    def __init__(
        self,
        port: int,
        bodies: Sequence[bytes],
        judge: Callable[[Answer], bool] = lambda _: True,
        pause_s: float = 0.0,
    ) -> None:
        self.answers = 0
        self.wrong = 0
        self.failures: list[str] = []
        self.failed = 0
        self.examples: list[Answer] = []
        self.by_version: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._port = port
        self._bodies = bodies
        self._judge = judge
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "AskingClient":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)

    def wait_for_answers(self, count: int, within_s: float) -> None:
        """Returns when there are so many, or raises."""
        deadline = time.monotonic() + within_s
        while self.answers < count:
            if time.monotonic() > deadline:
                message = f"{self.answers} answers in {within_s} s, expected {count}; {self.failures[-3:]}"
                raise TimeoutError(message)
            time.sleep(0.005)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        number = 0
        while not self._stopping.wait(self._pause_s):
            body = number % len(self._bodies)
            number += 1
            begin = time.monotonic()
            try:
                self._ask(connection, body)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                connection.close()
                self._failure(repr(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, body: int) -> None:
        headers = {"content-type": "application/json"}
        connection.request("POST", "/predict", body=self._bodies[body], headers=headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            self._failure(f"{response.status} {content[:200]!r}")
            return
        told = json.loads(content)
        model = told["model"]
        answer = Answer(body, model["lineage"], model["sequence"], model["version"], tuple(told["probabilities"]))
        self.answers += 1
        self.by_version[answer.version] += 1
        if not self._judge(answer):
            self.wrong += 1
            self.examples = [*self.examples, answer][:3]

    def _failure(self, text: str) -> None:
        self.failed += 1
        self.failures = [*self.failures, text][-20:]
