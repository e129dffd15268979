"""From settings to the rules of a search for precision."""

import numpy as np

from dimension_search.precision_policy import BySlot
from stream_trainer.precision_rules import hurried_precision, precision_rules
from tests.stream_trainer.samples import settings


def test_fp32_asks_for_nothing() -> None:
    assert precision_rules(settings()) is None
    assert hurried_precision(None) is None


def test_one_codec_for_all_rows() -> None:
    found = [precision_rules(settings(row_precision=name)) for name in ("fp16", "int8", "int4")]

    assert [rules.codec for rules in found if rules] == ["fp16", "int8_minmax", "int4_greedy"]


def test_a_search_as_it_is_asked_for() -> None:
    rules = precision_rules(
        settings(
            row_precision="search",
            row_precision_policy="per_slot",
            row_precision_tolerance=0.01,
            row_precision_bytes=5000,
            row_precision_every_samples=7000,
            search_window_samples=300,
            search_judge_samples=200,
        )
    )

    assert rules is not None
    assert rules.codec is None
    assert rules.policy == BySlot()
    assert (rules.tolerance, rules.max_bytes, rules.search_every_samples) == (0.01, 5000, 7000)
    assert (rules.first_search_samples, rules.window_samples, rules.judge_samples) == (7000, 200, 200)


def test_warming_up_searches_at_once_whatever_is_asked_for() -> None:
    rules = hurried_precision(precision_rules(settings(row_precision="int8", row_precision_bytes=1)))

    assert rules is not None
    assert (rules.codec, rules.max_bytes, rules.tolerance) == (None, 0, np.inf)
    assert (rules.first_search_samples, rules.search_every_samples) == (0, 1)
