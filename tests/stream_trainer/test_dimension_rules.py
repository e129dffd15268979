"""From settings to rules: what they say is what the search does, and a wrong one names itself."""

import dataclasses
from typing import Any

import pytest

from dimension_search.principal import PrincipalPlanner
from model_contract.process_settings import SettingError
from stream_trainer.dimension_rules import dimension_rules
from stream_trainer.settings import TrainerSettings
from tests.stream_trainer.samples import settings

DIM = 8


def test_fixed_widths_need_no_rules() -> None:
    assert dimension_rules(settings(), DIM) is None


def test_every_setting_reaches_the_rules() -> None:
    rules = dimension_rules(
        settings(
            dimensions="search",
            dimension_bytes=123,
            dimension_share=0.25,
            dimension_floor=2,
            dimension_start_width=5,
            dimension_bands="0.1, 2",
            band_half_life_samples=777,
            drop_cold_rows=False,
            search_every_samples=9_000,
            search_window_samples=300,
            search_judge_samples=200,
            search_tolerance=0.5,
        ),
        DIM,
    )

    assert rules is not None
    assert isinstance(rules.planner, PrincipalPlanner)
    assert (rules.max_bytes, rules.max_share, rules.floor, rules.drop_cold) == (123, 0.25, 2, False)
    assert rules.start_width == 5
    assert (rules.heat.thresholds, rules.half_life_samples) == ((0.1, 2.0), 777)
    assert (rules.first_search_samples, rules.search_every_samples, rules.budget_search_samples) == (8192, 9_000, 9_000)
    assert (rules.window_samples, rules.judge_samples, rules.tolerance) == (300, 200, 0.5)


def test_no_threshold_is_one_band_and_zero_samples_are_searches_by_command() -> None:
    rules = dimension_rules(settings(dimensions="search", dimension_bands=" ", search_every_samples=0), DIM)

    assert rules is not None
    assert rules.heat.bands == 1
    assert rules.search_every_samples == 0
    assert rules.start_width == 0  # nobody knows when a first search would come


def planner_names() -> list[str]:
    field = next(f for f in dataclasses.fields(TrainerSettings) if f.name == "dimension_planner")
    return list(field.type.__args__)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", planner_names())
def test_a_planner_is_found_by_every_name_that_the_setting_takes(name: str) -> None:
    rules = dimension_rules(settings(dimensions="search", dimension_planner=name), DIM)

    assert rules is not None
    assert rules.planner.name == name


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("dimension_floor", 9, "at most the model's dim, 8"),
        ("dimension_bands", "0.5,0.1", "ascending"),
        ("dimension_bands", "0.5,0.5", "ascending"),
        ("dimension_bands", "0,0.5", "above 0"),
        ("dimension_bands", "-1", "above 0"),
        ("dimension_bands", "nan", "above 0"),
        ("dimension_bands", "inf", "above 0"),
        ("dimension_bands", "warm", "could not convert"),
    ],
)
def test_a_wrong_setting_names_itself(name: str, value: Any, expected: str) -> None:
    with pytest.raises(SettingError, match=f"DIMFLOW_TRAINER_{name.upper()}.*{expected}") as caught:
        dimension_rules(settings(dimensions="search", **{name: value}), DIM)
    assert caught.value.seen == value
