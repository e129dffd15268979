"""Widths over samples as a picture: a panel for every slot, a line for every band.

Knows plans as data; draws with matplotlib's Agg, without a window and without its global state. Invariant: a line shows
the width that the trainer's rows had: a plan that was refused or only planned is marked and moves no line.
"""

from collections.abc import Sequence
from math import ceil, log2
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, MultipleLocator

from dimension_search.plan import DimensionPlan
from dimflow.errors import PlotError

__all__ = ["save_plot", "widths_over_samples"]

_MAX_COLUMNS = 4
_PANEL_INCHES = (3.4, 2.1)
_INK, _LABEL, _FAINT, _REFUSED, _FILL = "#22303c", "#556677", "#c8d0d8", "#c0392b", "#2f6f9f"


def save_plot(plans: Sequence[DimensionPlan], file: Path, dpi: int = 130) -> None:
    """Draws the plans, oldest first, into a PNG file.

    Raises:
        PlotError: there is no plan, or the file cannot be written.
    """
    if not plans:
        message = "no plan has been made yet: there is nothing to draw"
        raise PlotError(message)
    figure = _draw(plans)
    try:
        figure.savefig(file, format="png", dpi=dpi)
    except OSError as error:
        message = f"--plot: {file}: {error.strerror}"
        raise PlotError(message) from error


def widths_over_samples(plans: Sequence[DimensionPlan]) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """The steps of every (slot, band): (samples, width from there on), the first at 0 samples."""
    steps: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for plan in plans:
        applied = plan.verdict is not None and plan.verdict.decision == "applied"
        for block in plan.blocks:
            line = steps.setdefault((block.slot, block.band), [(0, len(block.columns_before))])
            if len(block.columns_before) != line[-1][1]:  # what this history does not hold: a state taken back
                line.append((plan.samples_trained, len(block.columns_before)))
            if applied:
                line.append((plan.samples_trained, len(block.columns)))
    return steps


def _draw(plans: Sequence[DimensionPlan]) -> Figure:
    steps = widths_over_samples(plans)
    slots = list(dict.fromkeys(slot for slot, _ in steps))
    across = min(_MAX_COLUMNS, max(2, ceil(len(slots) ** 0.5)))
    down = ceil(len(slots) / across)
    figure = Figure(figsize=(_PANEL_INCHES[0] * across, _PANEL_INCHES[1] * (down + 1) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(down + 1, across)
    last = max(plan.samples_trained for plan in plans)
    end = last * 1.06 or 1
    _draw_bytes(figure.add_subplot(grid[0, :]), plans, end)
    widest = max(1, *(width for line in steps.values() for _, width in line))
    for at, slot in enumerate(slots):
        axes = figure.add_subplot(grid[1 + at // across, at % across])
        bands = {band: line for (name, band), line in steps.items() if name == slot}
        _draw_slot(axes, slot, bands, end)
        _mark_refused(axes, plans)
        axes.set_ylim(-0.03 * widest, widest * 1.12)
        axes.yaxis.set_major_locator(MultipleLocator(2.0 ** max(0, round(log2(widest / 4)))))
        axes.set_ylabel("columns" if at % across == 0 else "", fontsize=8, color=_LABEL)
        axes.set_xlabel("samples trained" if at + across >= len(slots) else "", fontsize=8, color=_LABEL)
    _legend(figure, max(band for _, band in steps) + 1, plans)
    count = f"{len(plans)} searches" if len(plans) > 1 else "one search"
    figure.suptitle(f"Widths by slot and popularity band, {count}", color=_INK, x=0.01, ha="left")
    return figure


def _draw_slot(axes: Axes, slot: str, bands: dict[int, list[tuple[int, int]]], end: float) -> None:
    for band, line in sorted(bands.items()):
        samples = [at for at, _ in line] + [end]
        widths = [width for _, width in line] + [line[-1][1]]
        axes.plot(samples, widths, drawstyle="steps-post", solid_joinstyle="miter", **_style(band, max(bands) + 1))
    now = ", ".join(str(line[-1][1]) for _, line in sorted(bands.items(), reverse=True))
    _finish(axes, end)
    axes.set_title(slot, loc="left", fontsize=10, fontweight="bold", color=_INK)
    axes.set_title(f"now {now}", loc="right", fontsize=8, color=_LABEL)


def _draw_bytes(axes: Axes, plans: Sequence[DimensionPlan], end: float) -> None:
    samples, used = [0.0], [plans[0].bytes_before]
    for plan in plans:
        applied = plan.verdict is not None and plan.verdict.decision == "applied"
        samples += [plan.samples_trained] * 2
        used += [plan.bytes_before, plan.bytes_after if applied else plan.bytes_before]
    axes.fill_between([*samples, end], [*used, used[-1]], color=_FILL, alpha=0.15, linewidth=0)
    axes.plot([*samples, end], [*used, used[-1]], color=_FILL, linewidth=1.6)
    budgets = [plans[0].budget_bytes, *(plan.budget_bytes for plan in plans), plans[-1].budget_bytes]
    at = [0, *(plan.samples_trained for plan in plans), end]
    axes.plot(at, budgets, drawstyle="steps-post", color=_INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate("budget", (0, budgets[0]), (4, 3), textcoords="offset points", ha="left", fontsize=8, color=_INK)
    _mark_refused(axes, plans)
    axes.set_ylim(0, max(1, *used, *budgets) * 1.15)
    axes.yaxis.set_major_formatter(EngFormatter("B"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    _finish(axes, end)
    axes.set_title("bytes of all rows", loc="left", fontsize=10, fontweight="bold", color=_INK)


def _mark_refused(axes: Axes, plans: Sequence[DimensionPlan]) -> None:
    for plan in plans:
        if plan.verdict is not None and plan.verdict.decision == "refused":
            axes.axvline(plan.samples_trained, color=_REFUSED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)


def _finish(axes: Axes, end: float) -> None:
    axes.set_xlim(0, end)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", color=_FAINT, linewidth=0.5, alpha=0.6)
    axes.tick_params(labelsize=8, color=_FAINT, labelcolor=_LABEL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)


def _style(band: int, bands: int) -> dict[str, Any]:
    """The hottest band is dark and thick, each colder one lighter, thinner and above: equal widths stay visible."""
    heat = 1.0 if bands == 1 else band / (bands - 1)
    return {"color": mpl.colormaps["YlGnBu"](0.35 + 0.6 * heat), "linewidth": 1.2 + 1.8 * heat, "zorder": 3 - heat}


def _legend(figure: Figure, bands: int, plans: Sequence[DimensionPlan]) -> None:
    names = ["all rows"] if bands == 1 else [f"band {band}" for band in range(bands)]
    names[0] += " (coldest)" if bands > 1 else ""
    names[-1] += " (hottest)" if bands > 1 else ""
    lines = [Line2D([], [], **_style(band, bands)) for band in reversed(range(bands))]
    names.reverse()
    if any(plan.verdict is not None and plan.verdict.decision == "refused" for plan in plans):
        lines.append(Line2D([], [], color=_REFUSED, linewidth=0.9, linestyle=(0, (1, 2))))
        names.append("plan refused")
    figure.legend(lines, names, loc="outside lower left", ncols=len(names), frameon=False, fontsize=8)
