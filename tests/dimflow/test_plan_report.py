"""The tables of plans, as text."""

import pytest
from rich.console import Console

from dimension_search.plan import Verdict
from dimflow.plan_report import draw_plans, print_plans
from tests.dimension_search.plans import made_plan

REFUSED = Verdict(
    decision="refused", reason="log-loss [rises] by 0.002", samples=900, log_loss_before=0.551, log_loss_after=0.553
)


def text_of(*plans, width: int = 150) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))
    with console.file:
        console.print(draw_plans(plans))
    return console.export_text()


def test_every_plan_has_its_row() -> None:
    rows = text_of(made_plan(0), made_plan(4, trigger="command", verdict=REFUSED)).splitlines()
    at = {
        time: rows.index(next(row for row in rows if row.startswith(f" 2023-11-14 {time}")))
        for time in ("22:13", "22:17")
    }
    first, second = (" ".join(" ".join(rows[place : place + 2]).split()) for place in at.values())

    assert first == "2023-11-14 22:13:20 0 149.5 KiB → 27.7 KiB – not judged samples, principal of 97.7 KiB"
    for shown in ("17:20 1,000,000 149.5 KiB → 27.7 KiB 0.55100", "refused: log-loss [rises] by 0.002"):
        assert shown in second
    assert second.endswith("command, principal of 97.7 KiB → 0.55300")


def test_the_last_plan_is_shown_block_by_block() -> None:
    text = text_of(made_plan(1, widths=[[1, 2]]), made_plan(2, widths=[[0, 8], [0, 0]], before=[[4, 8], [0, 0]]))
    blocks = [row.split() for row in text.split("slot by slot")[1].splitlines() if "made up" in row]

    assert "expected to lose 6.25% of the worth; dropped: article" in text
    assert blocks[0][:6] == ["user", "0", "1,000", "4", "→", "0"]
    assert blocks[1][:6] == ["1", "(hottest)", "100", "8", "→", "8"]
    assert blocks[1][-5:] == ["made", "up", "for", "user", "1"]
    assert blocks[2][0] == "article"
    assert len(blocks) == 4


def test_a_slot_of_one_band_has_no_hottest() -> None:
    assert "hottest" not in text_of(made_plan(1, widths=[[8]]))


def test_names_are_text_and_no_markup() -> None:
    assert "[bold]x" in text_of(made_plan(1, widths=[[8]], slots=["[bold]x"]))


def test_no_plans_are_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_plans([])

    assert capsys.readouterr().out == "No plan has been made yet.\n"


def test_eighty_characters_hold_everything() -> None:
    text = text_of(made_plan(3, verdict=REFUSED), width=80)

    for shown in ("refused:", "log-loss", "[rises]", "0.002", "→ 0.55300", "149.5 KiB → 27.7 KiB"):
        assert shown in text
    assert "…" not in text
