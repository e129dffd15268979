"""Every scenario once, with the smallest counts, on real servers: the harness itself must not rot."""

from pathlib import Path
from typing import Any

import pytest

from tests.chaos import (
    corrupted_increments,
    frozen_consumer,
    outages,
    trainer_kills,
    two_trainers,
    version_purity,
)
from tests.chaos.asking_client import Answer
from tests.chaos.stage import SCALES, ScenarioResult
from tests.chaos.told_story import LINEAGE, Story

SEED = 20_261
SMOKE = SCALES["smoke"]


def assert_sound(result: ScenarioResult) -> None:
    assert result.faults == []
    assert result.verdict.reasons == ()
    assert result.verdict.sound
    assert result.served_wrong == 0


def test_kills(tmp_path: Path, kafka: Any, redis_server: Any) -> None:
    result = trainer_kills.run(tmp_path / "kills", kafka.bootstrap, redis_server.url, SEED, SMOKE.kills, 1)
    assert_sound(result)
    assert result.figures["kills"] >= SMOKE.kills
    assert result.figures["first_batch_s"]["count"] > 0
    assert result.figures["answers_compared_with_disk"] > 0


def test_corruptions(tmp_path: Path, redis_server: Any) -> None:
    result = corrupted_increments.run(tmp_path, redis_server.url, SEED, 60)
    assert_sound(result)
    assert result.refused == result.figures["pushed"] >= 60
    assert set(result.figures["recoveries"]) == {"append", "anew", "base"}


def test_purity(tmp_path: Path, redis_server: Any) -> None:
    result = version_purity.run(tmp_path, redis_server.url, SEED, SMOKE.increments, SMOKE.answers)
    assert_sound(result)
    assert result.figures["answers"] >= SMOKE.answers
    assert result.figures["versions_seen"] > 1


def test_purity_finds_a_version_that_answers_wrongly(
    tmp_path: Path, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Story.tells

    def expects_another(story: Story, answer: Answer) -> bool:
        if answer.sequence == 3:
            answer = Answer(answer.body, LINEAGE, 2, "", answer.probabilities)
        return honest(story, answer)

    monkeypatch.setattr(Story, "tells", expects_another)
    result = version_purity.run(tmp_path, redis_server.url, SEED + 1, 3, 100)
    assert result.served_wrong > 0


def test_outages(tmp_path: Path) -> None:
    result = outages.run(tmp_path, SEED, SMOKE.outage_s)
    assert_sound(result)
    assert result.figures["answers_meanwhile"] > 0


def test_frozen_trainer(tmp_path: Path, kafka: Any, redis_server: Any) -> None:
    result = two_trainers.frozen(tmp_path, kafka.bootstrap, redis_server.url, SEED, SMOKE.frozen_trainer_s)
    assert_sound(result)


def test_second_worker(tmp_path: Path, kafka: Any, redis_server: Any) -> None:
    result = two_trainers.second_worker(tmp_path, kafka.bootstrap, redis_server.url, SEED, SMOKE.joins)
    assert_sound(result)


def test_frozen_consumer(tmp_path: Path, kafka: Any, redis_server: Any) -> None:
    result = frozen_consumer.run(tmp_path, kafka.bootstrap, redis_server.url, SEED, SMOKE.watchdog_s)
    assert_sound(result)
