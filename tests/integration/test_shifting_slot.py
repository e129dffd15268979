"""The important slot changes half-way: widths go where they are worth something, and come from where they are not."""

import pytest

from benchmarks.shifting_slot import AFTER, BEFORE, planned_width, rules_for, run, shifting_stream


@pytest.mark.parametrize("seed", range(3))
def test_widths_follow_within_two_searches_both_ways(seed: int) -> None:
    stream = shifting_stream(120_000, seed, ids=100)
    outcome = run(stream, rules_for(stream, searches=8), None, seed)

    assert planned_width(stream, outcome, BEFORE, 0) > planned_width(stream, outcome, AFTER, 0)
    assert planned_width(stream, outcome, BEFORE, 2) < planned_width(stream, outcome, BEFORE, 0)
    assert planned_width(stream, outcome, AFTER, 2) > planned_width(stream, outcome, AFTER, 0)
