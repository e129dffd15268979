"""A model's history written down in advance: every true increment, and what each version must answer, to the last bit.

Rows, tombstones and dense weights of every version are random, so an answer mixed from two versions equals neither.
Knows no server. Invariant: `answers[v][b]` is what a replica that went through exactly the versions up to v answers to
body b; that replica is checked against plain Python arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dimflow.local_processes import LocalPredictor
from model_contract.increment import decode, encode
from model_contract.prediction_request import PredictionRequestDecoder
from serving.replica import Replica
from stream_trainer.publisher import Publisher
from tests.chaos.asking_client import Answer, body_of
from tests.chaos.stage import model_page, until
from tests.serving.conftest import PlainModel, schema_with_dense, write_model_file

LINEAGE = "told"
_BODIES = 8
_INSTANCES = 6


@dataclass
class Story:
    """The base of sequence 1 and all increments behind it.

    Attributes:
        bases: bytes of some versions as a base, by sequence.
        increments: bytes by sequence.
        answers: by sequence, for every body the probabilities.
    """

    model: PlainModel
    bodies: list[bytes]
    bases: dict[int, bytes] = field(default_factory=dict)
    increments: dict[int, bytes] = field(default_factory=dict)
    answers: dict[int, list[tuple[float, ...]]] = field(default_factory=dict)

    def tells(self, answer: Answer) -> bool:
        """Whether an answer is the one of the version that it names."""
        known = self.answers.get(answer.sequence)
        return known is not None and answer.lineage == LINEAGE and known[answer.body] == answer.probabilities


def write_story(name: str, seed: int, versions: int, base_every: int = 0) -> Story:
    """Makes a history of so many increments; every `base_every` versions there is a base as well."""
    rng = np.random.default_rng([seed, versions])
    model = PlainModel(schema_with_dense(name), rng, vocabulary=60, lineage=LINEAGE, sequence=1)
    instances = [[model.instance() for _ in range(_INSTANCES)] for _ in range(_BODIES)]
    story = Story(model, [body_of(part) for part in instances])
    decoder = PredictionRequestDecoder(model.schema, 1000, 1000, 1 << 20)
    batches = [decoder.decode(body) for body in story.bodies]
    replica = Replica(model.schema, 64 << 20)

    def note() -> None:
        answers = [tuple(replica.score(batch).probabilities.tolist()) for batch in batches]
        plain = [[model.probability(instance) for instance in part] for part in instances]
        if not np.allclose(answers, plain, atol=1e-5):
            message = f"version {model.sequence}: replica and plain arithmetic differ"
            raise AssertionError(message)
        story.answers[model.sequence] = answers

    story.bases[1] = encode(model.base())
    replica.load_base(decode(story.bases[1]))
    note()
    for number in range(versions):
        sequence = model.sequence + 1
        story.increments[sequence] = encode(model.step(changed=40, died=3, born=4))
        replica.apply(decode(story.increments[sequence]))
        note()
        if base_every and (number + 1) % base_every == 0:
            story.bases[sequence] = encode(model.base())
    return story


class ToldServer:
    """A `dimflow serve` that is told a story through Redis; a context manager."""

    def __init__(self, folder: Path, redis: str, story: Story, stream_increments: int = 10_000) -> None:
        folder.mkdir(parents=True)
        schema = story.model.schema
        model_file = write_model_file(schema, folder)
        self.story = story
        self.publisher = Publisher(redis, schema.name, kept_bases=2, stream_increments=stream_increments)
        self.server = LocalPredictor(folder / "server", model_file=model_file, redis=redis, poll_ms=50)
        self.sequence = 1

    def __enter__(self) -> "ToldServer":
        self.send_base(1)
        self.server.start()
        until(lambda: self.serves(1), "the base is served")
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self.publisher.close()

    def send_base(self, sequence: int) -> None:
        schema = self.story.model.schema
        self.publisher.replace_base(LINEAGE, 1, sequence, schema.fingerprint, self.story.bases[sequence])
        self.sequence = sequence

    def send(self, sequence: int) -> None:
        """Appends a true increment."""
        if not self.publisher.append(LINEAGE, 1, sequence, self.story.increments[sequence]):
            message = f"redis did not take increment {sequence}"
            raise AssertionError(message)
        self.sequence = sequence

    def serves(self, sequence: int) -> bool:
        return model_page(self.server.url).get("sequence") == sequence

    def feed(self) -> dict[str, Any]:
        return dict(model_page(self.server.url)["feed"])


def distinct(story: Story, sequences: Sequence[int]) -> bool:
    """Whether no two versions answer any body alike: else an answer would not tell its version."""
    for body in range(len(story.bodies)):
        seen = {story.answers[sequence][body] for sequence in sequences}
        if len(seen) != len(sequences):
            return False
    return True
