"""What `dimflow demo` shows while it runs: one panel that is redrawn in place, or nothing where there is no terminal.

Knows the numbers it is given and where they come from not at all.
"""

from dataclasses import dataclass

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["DemoMoment", "draw", "terminal"]


@dataclass(frozen=True, slots=True)
class DemoMoment:
    """Everything on the panel at one moment; None where it is not known yet.

    Attributes:
        stage: what is going on, in a few words.
        produced, trained, wanted: samples; `wanted` None for an endless stream.
        samples_per_s: trained, over the last second.
        progressive: progressive metrics by name.
        rows, table_bytes, budget_bytes, evicted_rows: of the table.
        increments, sequence, increment_bytes, dead_letters: published so far.
        freshness_p50_ms, freshness_p95_ms: from Kafka's time stamp to answering in /predict.
        asked: (probability, label that came later) of the last samples asked about ahead of time.
        predict_ms: time of the last call of /predict.
        links: name to URL of the pages that can be opened.
    """

    stage: str
    produced: int = 0
    trained: int = 0
    wanted: int | None = None
    samples_per_s: float = 0.0
    progressive: tuple[tuple[str, float], ...] = ()
    rows: int = 0
    table_bytes: int = 0
    budget_bytes: int = 0
    evicted_rows: int = 0
    increments: int = 0
    sequence: int = 0
    increment_bytes: int = 0
    dead_letters: int = 0
    freshness_p50_ms: float | None = None
    freshness_p95_ms: float | None = None
    asked: tuple[tuple[float, int], ...] = ()
    predict_ms: float | None = None
    links: tuple[tuple[str, str], ...] = ()


def draw(moment: DemoMoment) -> Panel:
    """The panel for one moment."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", justify="right")
    table.add_column(min_width=26)
    table.add_column(style="dim", justify="right")
    table.add_column()
    for left, right in zip(_learning(moment), _serving(moment), strict=True):
        table.add_row(*left, *right)
    parts: list[object] = [table]
    if moment.wanted:
        parts += [Text(), ProgressBar(total=moment.wanted, completed=moment.trained)]
    if moment.links:
        parts += [Text(), Text("   ".join(f"{name} {url}" for name, url in moment.links), style="dim")]
    parts.append(Text("Ctrl-C stops everything that was started", style="dim"))
    return Panel(Group(*parts), title=f"dimflow · {moment.stage}", border_style="cyan")  # type: ignore[arg-type]


def _learning(moment: DemoMoment) -> list[tuple[str, str]]:
    progressive = dict(moment.progressive)
    return [
        ("samples/s", f"[bold]{moment.samples_per_s:,.0f}[/]"),
        ("trained", f"{moment.trained:,} of {moment.produced:,} sent"),
        ("progressive AUC", _number(progressive.get("auc"), 4)),
        ("log-loss", _number(progressive.get("log_loss"), 4)),
        ("rows", f"{moment.rows:,} ({moment.evicted_rows:,} evicted)"),
        ("table", f"{_bytes(moment.table_bytes)} of {_bytes(moment.budget_bytes)}"),
    ]


def _serving(moment: DemoMoment) -> list[tuple[str, str]]:
    p50, p95 = _number(moment.freshness_p50_ms, 0), _number(moment.freshness_p95_ms, 0)
    asked = "  ".join(f"[{_colour(p, label)}]{p:.2f}→{label}[/]" for p, label in moment.asked[:6])
    return [
        ("freshness", f"[bold]p50 {p50} ms, p95 {p95} ms[/]"),
        ("increments", f"{moment.increments:,} ({_bytes(moment.increment_bytes)}), now {moment.sequence}"),
        ("/predict", f"{_number(moment.predict_ms, 1)} ms for {len(moment.asked)} samples of the near future"),
        ("asked→came", asked or "–"),
        ("dead letters", f"{moment.dead_letters:,}"),
        ("", ""),
    ]


def _colour(probability: float, label: int) -> str:
    return "green" if (probability >= 0.5) == bool(label) else "red"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return ""


def terminal() -> Console:
    """The console on standard error, so that standard output stays free for the JSON line."""
    return Console(stderr=True)
