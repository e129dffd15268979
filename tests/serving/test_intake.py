from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from model_contract.increment import Increment, encode
from model_contract.prediction_request import PredictionRequestDecoder
from serving.intake import Outcome


def start(bench: Any) -> None:
    assert bench.intake.take_base(bench.head(), encode(bench.model.base())) is Outcome.APPLIED


def take(bench: Any, increment: Increment) -> Outcome:
    return bench.intake.take(f"increment {increment.header.sequence}-0", encode(increment))  # type: ignore[no-any-return]


def changed(increment: Increment, **changes: Any) -> Increment:
    return replace(increment, header=replace(increment.header, **changes))


def scores(bench: Any) -> np.ndarray:
    rng = np.random.default_rng(7)
    names = bench.model.schema.slot_names
    instances = [{"sparse": {names[0]: str(value)}} for value in rng.integers(0, 60, 30)]
    body = msgspec.json.encode({"instances": instances})
    batch = PredictionRequestDecoder(bench.model.schema).decode(body)
    return bench.replica.score(batch).probabilities  # type: ignore[no-any-return]


def refused(bench: Any) -> dict[str, int]:
    return bench.feed_log.state.refused  # type: ignore[no-any-return]


def test_increments_in_order_are_applied_and_their_samples_timed(bench: Any, kit: Any) -> None:
    start(bench)
    for _ in range(5):
        assert take(bench, bench.model.step()) is Outcome.APPLIED

    assert bench.intake.version.sequence == 5
    assert bench.feed_log.state.applied == 5
    assert bench.freshness.overall() == (20, pytest.approx(200, rel=0.021), pytest.approx(200, rel=0.021))
    assert not bench.intake.stuck


def test_what_was_applied_before_is_skipped_quietly_however_it_was_encoded(bench: Any) -> None:
    start(bench)
    first, second = bench.model.step(), bench.model.step()
    take(bench, first)
    take(bench, second)
    before = scores(bench)

    for again in (first, second, changed(first, base_sequence=0, epoch=9), changed(second, base_sequence=1)):
        assert take(bench, again) is Outcome.DUPLICATE
    np.testing.assert_array_equal(scores(bench), before)
    assert bench.feed_log.state.duplicates == 4
    assert refused(bench) == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sequence": 3}, "gap"),
        ({"lineage": "second"}, "foreign_lineage"),
        ({"epoch": 0}, "stale_epoch"),
        ({"schema_fingerprint": "0" * 16}, "schema_mismatch"),
        ({"kind": "base", "sequence": 1, "base_sequence": 1}, "not_an_increment"),
    ],
)
def test_out_of_order_or_foreign_is_refused_and_the_right_one_still_taken(
    bench: Any, changes: dict[str, Any], reason: str
) -> None:
    start(bench)
    before = scores(bench)
    good = bench.model.step(died=0 if "kind" in changes else 3)
    bad = changed(good, **changes)

    for _ in range(3):
        assert take(bench, bad) is Outcome.REFUSED
    np.testing.assert_array_equal(scores(bench), before)
    assert refused(bench) == {reason: 1}  # read again, it is not counted again
    assert bench.intake.stuck
    assert take(bench, good) is Outcome.APPLIED
    assert not bench.intake.stuck


def test_another_cut_under_a_known_number_calls_for_a_base(bench: Any) -> None:
    start(bench)
    first = bench.model.step()
    take(bench, first)

    assert take(bench, changed(first, created_ms=first.header.created_ms + 1)) is Outcome.REFUSED
    assert refused(bench) == {"rewritten": 1}
    assert bench.intake.wants_base(bench.head())


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_the_bytes_gets_through(bench: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    start(bench)
    before = scores(bench)
    good = encode(bench.model.step())
    for number in range(100):
        data = bytearray(good)
        kind = number % 3
        if kind == 0:
            at = int(rng.integers(len(data)))
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[int(rng.integers(len(data))) :]
        else:
            data += rng.bytes(int(rng.integers(1, 100)))
        assert bench.intake.take(f"increment {number}-0", bytes(data)) is Outcome.REFUSED, f"seed {seed}"

    np.testing.assert_array_equal(scores(bench), before)
    assert bench.intake.version.sequence == 0
    assert sum(refused(bench).values()) == 100
    assert bench.intake.take("increment 1-0", good) is Outcome.APPLIED


def test_a_bad_base_leaves_the_model_and_says_why(bench: Any) -> None:
    start(bench)
    bench.model.step()
    before = scores(bench)
    base = bench.model.base()
    data = bytearray(encode(base))
    data[-1] ^= 1

    assert bench.intake.take_base(bench.head(), data) is Outcome.REFUSED
    assert bench.intake.take_base(bench.head(base_sequence=7), encode(base)) is Outcome.REFUSED
    assert bench.intake.take_base(bench.head(lineage="second"), encode(base)) is Outcome.REFUSED
    increment = encode(bench.model.step())
    assert bench.intake.take_base(bench.head(), increment) is Outcome.REFUSED
    assert refused(bench) == {"bad_checksum": 1, "wrong_base": 1, "foreign_lineage": 1, "not_a_base": 1}
    np.testing.assert_array_equal(scores(bench), before)


def test_an_increment_before_any_base_is_refused(bench: Any) -> None:
    assert take(bench, bench.model.step()) is Outcome.REFUSED
    assert refused(bench) == {"no_base": 1}
    assert bench.intake.wants_base(bench.head())


def test_a_base_is_wanted_only_where_it_helps(bench: Any) -> None:
    start(bench)
    intake, model = bench.intake, bench.model
    for _ in range(4):
        take(bench, model.step())

    assert not intake.wants_base(bench.head())
    assert not intake.wants_base(bench.head(sequence=9, base_sequence=9)), "the stream may still have them"
    assert intake.wants_base(bench.head(lineage="second"))
    assert intake.wants_base(bench.head(epoch=2, sequence=3)), "the trainer went back"
    model.step()
    take(bench, model.step())  # a gap
    assert intake.stuck
    assert not intake.wants_base(bench.head(base_sequence=4)), "older than what answers"
    assert intake.wants_base(bench.head(base_sequence=6))


def test_a_head_of_another_schema_is_noted(bench: Any) -> None:
    assert bench.intake.check_head(bench.head())
    assert not bench.intake.check_head(bench.head(fingerprint="f" * 16))
    assert refused(bench) == {"schema_mismatch": 1}


def test_a_new_base_forgets_the_old_lineage(bench: Any, kit: Any) -> None:
    start(bench)
    take(bench, bench.model.step())
    bench.model.lineage, bench.model.sequence, bench.model.epoch = "second", 40, 1
    assert bench.intake.take_base(bench.head(base_sequence=40), encode(bench.model.base())) is Outcome.APPLIED

    assert take(bench, bench.model.step()) is Outcome.APPLIED
    assert bench.intake.version.name == "second-41"
    assert bench.feed_log.state.bases == 2
