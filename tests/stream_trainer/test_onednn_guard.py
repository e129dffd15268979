"""The decision case by case, and a real bfloat16 step in a process of its own, which must not die."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stream_trainer.onednn_guard
from stream_trainer.onednn_guard import guard_onednn, hides_its_tiles

ROOT = Path(__file__).resolve().parent.parent.parent
AMX = frozenset({"amx_tile", "amx_bf16", "avx512f"})
NOTHING = (0, 0, 0, 0)
PALETTE_1 = (0x2000 | 0x400 << 16, 8 << 16 | 64, 16, 0)  # 8 KiB of 1 KiB tiles; 8 tiles of 64 bytes a row; 16 rows


def leaves(highest: int, palettes: int, palette_1: tuple[int, int, int, int]) -> dict[tuple[int, int], tuple[int, ...]]:
    return {(0, 0): (highest, 1, 2, 3), (0x1D, 0): (palettes, 0, 0, 0), (0x1D, 1): palette_1}


@pytest.mark.parametrize(
    ("flags", "found", "hidden"),
    [
        (AMX, leaves(0x20, 1, PALETTE_1), False),
        (AMX, leaves(0x1C, 0, NOTHING), True),
        (AMX, leaves(0x1C, 7, PALETTE_1), True),  # a leaf too high answers with that of another
        (AMX, leaves(0x20, 0, NOTHING), True),
        (AMX, leaves(0x20, 1, NOTHING), True),
        (AMX - {"amx_tile"}, leaves(0x1C, 0, NOTHING), False),
        (frozenset(), {}, False),
    ],
)
def test_the_decision(flags: frozenset[str], found: dict, hidden: bool) -> None:
    assert hides_its_tiles(flags, found) is hidden


@pytest.fixture
def hidden_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_trainer.onednn_guard, "processor_flags", lambda: AMX)
    monkeypatch.setattr(stream_trainer.onednn_guard.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(stream_trainer.onednn_guard, "cpuid", lambda leaf, subleaf: (0x1C if not leaf else 0, 0, 0, 0))


@pytest.mark.usefixtures("hidden_tiles")
def test_hidden_tiles_limit_onednn_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    environment: dict[str, str] = {}
    with caplog.at_level(logging.WARNING):
        guard_onednn(environment)
        guard_onednn(environment)
    assert environment == {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16"}
    assert ["ONEDNN_MAX_CPU_ISA=AVX512_CORE_FP16" in line for line in caplog.messages] == [True]


@pytest.mark.usefixtures("hidden_tiles")
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_what_somebody_has_set_stays(name: str) -> None:
    environment = {name: "AVX2"}
    guard_onednn(environment)
    assert environment == {name: "AVX2"}


def test_a_processor_without_amx_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_trainer.onednn_guard, "processor_flags", lambda: frozenset({"avx2"}))
    environment: dict[str, str] = {}
    guard_onednn(environment)
    assert environment == {}


def test_a_bf16_step_of_torch_survives() -> None:
    """In a fresh process, since oneDNN reads its limit once; the layers are wide enough for its matrix kernels."""
    program = """
import numpy as np
from stream_trainer.autograd_step import AutogradStep
from stream_trainer.recipe import Recipe
from tests.stream_trainer.train_cases import NOW_S, make_case, schema
case = make_case(schema(dense=3, dim=64, top=(128, 64)))
step = AutogradStep(case.model, Recipe(batch_size=64), 1, "bf16")
print(np.isfinite(step.train(case.table, case.batch(64, 1), NOW_S)).all())
"""
    environment = {name: value for name, value in os.environ.items() if "MAX_CPU_ISA" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr}"
    assert done.stdout.strip() == "True"
