"""Every kind of corruption is one that an intake turns away, and the truth between them is not."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model_contract.increment import IncrementLimits
from serving.feed_log import FeedLog
from serving.freshness import FreshnessMeter
from serving.intake import Head, Intake, Outcome
from serving.replica import Replica
from tests.chaos.asking_client import Answer
from tests.chaos.corruptions import _HOSTILE, KINDS, _huge_everything, _not_finite, _with_block, corrupt
from tests.chaos.told_story import LINEAGE, Story, distinct, write_story


@pytest.fixture(scope="module")
def story() -> Story:
    return write_story("story", 3, 60, base_every=30)


def intake_at(story: Story, sequence: int) -> tuple[Intake, Replica]:
    schema = story.model.schema
    replica = Replica(schema, 64 << 20)
    limits = IncrementLimits(max_bytes=1 << 20, max_dim=schema.dim)
    intake = Intake(
        schema, replica, FeedLog(), FreshnessMeter(), increment_limits=limits, base_limits=limits, now_ms=lambda: 0
    )
    base = story.bases[1]
    head = Head(LINEAGE, 1, 1, 1, 1, len(base), schema.fingerprint)
    assert intake.take_base(head, base) is Outcome.APPLIED
    for number in range(2, sequence + 1):
        assert intake.take(f"increment {number}", story.increments[number]) is Outcome.APPLIED
    return intake, replica


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_a_kind_makes_is_turned_away(story: Story, kind: str) -> None:
    rng = random.Random(kind)
    for sequence in (1, 5):
        intake, replica = intake_at(story, sequence)
        version = replica.version
        for number in range(40):
            for data in corrupt(kind, story, sequence, rng):
                outcome = intake.take(f"{kind} {number}", data)
                assert outcome is (Outcome.DUPLICATE if kind == "replay" and sequence > 1 else Outcome.REFUSED)
                assert replica.version is version
        assert intake.take("the truth", story.increments[sequence + 1]) is Outcome.APPLIED


@pytest.mark.parametrize("number", range(len(_HOSTILE)))
def test_each_hostile_header_is_refused(story: Story, number: int) -> None:
    intake, _ = intake_at(story, 1)
    data = _HOSTILE[number](story.increments[2], random.Random(number))
    assert intake.take("hostile", data) is Outcome.REFUSED


@pytest.mark.parametrize(
    ("make", "reasons"),
    [
        (_huge_everything, {"limit_exceeded", "bad_length"}),
        (_not_finite, {"not_finite", "bad_dense"}),
        (lambda data, rng: _with_block(data, {"precision": "fp0"}), {"unknown_precision"}),
    ],
)
def test_headers_that_are_one_with_themselves_are_refused_for_what_they_hide(
    story: Story, make: Callable[[bytes, random.Random], bytes], reasons: set[str]
) -> None:
    """Else they test no more than that JSON is parsed."""
    intake, _ = intake_at(story, 1)
    assert intake.take("hostile", make(story.increments[2], random.Random(1))) is Outcome.REFUSED
    assert set(intake._feed_log.state.refused) <= reasons


def test_the_same_seed_makes_the_same_bytes(story: Story) -> None:
    made: list[Any] = [
        [corrupt(kind, story, 4, rng) for kind in sorted(KINDS) for _ in range(5)]
        for rng in (random.Random(9), random.Random(9))
    ]
    assert made[0] == made[1]


def test_a_story_tells_its_own_answers_from_any_other(story: Story) -> None:
    assert distinct(story, sorted(story.answers))
    told = story.answers[7][2]
    assert story.tells(Answer(2, LINEAGE, 7, "", told))
    assert not story.tells(Answer(2, LINEAGE, 8, "", told))
    assert not story.tells(Answer(1, LINEAGE, 7, "", told))
    assert not story.tells(Answer(2, "other", 7, "", told))
    assert not story.tells(Answer(2, LINEAGE, 700, "", told))
    next_to_it = (float(np.nextafter(told[0], 1)), *told[1:])
    assert not story.tells(Answer(2, LINEAGE, 7, "", next_to_it))


def test_versions_that_answer_alike_are_noticed(story: Story) -> None:
    answers = {1: story.answers[1], 2: story.answers[1]}
    assert not distinct(Story(story.model, story.bodies, answers=answers), [1, 2])
