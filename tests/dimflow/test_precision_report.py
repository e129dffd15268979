"""Tables of precision: nothing is left out."""

import io

import msgspec
from rich.console import Console

from dimension_search.plan import Verdict
from dimflow.precision_report import draw_precision, in_force
from tests.dimension_search.test_precision_plan import made_precision_plan

REFUSED = Verdict(decision="refused", reason="too much was lost")


def drawn(*plans: object) -> str:
    console = Console(file=io.StringIO(), width=150)
    console.print(draw_precision(plans))  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_nothing_yet() -> None:
    assert drawn() == "No search for precision has ended yet.\n"
    assert in_force([]) is None


def test_the_plan_in_force_is_the_last_that_was_applied() -> None:
    plan, later = made_precision_plan(), made_precision_plan(samples_trained=70_000, verdict=REFUSED)
    text = drawn(plan, later)

    assert in_force([plan, later]) == plan
    assert "applied: it keeps to the tolerance" in text
    assert "refused: too much was lost" in text
    assert "70,000" in text
    assert "22.5%" in text  # 900 of 4000 bytes


def test_every_tier_with_rows_has_its_bytes_error_and_reason() -> None:
    text = drawn(made_precision_plan())

    assert "12.8%" in text  # 408 of 3200 bytes, by codec
    assert "6.250%" in text
    assert "made up" in text
    assert "int8_minmax" in text
    assert "article" not in text  # no rows


def test_nothing_is_in_force_where_all_were_refused() -> None:
    assert "all rows are fp32" in drawn(msgspec.structs.replace(made_precision_plan(), verdict=REFUSED))
