"""How precisely rows are served and why, as tables for a terminal.

Knows plans as data, neither where they are kept nor how they were made. Invariant: every search has its row and its
verdict; every tier of the plan in force its rows, bytes, error and reason.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dimension_search.precision_plan import PrecisionPlan, TierPlan
from dimflow.plan_report import bytes_for_people, console_for_tables, made_text, verdict_text

__all__ = ["draw_precision", "in_force", "print_precision"]


def print_precision(plans: Sequence[PrecisionPlan]) -> None:
    """Writes `draw_precision` to standard output."""
    console_for_tables().print(draw_precision(plans))


def in_force(plans: Sequence[PrecisionPlan]) -> PrecisionPlan | None:
    """The last plan that was applied; None where all rows are fp32."""
    applied = [plan for plan in plans if plan.verdict is not None and plan.verdict.decision == "applied"]
    return applied[-1] if applied else None


def draw_precision(plans: Sequence[PrecisionPlan]) -> RenderableType:
    """All searches, oldest first, then bytes by codec, and the tiers of the plan in force with their errors."""
    if not plans:
        return Text("No search for precision has ended yet.")
    plan = in_force(plans)
    if plan is None:
        return Group(_searches(plans), Text("\nNo plan is in force: all rows are fp32."))
    return Group(_searches(plans), Text(), _by_codec(plan), Text(), _tiers(plan))


def _searches(plans: Sequence[PrecisionPlan]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("when (UTC)\ntrigger, policy", no_wrap=True)
    for heading in ("samples", "bytes\nof fp32", "plans\njudged"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("verdict", overflow="fold", min_width=9)
    for plan in plans:
        table.add_row(
            made_text(plan.created_ms, plan.trigger, plan.policy),
            f"{plan.samples_trained:,}",
            Text.assemble(bytes_for_people(plan.bytes_after), (f"\n{_share(plan)}", "dim")),
            str(len(plan.candidates)),
            verdict_text(plan.verdict),
        )
    return table


def _share(plan: PrecisionPlan) -> str:
    return f"{plan.bytes_after / max(plan.bytes_before, 1):.1%}"


def _by_codec(plan: PrecisionPlan) -> Table:
    table = _titled("The plan in force, codec by codec")
    table.add_column("codec")
    for heading in ("rows", "bytes", "of these rows in fp32"):
        table.add_column(heading, no_wrap=True, justify="right")
    by_codec: dict[str, list[TierPlan]] = {}
    for tier in plan.tiers:
        by_codec.setdefault(tier.codec, []).append(tier)
    for codec, tiers in sorted(by_codec.items(), key=lambda item: -sum(tier.bytes_after for tier in item[1])):
        before, after = sum(tier.bytes_before for tier in tiers), sum(tier.bytes_after for tier in tiers)
        rows = sum(tier.rows for tier in tiers)
        if rows:
            table.add_row(codec, f"{rows:,}", bytes_for_people(after), f"{after / max(before, 1):.1%}")
    return table


def _tiers(plan: PrecisionPlan) -> Table:
    table = _titled("Slot by slot: rows from a decayed count on, and the error of what is read of them")
    table.add_column("slot", overflow="fold")
    for heading in ("band", "from", "codec", "rows", "bytes", "error"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("reason", overflow="fold")
    shown = [tier for tier in plan.tiers if tier.rows]
    for number, tier in enumerate(shown):
        first = number == 0 or shown[number - 1].slot != tier.slot
        last = number + 1 == len(shown) or shown[number + 1].slot != tier.slot
        table.add_row(
            Text(tier.slot if first else ""),
            str(tier.band),
            f"{tier.least_count:g}",
            tier.codec,
            f"{tier.rows:,}",
            bytes_for_people(tier.bytes_after),
            f"{tier.error:.3%}",
            Text(tier.reason),
            end_section=last,
        )
    return table


def _titled(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
