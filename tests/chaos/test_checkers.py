"""What the scenarios compare beside the ledger finds what it looks for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_trainer.model_state import Manifest
from stream_trainer.publisher import Head
from tests.chaos.sample_ledger import LedgerError, SampleFeed, Verdict
from tests.chaos.stage import Stage, page, until
from tests.chaos.told_story import LINEAGE, ToldServer, write_story
from tests.chaos.trainer_kills import compared_with_head, quantiles
from tests.chaos.two_trainers import newest_sequence, stale_entries


def test_what_is_public_and_not_on_the_disk_is_found() -> None:
    manifest = Manifest(lineage="l", epoch=1, sequence=7, fingerprint="f", created_ms=0)
    assert compared_with_head(manifest, Head("l", 1, 7, 3, 1)) == Verdict()
    assert compared_with_head(manifest, Head("other", 1, 9, 3, 1)) == Verdict()
    assert compared_with_head(manifest, Head("l", 1, 8, 3, 1)).mixed == 1


def test_stale_increments_are_found(tmp_path: Path, redis_server: Any) -> None:
    name = redis_server.fresh_prefix("stale")
    story = write_story(name, 1, 4)
    told = ToldServer(tmp_path / "told", redis_server.url, story)
    told.send_base(1)
    for sequence in sorted(story.increments):
        told.send(sequence)
    told.publisher.close()
    assert newest_sequence(redis_server.url, name) == 5
    assert stale_entries(redis_server.url, name, 2, epoch=1) == 0
    assert stale_entries(redis_server.url, name, 2, epoch=2) == 3
    assert LINEAGE in story.bases[1].decode(errors="replace")


def test_a_feed_whose_records_get_other_offsets_is_found(tmp_path: Path, kafka: Any, redis_server: Any) -> None:
    stage = Stage(tmp_path / "stage", kafka.bootstrap, redis_server.url, 3)
    stage.feed.send(40)
    stage.feed.stop()
    again = SampleFeed(kafka.bootstrap, stage.ledger)
    again._acknowledged = [0, 0, 0, 0]  # a second feed on the same topic: its first records come behind
    again.send(4)
    with pytest.raises(LedgerError, match="offset 10, not 0"):
        again.stop()


def test_nobody_answers_for_a_process_that_is_gone() -> None:
    assert page("http://127.0.0.1:9") == {}
    with pytest.raises(TimeoutError, match="not within 0.1 s: never"):
        until(lambda: False, "never", 0.1)


def test_quantiles_are_of_sorted_values() -> None:
    assert quantiles(np.linspace(0, 1, 101).tolist()) == {"count": 101, "p50": 0.5, "p95": 0.95, "max": 1.0}
    assert quantiles([]) == {"count": 0}
