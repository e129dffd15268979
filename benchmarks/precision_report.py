"""README's table of the precision benchmark, made from the results that are kept.

`python -m benchmarks.precision_report [--data globo ...]`: reads `results/precision-DATA.json` and writes the table
between the marks in README.md. Nothing is measured here.
"""

import argparse
import json
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_RESULTS = _ROOT / "benchmarks" / "results"
_BEGIN, _END = "<!-- precision: begin -->", "<!-- precision: end -->"
_LABELS = {
    "fp32": "fp32",
    "fp16": "fp16",
    "int8_minmax": "int8, min/max",
    "int8_greedy": "int8, greedy",
    "int4_minmax": "int4, min/max",
    "int4_greedy": "int4, greedy",
    "int4_greedy_coded": "int4, greedy, coded scales",
    "tiers_uniform": "searched, one codec for all",
    "tiers_per_slot": "searched, a codec a slot",
    "tiers": "**searched, tiers by importance**",
    "searched": "**searched, widths and tiers**",
}
_SHOWN = {
    32.0: tuple(_LABELS),
    16.0: ("fp32", "int8_minmax", "int4_greedy_coded", "tiers"),
    8.0: ("fp32", "int8_minmax", "int4_greedy_coded", "tiers"),
}
_OTHER_DATA = ("fp32", "int8_minmax", "int4_greedy_coded", "tiers", "searched")


def load(data: str) -> dict[str, Any]:
    """The kept results of one data set."""
    text = (_RESULTS / f"precision-{data}.json").read_text(encoding="utf-8")
    results: dict[str, Any] = json.loads(text)["results"]
    return results


def table(data: str, results: dict[str, Any]) -> str:
    """Markdown: a row an entry, by width, then by share of the bytes."""
    lines = [
        f"| {data}, {results['rows']:,} samples | bytes | of the same rows in fp32 | of D 32 in fp32 | AUC "
        "| log-loss against fp32 | largest / 99.9th change of a probability |",
        "|---" * 7 + "|",
    ]
    places = {float(name.split("@")[1]) for name in results if "@" in name}
    widths = sorted((place for place in places if place >= 1), reverse=True)
    for place in [*widths, *sorted((place for place in places if place < 1), reverse=True)]:
        shown = _SHOWN.get(place, tuple(_LABELS))
        for codec in shown if data == "globo" else [one for one in shown if one in _OTHER_DATA]:
            found = results.get(f"{codec}@{place:g}")
            if found:
                lines.append(_row(codec, place, found))
    return "\n".join(lines)


def _row(codec: str, place: float, found: dict[str, Any]) -> str:
    where = f"D {place:g}" if place >= 1 else f"{100 * place:g} % of the width"
    change = "" if codec == "fp32" else f"{100 * found['log_loss_change']:+.4f} ± {100 * found['log_loss_noise']:.4f} %"
    moved = "" if codec == "fp32" else f"{found['probability_change_max']:.4f} / {found['probability_change_p999']:.4f}"
    cells = (
        f"{where}: {_LABELS[codec]}",
        f"{found['bytes'] / 2**20:.2f} MiB",
        f"{found['share']:.1%}",
        f"{found['share_of_reference']:.2%}",
        f"{found['auc']:.4f}",
        change,
        moved,
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Parses the command line and writes README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=["globo", "movielens", "criteo"])
    options = parser.parse_args()
    kept = [data for data in options.data if (_RESULTS / f"precision-{data}.json").exists()]
    readme = _ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    tables = "\n\n".join(table(data, load(data)) for data in kept)
    readme.write_text(before + _BEGIN + "\n" + tables + "\n" + _END + after, encoding="utf-8")
    print(f"wrote README.md from {len(kept)} results")


if __name__ == "__main__":
    main()
