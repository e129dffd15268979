"""Runs the scenarios one after the other on servers of their own, adds up what they found, and writes the report.

Knows the scenarios' names and what each is given. Invariant: the last line written is the report, whatever broke; the
exit code is 0 only where nothing was lost, trained twice, mixed, served wrong, let through or left undone.
"""

import json
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from dimflow.local_servers import LocalKafka, LocalRedis
from tests.chaos import corrupted_increments, frozen_consumer, outages, trainer_kills, two_trainers, version_purity
from tests.chaos.stage import SCALES, Scale, ScenarioResult

__all__ = ["SCENARIOS", "run_all"]

Scenario = Callable[[Path, int, Scale], ScenarioResult]


def _kills(folder: Path, seed: int, scale: Scale) -> ScenarioResult:
    with LocalKafka(data_dir=folder / "kafka") as kafka, LocalRedis(data_dir=folder / "redis") as redis:
        return trainer_kills.run(folder / "kills", kafka.bootstrap, redis.url, seed, scale.kills, scale.lanes)


def _corruptions(folder: Path, seed: int, scale: Scale) -> ScenarioResult:
    with LocalRedis(data_dir=folder / "redis") as redis:
        return corrupted_increments.run(folder, redis.url, seed, scale.corruptions)


def _purity(folder: Path, seed: int, scale: Scale) -> ScenarioResult:
    with LocalRedis(data_dir=folder / "redis") as redis:
        return version_purity.run(folder, redis.url, seed, scale.increments, scale.answers)


def _outages(folder: Path, seed: int, scale: Scale) -> ScenarioResult:
    return outages.run(folder, seed, scale.outage_s)


def _frozen_trainer(folder: Path, seed: int, scale: Scale) -> ScenarioResult:
    with LocalKafka(data_dir=folder / "kafka") as kafka, LocalRedis(data_dir=folder / "redis") as redis:
        return two_trainers.frozen(folder, kafka.bootstrap, redis.url, seed, scale.frozen_trainer_s)


def _second_worker(folder: Path, seed: int, scale: Scale) -> ScenarioResult:
    with LocalKafka(data_dir=folder / "kafka") as kafka, LocalRedis(data_dir=folder / "redis") as redis:
        return two_trainers.second_worker(folder, kafka.bootstrap, redis.url, seed, scale.joins)


def _frozen_consumer(folder: Path, seed: int, scale: Scale) -> ScenarioResult:
    with LocalKafka(data_dir=folder / "kafka") as kafka, LocalRedis(data_dir=folder / "redis") as redis:
        return frozen_consumer.run(folder, kafka.bootstrap, redis.url, seed, scale.watchdog_s)


SCENARIOS: dict[str, Scenario] = {
    "kills": _kills,
    "corruptions": _corruptions,
    "outages": _outages,
    "frozen_trainer": _frozen_trainer,
    "second_worker": _second_worker,
    "frozen_consumer": _frozen_consumer,
    "purity": _purity,
}


def run_all(scale_name: str, seed: int, names: list[str], out: TextIO) -> int:
    """Runs and reports; returns the exit code."""
    out.write(f"seed {seed}, scale {scale_name}: {', '.join(names)}\n")
    out.flush()
    begin = time.monotonic()
    results: dict[str, ScenarioResult] = {}
    walls: dict[str, float] = {}
    for name in names:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="dimflow-chaos-", ignore_cleanup_errors=True) as folder:
            try:
                results[name] = SCENARIOS[name](Path(folder), seed, SCALES[scale_name])
            except Exception as error:  # noqa: BLE001 - the outermost frame of a scenario: the others still run
                traceback.print_exc()
                results[name] = ScenarioResult(faults=[f"{type(error).__name__}: {error}"])
        walls[name] = round(time.monotonic() - started, 1)
        out.write(f"{name}: {walls[name]} s, {json.dumps(_result(results[name]))}\n")
        out.flush()
    document = report(scale_name, seed, results) | {"wall_s": round(time.monotonic() - begin, 1), "walls_s": walls}
    out.write(json.dumps(document) + "\n")
    return 0 if document["passed"] else 1


def report(scale_name: str, seed: int, results: dict[str, ScenarioResult]) -> dict[str, Any]:
    """The last line: the sums, whether they pass, whether times are within limits, and every scenario's figures."""
    verdicts = [result.verdict for result in results.values()]
    sums = {
        "lost": sum(verdict.lost for verdict in verdicts),
        "twice": sum(verdict.twice for verdict in verdicts),
        "mixed": sum(verdict.mixed for verdict in verdicts),
        "refused": sum(result.refused for result in results.values()),
        "served_wrong": sum(result.served_wrong for result in results.values()),
    }
    sound = not any(sums[name] for name in ("lost", "twice", "mixed", "served_wrong"))
    return {
        "seed": seed,
        "scale": scale_name,
        **sums,
        "passed": sound and not any(result.faults for result in results.values()),
        "within_limits": all(all(result.limits.values()) for result in results.values()),
        "results": {name: _result(result) for name, result in results.items()},
    }


def _result(result: ScenarioResult) -> dict[str, Any]:
    return {
        **result.figures,
        "lost": result.verdict.lost,
        "twice": result.verdict.twice,
        "mixed": result.verdict.mixed,
        "served_wrong": result.served_wrong,
        "limits": result.limits,
        "faults": [*result.faults, *result.verdict.reasons],
    }
