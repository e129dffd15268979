"""Serving while increments land: every answer must be, to the last bit, what the version it names answers."""

import time
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.asking_client import AskingClient
from tests.chaos.stage import ScenarioResult, until
from tests.chaos.told_story import ToldServer, distinct, write_story

_CLIENTS = 2


def run(folder: Path, redis: str, seed: int, increments: int, answers: int) -> ScenarioResult:
    """Sends increments in step with the answers, so that all of them land among the requests."""
    result = ScenarioResult()
    story = write_story(f"purity-{seed}", seed, increments)
    result.expect(distinct(story, sorted(story.answers)), "two versions answer alike: the check could not fail")
    with ToldServer(folder / "purity", redis, story) as told, ExitStack() as stack:
        clients = [
            stack.enter_context(AskingClient(told.server.port, story.bodies, story.tells)) for _ in range(_CLIENTS)
        ]
        begin = time.monotonic()
        for number, sequence in enumerate(sorted(story.increments)):
            due = answers * (number + 1) // (increments + 1)
            until(lambda due=due: sum(c.answers + c.failed for c in clients) >= due, f"{due} answers", 120, 0.0005)
            told.send(sequence)
        until(lambda: told.serves(told.sequence), "the last version is served")
        until(lambda: sum(c.answers for c in clients) >= answers, f"{answers} answers")
        took_s = time.monotonic() - begin
    seen: set[str] = set().union(*(client.by_version for client in clients))
    given = sum(client.answers for client in clients)
    result.served_wrong = sum(client.wrong for client in clients)
    failed = sum(client.failed for client in clients)
    result.expect(failed == 0, f"{failed} predictions failed: {clients[0].failures[-2:]}")
    result.figures = {
        "increments": increments,
        "answers": given,
        "instances": given * 6,
        "versions_seen": len(seen),
        "answers_per_s": round(given / took_s),
        "examples_of_wrong": [str(answer) for client in clients for answer in client.examples],
    }
    return result
