"""Promises of the project as a whole: what the documents list exists, and importing does nothing but import."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from model_contract.process_settings import SettingsClass
from serving.settings import PREFIX as SERVING_PREFIX
from serving.settings import ServingSettings
from stream_trainer.settings import PREFIX as TRAINER_PREFIX
from stream_trainer.settings import TrainerSettings

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "dimflow",
    "stream_trainer",
    "serving",
    "feature_admission",
    "dimension_search",
    "embedding_table",
    "model_contract",
)
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).glob("*.py"))
SETTINGS = [(TrainerSettings, TRAINER_PREFIX), (ServingSettings, SERVING_PREFIX)]


def module_names() -> list[str]:
    names = [f"{path.parent.name}.{path.stem}" for path in MODULES if path.stem not in {"__init__", "__main__"}]
    return [*PACKAGES, *names]


def test_the_readme_maps_every_module_once() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    mapped = re.findall(r"^\s*[│├└─ ]+\s*(\w+\.py)\s+#", text, re.MULTILINE)
    here = sorted(path.name for path in MODULES if path.stem not in {"__init__", "__main__"})
    here += sorted(p.name for p in (ROOT / "benchmarks").glob("*.py") if p.stem != "__init__")

    assert sorted(mapped) == sorted(here)


def test_every_file_that_a_document_names_exists() -> None:
    for document in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))):
        named = re.findall(r"`((?:[\w.]+/)+[\w.]+\.(?:py|toml|md|bin|json))`", document.read_text(encoding="utf-8"))
        assert [name for name in named if not (ROOT / name).exists()] == [], document.name


@pytest.mark.parametrize(("cls", "prefix"), SETTINGS, ids=["trainer", "serving"])
def test_every_setting_is_documented_with_its_default_and_help(cls: type[SettingsClass], prefix: str) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

    for field in dataclasses.fields(cls):
        shown = f"`{field.default}`" if field.default != "" else "empty"
        default = "required" if field.default is dataclasses.MISSING else shown
        row = f"| `{prefix}{field.name.upper()}` | {default} | {field.metadata['help']} |"
        assert row in text, f"docs/configuration.md lacks the row: {row}"


def test_the_compose_file_sets_only_settings_that_exist() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    known = {prefix + field.name.upper() for cls, prefix in SETTINGS for field in dataclasses.fields(cls)}
    used = set(re.findall(r"DIMFLOW_[A-Z_]+", text))

    assert used
    assert used <= known


def test_constraints_name_versions_and_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]

    assert len(pinned) > 30
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+_]+", line) for line in pinned)


def test_every_module_has_its_test_file() -> None:
    untested = [
        f"{path.parent.name}/{path.name}"
        for path in MODULES
        if path.stem not in {"__init__", "__main__"}
        and not (ROOT / "tests" / path.parent.name / f"test_{path.stem}.py").exists()
    ]

    assert untested == []


def test_no_module_uses_the_builtin_hash_or_pickle() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "hash", f"{path}:{node.lineno}: differs between processes"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not any(name.split(".")[0] in {"pickle", "dill", "shelve"} for name in names), path


def test_faust_redis_and_http_clients_appear_where_the_design_says() -> None:
    users: dict[str, list[str]] = {"faust": [], "redis": [], "kafka": []}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for name in imported:
                if name.split(".")[0] in users:
                    users[name.split(".")[0]].append(f"{path.parent.name}/{path.name}")

    assert set(users["faust"]) <= {"stream_trainer/app.py", "stream_trainer/bulk_consumer.py"}
    assert set(users["kafka"]) <= {"dimflow/sample_producer.py", "dimflow/dead_letter_topic.py"}
    assert set(users["redis"]) <= {
        "stream_trainer/publisher.py",
        "serving/subscriber.py",
        "serving/version_pins.py",
        "dimflow/local_servers.py",
    }


def test_importing_any_module_opens_no_socket_and_configures_no_logging() -> None:
    program = """
import importlib, logging, os, socket, sys, warnings
warnings.simplefilter("ignore")
os.environ.clear()
def refuse(*args, **kwargs):
    raise RuntimeError("a module opened a connection at import")
socket.socket.connect = refuse
socket.socket.bind = refuse
before = list(logging.getLogger().handlers)
for name in sys.argv[1:]:
    importlib.import_module(name)
assert logging.getLogger().handlers == before, "a module configured logging at import"
print("imported", len(sys.argv) - 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *module_names()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert f"imported {len(module_names())}" in done.stdout
