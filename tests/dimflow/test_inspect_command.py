"""`dimflow inspect`: JSON of what there is, and the tables of plans."""

import json
from pathlib import Path

import msgspec
import pytest

from dimension_search.plan import DimensionPlan, Verdict
from dimension_search.plan_history import PlanHistory, PrecisionHistory
from dimension_search.precision_plan import PrecisionPlan
from dimflow.command import main
from dimflow.model_files import packaged_model_file
from stream_trainer.publisher import Publisher
from stream_trainer.state_file import write_state
from tests.dimension_search.plans import made_plan
from tests.dimension_search.test_precision_plan import made_precision_plan
from tests.stream_trainer.states import block, state


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    assert main(["inspect", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_file(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "model", str(packaged_model_file("globo")))

    assert found["name"] == "globo"
    assert [slot["name"] for slot in found["sparse"]][:2] == ["user", "article"]
    assert found["dense_parameters"]["top.0.weight"] == [128, 36]


def test_a_state_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_state(tmp_path / "base-000000000000.npz", state(0, [block(0, [1], 1.0)]))
    (tmp_path / "delta-000000000001.npz").write_bytes(b"rotten")
    found = printed(capsys, "state", str(tmp_path))

    assert found[0]["manifest"]["lineage"] == "aaaa"
    assert "cannot be read" in found[1]["error"]


def test_what_redis_holds(redis_server, capsys: pytest.CaptureFixture[str]) -> None:
    model = redis_server.fresh_prefix("model")
    assert printed(capsys, "redis", "--redis", redis_server.url, "--model", model) is None
    publisher = Publisher(redis_server.url, model, kept_bases=1, stream_increments=10)
    publisher.replace_base("a", 1, 5, "f", b"base")
    publisher.close()

    found = printed(capsys, "redis", "--redis", redis_server.url, "--model", model)
    assert found == {"lineage": "a", "epoch": 1, "sequence": 5, "base_sequence": 5, "base_chunks": 1}


def test_plans_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "plans", "--state-dir", str(tmp_path), "--json") == []
    plans = [made_plan(1), made_plan(2, verdict=Verdict(decision="refused", reason="worse"))]
    for plan in plans:
        PlanHistory(tmp_path).append(plan)

    assert (
        msgspec.convert(printed(capsys, "plans", "--state-dir", str(tmp_path), "--json"), list[DimensionPlan]) == plans
    )


def test_plans_as_tables_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PlanHistory(tmp_path).append(made_plan(3, verdict=Verdict(decision="applied", reason="better")))
    picture = tmp_path / "widths.png"
    assert main(["inspect", "plans", "--state-dir", str(tmp_path), "--plot", str(picture)]) == 0

    shown = capsys.readouterr().out
    assert "applied: better" in shown
    assert "made up for article 1" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_plans_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "plans", "--state-dir", str(tmp_path)]) == 0
    assert main(["inspect", "plans", "--state-dir", str(tmp_path), "--plot", str(tmp_path / "x.png")]) == 1
    assert main(["inspect", "plans", "--state-dir", str(tmp_path / "absent")]) == 1
    told = capsys.readouterr()

    assert told.out == "No plan has been made yet.\n"
    assert "no plan has been made yet: there is nothing to draw" in told.err
    assert "state_dir: " in told.err


def test_precision_as_json_and_as_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "precision", "--state-dir", str(tmp_path), "--json") == []
    plan = made_precision_plan()
    PrecisionHistory(tmp_path).append(plan)
    found = printed(capsys, "precision", "--state-dir", str(tmp_path), "--json")
    assert msgspec.convert(found, list[PrecisionPlan]) == [plan.without_shared()]

    assert main(["inspect", "precision", "--state-dir", str(tmp_path)]) == 0
    assert "applied: it keeps to the tolerance" in capsys.readouterr().out
    assert main(["inspect", "precision", "--state-dir", str(tmp_path / "absent")]) == 1
