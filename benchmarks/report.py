"""What every benchmark prints: the machine, the versions, the command, and one JSON object as the last line.

Knows nothing of what was measured. Invariant: the last line on standard output is
`{"benchmark": name, "machine": {...}, "results": {...}}`, whatever was printed before it.
"""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["Json", "machine", "quickest_s", "report"]

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

_PACKAGES = ("numpy", "numba", "llvmlite", "torch", "pyarrow", "msgspec", "faust-streaming", "redis", "kafka-python")


def report(benchmark: str, results: Mapping[str, Json], kept: Path | None = None) -> None:
    """Prints machine, versions and command for a reader, then everything once more as one line of JSON.

    Args:
        benchmark: name.
        results: by name.
        kept: file to write that line to as well.
    """
    described = machine()
    for name, value in described.items():
        print(f"# {name}: {value}", file=sys.stderr)
    line = json.dumps({"benchmark": benchmark, "machine": described, "results": dict(results)})
    if kept is not None:
        kept.write_text(line + "\n", encoding="utf-8")
    print(line, flush=True)


def machine() -> dict[str, Json]:
    """The processor, the memory, the load, the versions that matter and the command that runs."""
    return {
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.processor(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "load_1_min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "command": " ".join(["python", *_arguments()]),
    }


def quickest_s(work: Callable[[], object], *, repeats: int, at_most_s: float = 5.0) -> float:
    """Seconds of the quickest of `repeats` runs, the first of which is not counted; ends early after `at_most_s`."""
    work()
    quickest, started = float("inf"), time.perf_counter()
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        end = time.perf_counter()
        quickest = min(quickest, end - begin)
        if end - started > at_most_s:
            break
    return quickest


def _arguments() -> list[str]:
    main = sys.modules["__main__"]
    module = main.__spec__.name if main.__spec__ else Path(sys.argv[0]).name
    return ["-m", module, *sys.argv[1:]] if main.__spec__ else [module, *sys.argv[1:]]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _first_value(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
