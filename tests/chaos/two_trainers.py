"""Two trainers of one model: one that was frozen and comes back too late, and a second worker that comes and goes.

A frozen trainer still believes in itself: what it sends after its successor took over must reach nobody.
"""

import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import redis

from model_contract.increment import decode
from model_contract.redis_keys import INCREMENT_FIELD, RedisKeys
from tests.chaos.asking_client import AskingClient, OneStory, body_of
from tests.chaos.stage import ScenarioResult, Stage, model_page, until
from tests.chaos.trainer_kills import quantiles

TOOK_OVER = "took over"


def frozen(folder: Path, brokers: str, redis_url: str, seed: int, frozen_s: float) -> ScenarioResult:
    """SIGSTOP of the leader; a standby with a folder of its own takes over; SIGCONT."""
    result = ScenarioResult()
    stage = Stage(folder / "frozen", brokers, redis_url, seed)
    judge = OneStory()
    with ExitStack() as stack:
        stack.enter_context(stage.running())
        client = stack.enter_context(
            AskingClient(stage.server.port, [body_of(Stage.instances(0, 0, 5))], judge, pause_s=0.01)
        )
        stage.feed.start(200)
        successor = stage.another_trainer("successor", standby_of=stage.trainer.state_dir)
        stack.callback(successor.stop)
        successor.start()
        result.expect(successor.stands_by, "the second trainer does not stand by")
        time.sleep(random.Random(f"{seed}/frozen").uniform(0.5, 2.0))
        begin = time.monotonic()
        stage.trainer.freeze()
        until(lambda: successor.samples() > 0, "the successor learns")
        took_over_s = time.monotonic() - begin
        time.sleep(max(0.0, frozen_s - took_over_s))
        epoch = int(model_page(stage.server.url)["epoch"])
        marker = newest_sequence(redis_url, stage.schema.name)
        stage.trainer.thaw()
        thawed = time.monotonic()
        code = stage.trainer.wait_for_end(30)
        ended_s = time.monotonic() - thawed
        time.sleep(1.0)
        stale = stale_entries(redis_url, stage.schema.name, marker, epoch)
        result.served_wrong += stale + client.wrong
        result.expect(code not in {None, 0}, f"the frozen trainer ended with {code}: it must give up")
        result.expect(TOOK_OVER in stage.trainer.log(), "its log does not say why")
        stage.finish(result, successor)
        result.expect(client.failed == 0, f"{client.failed} predictions failed: {client.failures[-2:]}")
    result.figures |= {
        "frozen_s": round(thawed - begin, 1),
        "successor_learned_after_s": round(took_over_s, 1),
        "stale_increments_in_redis": stale,
        "answers_that_went_back": client.wrong,
        "lineages_served": len(judge.lineages),
        "gave_up_after_s": round(ended_s, 1),
        "answers_meanwhile": client.answers,
    }
    return result


def newest_sequence(redis_url: str, model: str) -> int:
    client = redis.Redis.from_url(redis_url)
    try:
        return int(cast("bytes", client.hget(RedisKeys(model).head, "sequence")))
    finally:
        client.close()


def stale_entries(redis_url: str, model: str, behind: int, epoch: int) -> int:
    """Increments behind a sequence that an earlier epoch made."""
    client = redis.Redis.from_url(redis_url)
    keys = RedisKeys(model)
    try:
        lineage = cast("bytes", client.hget(keys.head, "lineage")).decode()
        entries = client.xrange(keys.increments(lineage), f"{behind + 1}-0", "+")
        found = [decode(fields[INCREMENT_FIELD.encode()]).header for _, fields in entries]
    finally:
        client.close()
    return sum(header.epoch < epoch or header.lineage != lineage for header in found)


def second_worker(folder: Path, brokers: str, redis_url: str, seed: int, joins: int) -> ScenarioResult:
    """A second worker on the same state folder joins and leaves under load, killed or asked to.

    Every second time it is the one that works which leaves, so that the other takes over and roles change.
    """
    result = ScenarioResult()
    rng = random.Random(f"{seed}/joins")
    stage = Stage(folder / "joins", brokers, redis_url, seed + 1)
    outcomes: Counter[str] = Counter()
    took_over_s: list[float] = []
    judge = OneStory()
    with ExitStack() as stack:
        stack.enter_context(stage.running())
        client = stack.enter_context(
            AskingClient(stage.server.port, [body_of(Stage.instances(0, 0, 5))], judge, pause_s=0.02)
        )
        working = stage.trainer
        other = stage.another_trainer("second", state_dir=working.state_dir)
        stack.callback(other.stop)
        stage.feed.start(200)
        for number in range(joins):
            if number == 0:
                other.start()
            else:
                other.launch()
            until(lambda w=other: w.stands_by, "the second worker stands by")
            time.sleep(rng.uniform(0.0, 2.0))
            leave = rng.choice(["kill", "terminate"])
            if number % 2:
                outcomes[f"stood by, left by {leave}"] += 1
                getattr(other, leave)()
                result.expect(working.running, "the working one went with the standby")
                continue
            outcomes[f"took over after {leave}"] += 1
            begin = time.monotonic()
            getattr(working, leave)()
            working, other = other, working
            until(lambda w=working: w.samples() > 0, "the other worker learns", 60)
            took_over_s.append(time.monotonic() - begin)
        stage.finish(result, working)
        result.served_wrong += client.wrong
        result.expect(len(judge.lineages) == 1, f"lineages served: {judge.lineages}")
        result.expect(client.failed == 0, f"{client.failed} predictions failed: {client.failures[-2:]}")
    took_over_s.sort()
    result.figures |= {
        "joins": joins,
        "outcomes": dict(outcomes),
        "took_over_s": quantiles(took_over_s),
        "answers_meanwhile": client.answers,
    }
    return result
