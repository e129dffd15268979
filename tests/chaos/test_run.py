"""The report adds up, and fails where anything was wrong."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import run
from tests.chaos.sample_ledger import Verdict
from tests.chaos.stage import Scale, ScenarioResult
from tests.chaos.trainer_kills import STEPS, kills_of


def last_line(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, Any]]:
    def scenario(result: Any) -> run.Scenario:
        def play(folder: Path, seed: int, scale: Scale) -> ScenarioResult:
            assert folder.is_dir()
            if isinstance(result, Exception):
                raise result
            return result

        return play

    monkeypatch.setattr(run, "SCENARIOS", {name: scenario(result) for name, result in results.items()})
    out = io.StringIO()
    code = run.run_all("smoke", 11, list(results), out)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("seed 11,")
    return code, json.loads(lines[-1])


def test_what_is_sound_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"a": ScenarioResult(refused=3), "b": ScenarioResult(refused=4, figures={"kills": 2})}
    code, document = last_line(results, monkeypatch)
    assert code == 0
    assert document["passed"]
    assert {name: document[name] for name in ("lost", "twice", "mixed", "refused", "served_wrong", "seed")} == {
        "lost": 0,
        "twice": 0,
        "mixed": 0,
        "refused": 7,
        "served_wrong": 0,
        "seed": 11,
    }
    assert document["results"]["b"]["kills"] == 2


@pytest.mark.parametrize(
    "bad",
    [
        ScenarioResult(Verdict(lost=1)),
        ScenarioResult(Verdict(twice=1)),
        ScenarioResult(Verdict(mixed=1)),
        ScenarioResult(served_wrong=1),
        ScenarioResult(faults=["one prediction failed"]),
        RuntimeError("broke"),
    ],
    ids=["lost", "twice", "mixed", "served wrong", "fault", "broke"],
)
def test_one_wrong_scenario_fails_the_run(bad: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, document = last_line({"good": ScenarioResult(), "bad": bad}, monkeypatch)
    assert code == 1
    assert not document["passed"]
    assert set(document["results"]) == {"good", "bad"}


def test_times_beyond_a_limit_are_told_and_fail_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = ScenarioResult()
    slow.limit("resync_within_5_s", holds=True)
    slow.limit("resync_within_5_s", holds=False)
    slow.limit("resync_within_5_s", holds=True)
    code, document = last_line({"slow": slow}, monkeypatch)
    assert code == 0
    assert not document["within_limits"]


def test_half_of_the_kills_are_at_named_steps_each_as_often() -> None:
    import random

    kinds = kills_of(100, sorted(STEPS), random.Random(1))
    assert len(kinds) == 100
    at_steps = [kind for kind in kinds if kind.startswith("step:")]
    assert len(at_steps) == 50
    assert {f"step:{name}" for name in STEPS} == set(at_steps)
    assert max(map(at_steps.count, at_steps)) - min(map(at_steps.count, at_steps)) <= 1
    assert kinds == kills_of(100, sorted(STEPS), random.Random(1))
