"""A plan as data."""

import msgspec
import pytest

from dimension_search.errors import SearchError
from dimension_search.plan import Verdict, read_plan, write_plan
from tests.dimension_search.plans import made_plan


def test_a_plan_and_its_verdict_come_back_equal() -> None:
    plan = made_plan(5)
    judged = msgspec.structs.replace(
        plan,
        verdict=Verdict(decision="refused", reason="ü > 0.001", samples=9, log_loss_before=0.1, log_loss_after=0.2),
    )

    assert read_plan(write_plan(plan)) == plan
    assert read_plan(write_plan(judged)) == judged
    assert judged != plan


def test_a_plan_says_what_the_table_needs() -> None:
    plan = made_plan(1, widths=[[2, 4], [1, 1]], before=[[2, 2], [1, 1]])

    assert [columns.tolist() for columns in plan.columns] == [[0, 1], [0, 1, 2, 3], [0], [0]]
    assert {columns.dtype.name for columns in plan.columns} == {"uint16"}
    assert plan.widths == [2, 4, 1, 1]
    assert plan.changed
    assert not made_plan(1, widths=[[2, 4]], before=[[2, 4]]).changed


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"planner": 3}', write_plan(made_plan(1))[:-20]])
def test_what_is_not_a_plan_is_refused(text: bytes) -> None:
    with pytest.raises(SearchError, match="not a plan"):
        read_plan(text)
