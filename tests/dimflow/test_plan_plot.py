"""The picture of plans: what its lines say, and that it is a picture."""

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from dimension_search.plan import Verdict
from dimflow.errors import PlotError
from dimflow.plan_plot import save_plot, widths_over_samples
from tests.dimension_search.plans import made_plan

APPLIED = Verdict(decision="applied", reason="")
REFUSED = Verdict(decision="refused", reason="")


def test_a_line_follows_what_was_applied_and_nothing_else() -> None:
    plans = [
        made_plan(1, widths=[[2, 8]], before=[[32, 32]], verdict=APPLIED),
        made_plan(2, widths=[[1, 4]], before=[[2, 8]], verdict=REFUSED),
        made_plan(3, widths=[[1, 4]], before=[[2, 8]], verdict=Verdict(decision="planned", reason="")),
        made_plan(4, widths=[[1, 4]], before=[[2, 8]]),
        made_plan(5, widths=[[3, 16]], before=[[2, 8]], verdict=APPLIED),
    ]

    assert widths_over_samples(plans) == {
        ("user", 0): [(0, 32), (250_000, 2), (1_250_000, 3)],
        ("user", 1): [(0, 32), (250_000, 8), (1_250_000, 16)],
    }


def test_a_width_that_changed_elsewhere_is_seen_at_the_next_plan() -> None:
    plans = [
        made_plan(1, widths=[[8]], before=[[32]], verdict=APPLIED),
        made_plan(2, widths=[[4]], before=[[16]], verdict=REFUSED),
    ]

    assert widths_over_samples(plans) == {("user", 0): [(0, 32), (250_000, 8), (500_000, 16)]}


@pytest.mark.parametrize(("slots", "bands"), [(1, 1), (2, 3), (7, 2), (26, 1)])
def test_any_number_of_slots_and_bands_is_drawn(tmp_path: Path, slots: int, bands: int) -> None:
    plans = [
        made_plan(
            n,
            slots=[f"slot{at}" for at in range(slots)],
            widths=[[n] * bands] * slots,
            before=[[n - 1] * bands] * slots,
            rows=[[10] * bands] * slots,
            verdict=REFUSED if n == 2 else APPLIED,
        )
        for n in (1, 2, 3)
    ]
    save_plot(plans, tmp_path / "widths.png", dpi=40)
    picture = imread(tmp_path / "widths.png")

    assert picture.shape[0] > 100
    assert picture.shape[1] > 200
    assert picture.std() > 0.05  # something is drawn


def test_a_first_plan_without_rows_or_samples_is_drawn(tmp_path: Path) -> None:
    save_plot([made_plan(0, widths=[[0]], before=[[0]], rows=[[0]])], tmp_path / "widths.png", dpi=40)


def test_nothing_to_draw_and_nowhere_to_draw_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match="no plan has been made yet"):
        save_plot([], tmp_path / "widths.png")
    with pytest.raises(PlotError, match=r"--plot: .*widths.png: No such file or directory"):
        save_plot([made_plan(1)], tmp_path / "absent" / "widths.png")
    assert list(tmp_path.iterdir()) == []


def test_only_a_picture_needs_matplotlib() -> None:
    program = """
import sys
from dimflow.command import main
import dimflow.inspect_command, dimflow.search_command
sys.exit("matplotlib" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=120)

    assert done.returncode == 0, done.stderr
