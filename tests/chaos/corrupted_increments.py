"""Corrupted increments pushed into Redis under a live server, which must refuse each and answer as before.

They come in rounds. In a round the stream gets a handful of them; when the server has turned all of them away, the
truth follows, in one of the three ways it may come back: the next increment is appended behind them, the stream is
written anew from the start, or the trainer sends a base.
"""

import random
from collections import Counter
from pathlib import Path

import redis

from model_contract.redis_keys import INCREMENT_FIELD, RedisKeys
from tests.chaos.asking_client import AskingClient
from tests.chaos.corruptions import KINDS, corrupt
from tests.chaos.stage import ScenarioResult, until
from tests.chaos.told_story import LINEAGE, ToldServer, write_story
from tests.chaos.trainer_kills import quantiles

RESYNC_LIMIT_S = 5.0
_PER_ROUND = 20
_AHEAD = 45
_RECOVERIES = ("append", "anew", "base")


def run(folder: Path, redis_url: str, seed: int, corruptions: int) -> ScenarioResult:
    """Pushes so many, in rounds of `_PER_ROUND`."""
    result = ScenarioResult()
    rng = random.Random(f"{seed}/corruptions")
    rounds = -(-corruptions // _PER_ROUND)
    story = write_story(f"corrupted-{seed}", seed, rounds + _AHEAD, base_every=1)
    keys = RedisKeys(story.model.schema.name)
    pushed: Counter[str] = Counter()
    recoveries: Counter[str] = Counter()
    resync_s: list[float] = []
    client = redis.Redis.from_url(redis_url)
    with (
        ToldServer(folder / "corrupted", redis_url, story) as told,
        AskingClient(told.server.port, story.bodies, story.tells, pause_s=0.002) as asking,
    ):
        resident_bytes = resident(told.server.pid)
        for number in range(rounds):
            begun = told.sequence
            before = dict(asking.by_version)
            refused_before = turned_away(told)
            recovery = _RECOVERIES[number % len(_RECOVERIES)]
            entry = begun if recovery == "append" else begun + 1
            count = 0
            stream = keys.increments(LINEAGE)
            while count < _PER_ROUND and pushed.total() < corruptions:
                kind = rng.choice(sorted(KINDS))
                for data in corrupt(kind, story, begun, rng):
                    count += 1
                    client.xadd(stream, {INCREMENT_FIELD: data}, id=f"{entry}-{count}")
                    pushed[kind] += 1
            due = refused_before + count
            until(lambda due=due: turned_away(told) >= due, f"{count} refusals of round {number}", 60)
            asking.wait_for_answers(asking.answers + 20, 30)
            result.expect(turned_away(told) == due, f"round {number}: {turned_away(told) - due} refusals too many")
            since = {name for name, n in asking.by_version.items() if n > before.get(name, 0)}
            result.expect(told.serves(begun), f"round {number}: the version moved from {begun}")
            result.expect(
                since <= {f"{LINEAGE}-{begun}", f"{LINEAGE}-{begun - 1}"}, f"round {number}: answers of {since}"
            )
            if recovery != "append":  # what was reordered holds true increments too: they must not meet the base
                client.delete(stream)
            if recovery == "base":
                told.send_base(begun + 1)
            else:
                told.send(begun + 1)
            resync_s.append(until(lambda: told.serves(told.sequence), f"resync of round {number}", 60, 0.01))
            recoveries[recovery] += 1
            asking.wait_for_answers(asking.answers + 10, 30)
        feed = told.feed()
        grown = resident(told.server.pid) - resident_bytes
    client.close()
    resync_s.sort()
    result.refused = sum(feed["refused"].values()) + feed["duplicates"]
    result.served_wrong = asking.wrong
    result.expect(result.refused >= pushed.total(), f"{result.refused} of {pushed.total()} were turned away")
    result.expect(asking.failed == 0, f"{asking.failed} predictions failed: {asking.failures[-2:]}")
    result.limit("resync_within_5_s", holds=resync_s[-1] <= RESYNC_LIMIT_S)
    result.figures = {
        "pushed": pushed.total(),
        "by_kind": dict(sorted(pushed.items())),
        "refused_by_reason": feed["refused"],
        "replays_skipped": feed["duplicates"],
        "recoveries": dict(recoveries),
        "resync_s": quantiles(resync_s),
        "answers_meanwhile": asking.answers,
        "examples_of_wrong": [str(answer) for answer in asking.examples],
        "memory_grown_mb": round(grown / 1e6, 1),
    }
    return result


def turned_away(told: ToldServer) -> int:
    feed = told.feed()
    return int(sum(feed["refused"].values())) + int(feed["duplicates"])


def resident(pid: int | None) -> int:
    """Bytes a process holds in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096
