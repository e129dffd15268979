"""`dimflow search` against a trainer's side made of the same two modules that a trainer uses."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dimension_search.plan import DimensionPlan, Verdict
from dimension_search.plan_history import PlanHistory
from dimension_search.search_request import SearchRequest, ask, take
from dimflow.command import main
from tests.dimension_search.plans import made_plan

Answer = Callable[[SearchRequest], list[DimensionPlan]]


class TrainersSide(threading.Thread):
    """Takes requests out of a folder and appends what `answer` makes of them."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        super().__init__()
        self.folder, self.answer, self.taken, self.done = folder, answer, [], threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            request = take(self.folder)
            if request is not None:
                self.taken.append(request)
                for plan in self.answer(request):
                    PlanHistory(self.folder).append(plan)

    def __enter__(self) -> "TrainersSide":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


def answering(decision: str, reason: str = "asked for") -> Answer:
    def answer(request: SearchRequest) -> list[DimensionPlan]:
        verdict = Verdict(decision=decision, reason=reason)  # type: ignore[arg-type]
        second_ms = request.asked_ms // 1000 * 1000  # a trainer that counts seconds
        return [
            made_plan(1, trigger="samples", created_ms=request.asked_ms, verdict=verdict),
            made_plan(8, trigger="command", created_ms=second_ms - 1000, verdict=verdict),
            made_plan(2, trigger="command", created_ms=second_ms, verdict=verdict),
        ]

    return answer


@pytest.mark.parametrize(("mode", "decision"), [("plan-only", "planned"), ("apply", "applied")])
def test_what_was_asked_for_is_done_and_shown(
    tmp_path: Path, mode: str, decision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before_ms = time.time_ns() // 1_000_000
    PlanHistory(tmp_path).append(made_plan(9, trigger="command", created_ms=before_ms))
    with TrainersSide(tmp_path, answering(decision)) as trainer:
        assert main(["search", "--state-dir", str(tmp_path), f"--{mode}"]) == 0

    assert [request.mode for request in trainer.taken] == [mode]
    assert before_ms <= trainer.taken[0].asked_ms <= time.time_ns() // 1_000_000
    shown = capsys.readouterr()
    assert f"{decision}: asked for" in shown.out
    assert "command, principal" in shown.out
    assert " 500,000 " in shown.out
    assert "2,250,000" not in shown.out  # the answer to somebody else, a moment before
    assert "2,000,000" not in shown.out
    assert shown.err == ""


def test_json_is_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainersSide(tmp_path, answering("applied")):
        assert main(["search", "--state-dir", str(tmp_path), "--apply", "--json"]) == 0

    printed = json.loads(capsys.readouterr().out)
    assert msgspec.convert(printed, DimensionPlan) == PlanHistory(tmp_path).read()[-1]


@pytest.mark.parametrize(
    ("mode", "decision", "told"),
    [
        ("apply", "refused", "the plan is refused: worse by 0.002"),
        ("plan-only", "refused", "the plan is refused: worse by 0.002"),
        ("apply", "planned", "the plan is not applied: worse by 0.002"),
    ],
)
def test_a_refusal_ends_with_one_and_its_reason(
    tmp_path: Path, mode: str, decision: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with TrainersSide(tmp_path, answering(decision, "worse by 0.002")):
        assert main(["search", "--state-dir", str(tmp_path), f"--{mode}"]) == 1

    shown = capsys.readouterr()
    assert shown.err == f"dimflow search: {told}\n"
    assert "made up for user" in shown.out


def test_without_a_trainer_the_request_is_taken_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--state-dir", str(tmp_path), "--apply", "--timeout-s", "0.2"]) == 1

    told = "dimflow search: no plan within 0.2 s: no trainer took the request; is one running there?\n"
    assert capsys.readouterr().err == told
    assert take(tmp_path) is None


def test_a_trainer_that_makes_no_plan_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainersSide(tmp_path, lambda _: []):
        assert main(["search", "--state-dir", str(tmp_path), "--plan-only", "--timeout-s", "1"]) == 1

    assert capsys.readouterr().err == "dimflow search: no plan within 1 s: the trainer took the request\n"


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--state-dir", str(tmp_path / "absent"), "--apply"]) == 1
    assert capsys.readouterr().err.startswith("dimflow search: state_dir: ")


@pytest.mark.parametrize("arguments", [[], ["--apply", "--plan-only"]])
def test_exactly_one_mode_is_asked_for(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["search", "--state-dir", str(tmp_path), *arguments])

    assert ended.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_request_gives_way(tmp_path: Path) -> None:
    ask(tmp_path, "plan-only", 1)
    with TrainersSide(tmp_path, lambda request: answering("applied")(request) if request.asked_ms > 1 else []):
        assert main(["search", "--state-dir", str(tmp_path), "--apply"]) == 0
