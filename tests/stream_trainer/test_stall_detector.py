"""A table of looks: what stands still with work waiting is a stall, everything else is not."""

from collections.abc import Mapping

import pytest

from stream_trainer.records import TopicPartition
from stream_trainer.stall_detector import StallDetector

A, B = TopicPartition("samples", 0), TopicPartition("samples", 1)
Look = tuple[float, Mapping[TopicPartition, int], Mapping[TopicPartition, int]]


@pytest.mark.parametrize(
    ("looks", "stalled"),
    [
        pytest.param([(0, {A: 5}, {A: 9}), (4, {A: 5}, {A: 9}), (10, {A: 5}, {A: 20})], A, id="stands still under lag"),
        pytest.param([(0, {A: 5}, {A: 5}), (99, {A: 5}, {A: 5})], None, id="nothing to do"),
        pytest.param([(0, {A: 5}, {A: 5}), (99, {A: 5}, {A: 6}), (108, {A: 5}, {A: 6})], None, id="work came late"),
        pytest.param([(0, {A: 5}, {A: 5}), (99, {A: 5}, {A: 6}), (109, {A: 5}, {A: 6})], A, id="and was not done"),
        pytest.param([(0, {A: 5}, {A: 9}), (9, {A: 6}, {A: 9}), (18, {A: 6}, {A: 99})], None, id="slow but moving"),
        pytest.param([(0, {A: 5}, {}), (99, {A: 5}, {})], None, id="the end is not known"),
        pytest.param([(0, {A: 5}, {A: 9}), (9, {A: 5}, {}), (10, {A: 5}, {A: 9})], None, id="a silent broker between"),
        pytest.param([(0, {A: 5, B: 1}, {A: 9, B: 9}), (10, {A: 6, B: 1}, {A: 9, B: 9})], B, id="one of two"),
        pytest.param([(0, {A: 5}, {A: 9}), (9, {}, {}), (10, {A: 5}, {A: 9})], None, id="lost and gained"),
        pytest.param([(0, {A: -1}, {A: 9}), (10, {A: -1}, {A: 9})], A, id="assigned but never sought"),
        pytest.param([(0, {A: 50}, {A: 9}), (10, {A: 50}, {A: 9})], A, id="the topic was made anew"),
    ],
)
def test_looks(looks: list[Look], stalled: TopicPartition | None) -> None:
    detector = StallDetector(patience_s=10)
    *before, last = [detector.observe(positions, ends, now_s) for now_s, positions, ends in looks]
    assert before == [None] * len(before)
    assert (None if last is None else last.partition) == stalled


def test_a_stall_says_where_and_for_how_long() -> None:
    detector = StallDetector(patience_s=1)
    assert detector.observe({A: 5}, {A: 9}, 100.0) is None
    stall = detector.observe({A: 5}, {A: 12}, 103.5)
    assert stall is not None
    assert (stall.partition, stall.position, stall.end, stall.still_s) == (A, 5, 12, 3.5)
