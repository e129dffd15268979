"""What was planned and why, as tables for a terminal.

Knows plans as data, neither where they are kept nor how they were made. Invariant: nothing is left out: every plan has
its row and its verdict, every block of the last plan its width and its reason.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimension_search.plan import BlockPlan, DimensionPlan, Verdict

__all__ = ["bytes_for_people", "console_for_tables", "draw_plans", "made_text", "print_plans", "verdict_text"]

_COLOURS = {"applied": "green", "refused": "red", "planned": "yellow"}
_WIDTH_WITHOUT_TERMINAL = 150


def print_plans(plans: Sequence[DimensionPlan]) -> None:
    """Writes `draw_plans` to standard output."""
    console_for_tables().print(draw_plans(plans))


def console_for_tables() -> Console:
    """Standard output, wide enough where that is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_WITHOUT_TERMINAL)


def draw_plans(plans: Sequence[DimensionPlan]) -> RenderableType:
    """All plans, oldest first, then the blocks of the last one."""
    if not plans:
        return Text("No plan has been made yet.")
    return Group(_history(plans), Text(), _blocks(plans[-1]))


def _history(plans: Sequence[DimensionPlan]) -> Table:
    """Two lines a plan, so that eighty characters hold it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("when (UTC)\ntrigger, planner", no_wrap=True)
    for heading in ("samples", "bytes\nbudget", "log-loss"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("verdict", overflow="fold", min_width=9)
    for plan in plans:
        table.add_row(
            made_text(plan.created_ms, plan.trigger, plan.planner),
            f"{plan.samples_trained:,}",
            Text.assemble(
                _change(plan.bytes_before, plan.bytes_after), (f"\nof {bytes_for_people(plan.budget_bytes)}", "dim")
            ),
            _log_loss(plan.verdict),
            verdict_text(plan.verdict),
        )
    return table


def _log_loss(verdict: Verdict | None) -> str:
    if verdict is None or not verdict.samples:
        return "–"
    return f"{verdict.log_loss_before:.5f}\n→ {verdict.log_loss_after:.5f}"


def made_text(created_ms: int, trigger: str, by: str) -> Text:
    """When a plan was made, in UTC, and in a second line what asked for it and who made it."""
    when = datetime.fromtimestamp(created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return Text.assemble(when, (f"\n{trigger}, {by}", "dim"))


def verdict_text(verdict: Verdict | None) -> Text:
    """Decision, in its colour, and reason."""
    if verdict is None:
        return Text("not judged", style="dim")
    return Text.assemble((verdict.decision, f"bold {_COLOURS[verdict.decision]}"), f": {verdict.reason}")


def _blocks(plan: DimensionPlan) -> Table:
    lost = f"expected to lose {plan.share_lost:.2%} of the worth"
    dropped = f"; dropped: {', '.join(plan.dropped_slots)}" if plan.dropped_slots else ""
    title = Text(f"The last plan, slot by slot ({lost}{dropped})")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("slot", overflow="fold")
    for heading in ("band", "rows", "columns", "bytes"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("reason", overflow="fold")
    slot = None
    for at, block in enumerate(plan.blocks):
        last = at + 1 == len(plan.blocks) or plan.blocks[at + 1].slot != block.slot
        name = Text("" if block.slot == slot else block.slot)
        slot = block.slot
        hottest = " (hottest)" if last and block.band else ""
        table.add_row(
            name,
            f"{block.band}{hottest}",
            f"{block.rows:,}",
            _columns(block),
            _change(block.bytes_before, block.bytes_after),
            Text(block.reason),
            end_section=last,
        )
    return table


def _columns(block: BlockPlan) -> Text:
    before, after = len(block.columns_before), len(block.columns)
    style = "green" if after > before else "yellow" if after < before else "dim"
    return Text(f"{before} → {after}", style=style)


def _change(before: float, after: float) -> str:
    return f"{bytes_for_people(before)} → {bytes_for_people(after)}"


def bytes_for_people(value: float) -> str:
    """A number of bytes in the unit that fits it."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"
