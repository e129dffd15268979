"""README's table and plots of the dimension benchmark, made from the results that are kept.

`python -m benchmarks.dimension_report [--data globo ...]`: reads `results/dimensions-DATA.json`, writes
`docs/dimensions-DATA.png` (AUC against bytes) and the table between the marks in README.md. Nothing is measured here.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS = _ROOT / "benchmarks" / "results"
_BEGIN, _END = "<!-- dimensions: begin -->", "<!-- dimensions: end -->"
_METHODS = {
    "uniform": ("uniform width", "#8c8c8c", "o"),
    "magnitude": ("magnitude pruning", "#c49c6b", "v"),
    "mde": ("mixed dimensions by power law", "#7a9e7e", "^"),
    "sseds": ("SSEDS, once as published", "#a56eb3", "s"),
    "continual_slots": ("dimflow, slots", "#5b8ccf", "D"),
    "continual_bands": ("**dimflow, slots and bands**", "#d1495b", "*"),
}


def load(data: str) -> dict[str, Any]:
    """The kept results of one data set."""
    text = (_RESULTS / f"dimensions-{data}.json").read_text(encoding="utf-8")
    results: dict[str, Any] = json.loads(text)["results"]
    return results


def table(data: str, results: dict[str, Any]) -> str:
    """Markdown: a row a method, a column a share; AUC, and the spread over seeds in thousandths."""
    shares = sorted({float(name.split("@")[1]) for name in results if "@" in name}, reverse=True)
    head = f"| {data}, {results['rows']:,} samples | " + " | ".join(
        f"{100 * share:g} % of the bytes" for share in shares
    )
    lines = [head + " |", "|---" * (len(shares) + 1) + "|"]
    for method, (label, _, _) in _METHODS.items():
        found = [results.get(f"{method}@{share:g}") for share in shares]
        if any(found):
            cells = [f"{one['auc_mean']:.4f} ± {500 * one['auc_spread']:.1f}e-3" if one else "" for one in found]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(data: str, results: dict[str, Any], path: Path) -> None:
    """AUC against the bytes that were really taken; bars are smallest and largest of the seeds, as far as known."""
    figure, axes = plt.subplots(figsize=(8, 4.8), dpi=120)
    for method, (label, colour, marker) in _METHODS.items():
        found = [one for name, one in results.items() if name.startswith(f"{method}@")]
        if not found:
            continue
        found.sort(key=lambda one: one["bytes"])
        axes.errorbar(
            [one["bytes"] / 2**20 for one in found],
            [one["auc_mean"] for one in found],
            yerr=[one["auc_spread"] / 2 for one in found],
            label=label.strip("*"),
            color=colour,
            marker=marker,
            markersize=9 if marker == "*" else 5,
            linewidth=2 if method.startswith("continual") else 1.2,
            capsize=2,
        )
    steady = [one["auc_mean"] for name, one in results.items() if name.startswith(("uniform@", "continual"))]
    axes.set_ylim(bottom=min(steady) - 0.004)  # what falls out of a budget altogether leaves the picture
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.set_xlabel("MiB of columns and optimizer state, peak after the first search")
    axes.set_ylabel("progressive AUC")
    axes.set_title(f"{data}: {results['rows']:,} samples, every one predicted before it is learned", fontsize=10)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Parses the command line and writes README and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=["globo", "movielens", "criteo"])
    options = parser.parse_args()
    kept = [data for data in options.data if (_RESULTS / f"dimensions-{data}.json").exists()]
    tables = []
    for data in kept:
        results = load(data)
        plot(data, results, _ROOT / "docs" / f"dimensions-{data}.png")
        tables.append(table(data, results))
    readme = _ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    readme.write_text(before + _BEGIN + "\n" + "\n\n".join(tables) + "\n" + _END + after, encoding="utf-8")
    print(f"wrote README.md and {len(kept)} plots")


if __name__ == "__main__":
    main()
