"""Plans on the disk: in order, whole ones only, bounded."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from dimension_search.plan import Verdict, write_plan
from dimension_search.plan_history import PlanHistory, PrecisionHistory
from tests.dimension_search.plans import made_plan
from tests.dimension_search.test_precision_plan import made_precision_plan


def numbers(history: PlanHistory) -> list[int]:
    return [plan.samples_trained // 250_000 for plan in history.read()]


def test_plans_come_back_in_order_in_this_process_and_the_next(tmp_path: Path) -> None:
    history = PlanHistory(tmp_path)
    assert history.read() == []
    plans = [made_plan(n, verdict=Verdict(decision="planned", reason="asked")) for n in range(3)]
    for plan in plans:
        history.append(plan)

    assert history.read() == plans
    assert history.read(last=2) == plans[1:]
    assert history.read(last=9) == plans
    PlanHistory(tmp_path).append(made_plan(3))
    assert numbers(history) == [0, 1, 2, 3]
    assert (tmp_path / "plans.jsonl").read_bytes().count(b"\n") == 4


@pytest.mark.parametrize("kept_bytes", [1, 100, -2, -1])
def test_a_torn_last_line_is_dropped_and_the_next_plan_stands_alone(
    tmp_path: Path, kept_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole, torn = write_plan(made_plan(0)) + b"\n", write_plan(made_plan(1)) + b"\n"
    (tmp_path / "plans.jsonl").write_bytes(whole + torn[:kept_bytes])
    history = PlanHistory(tmp_path)
    before = [0, 1] if kept_bytes == -1 else [0]  # only the line break is lacking: the plan is whole

    with caplog.at_level(logging.WARNING):
        assert numbers(history) == before
    assert [record.message.split(" is dropped")[0] for record in caplog.records] == (
        [] if kept_bytes == -1 else [f"{tmp_path / 'plans.jsonl'}:2"]
    )
    history.append(made_plan(2))
    assert numbers(history) == [*before, 2]


def test_the_last_plans_are_kept_and_the_file_stays_bounded(tmp_path: Path) -> None:
    history = PlanHistory(tmp_path, kept=5)
    line = len(write_plan(made_plan(10))) + 1
    for n in range(1, 43):
        history.append(made_plan(n))
        assert numbers(history) == list(range(max(1, n - 4), n + 1))
        assert (tmp_path / "plans.jsonl").stat().st_size < 10 * line
    assert [path.name for path in tmp_path.iterdir()] == ["plans.jsonl"]


def test_a_history_opened_again_goes_on_counting(tmp_path: Path) -> None:
    for n in range(1, 25):
        PlanHistory(tmp_path, kept=5).append(made_plan(n))
        assert (tmp_path / "plans.jsonl").read_bytes().count(b"\n") < 10

    assert numbers(PlanHistory(tmp_path, kept=5)) == [20, 21, 22, 23, 24]


def test_a_plan_is_there_after_a_kill(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from dimension_search.plan_history import KEPT_PLANS, PlanHistory, PrecisionHistory
from tests.dimension_search.plans import made_plan
from tests.dimension_search.test_precision_plan import made_precision_plan
PlanHistory(Path({str(tmp_path)!r})).append(made_plan(7))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=60)

    assert done.returncode == -9, done.stderr
    assert numbers(PlanHistory(tmp_path)) == [7]


def test_a_folder_that_is_not_there_takes_no_plan(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        PlanHistory(tmp_path / "absent").append(made_plan(1))
    assert PlanHistory(tmp_path / "absent").read() == []


def test_plans_of_precision_have_a_file_of_their_own(tmp_path: Path) -> None:
    PlanHistory(tmp_path).append(made_plan(1))
    plan = made_precision_plan()
    PrecisionHistory(tmp_path).append(plan)

    assert PrecisionHistory(tmp_path).read() == [plan.without_shared()]
    assert PlanHistory(tmp_path).read() == [made_plan(1)]
