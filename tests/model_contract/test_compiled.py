"""The kernel decorators: compiled, without the interpreter lock, never older than their sources."""

import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np

from model_contract.compiled import fast_kernel, kernel, lean_fast_kernel, lean_kernel

ROOT = Path(__file__).resolve().parents[2]


@kernel
def _strict_sum(values):
    total = np.float32(0)
    for value in values:
        total += value
    return total


@fast_kernel
def _free_sum(values):
    total = np.float32(0)
    for value in values:
        total += value
    return total


def test_kernels_release_the_lock_and_keep_nan() -> None:
    values = np.linspace(0, 1, 1001, dtype=np.float32)

    assert _strict_sum.targetoptions["nogil"]
    assert _free_sum.targetoptions["nogil"]
    assert abs(_free_sum(values) - values.sum(dtype=np.float64)) < 1e-2
    assert np.isnan(_free_sum(np.array([1, np.nan], np.float32)))
    sequential = np.float32(0)
    for value in values:
        sequential += value
    assert _strict_sum(values) == sequential


@lean_kernel
def _lean_part(values, least, into):
    for place in range(values.size):
        if values[place] > least:
            into[0] += values[place]


@lean_fast_kernel
def _lean_sum(values, into):
    for start in range(values.size):
        _lean_part(values[start : start + 1], 1, into)


def test_lean_kernels_count_no_references() -> None:
    values, into = np.arange(5.0), np.zeros(1)
    held = sys.getrefcount(values), sys.getrefcount(into)
    _lean_sum(values, into)
    assert into[0] == 2 + 3 + 4
    assert held == (sys.getrefcount(values), sys.getrefcount(into))
    for function in (_lean_part, _lean_sum):
        assert function.targetoptions["nogil"]
        free = numba.njit(**{k: v for k, v in function.targetoptions.items() if k not in ("cache", "nopython")})(
            function.py_func
        )
        free(values, 1, into) if function is _lean_part else free(values, into)
        assert all("NRT_" not in code for code in free.inspect_asm().values())


def test_a_change_in_any_kernel_source_starts_a_new_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "model_contract").mkdir()
    (tmp_path / "embedding_table").mkdir()
    for name in ("__init__.py", "compiled.py"):
        shutil.copy(ROOT / "model_contract" / name, tmp_path / "model_contract" / name)
    other = tmp_path / "embedding_table" / "some_kernels.py"

    def folder() -> str:
        program = "import model_contract.compiled, numba; print(numba.config.CACHE_DIR)"
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    other.write_text("# a kernel\n")
    first = folder()
    assert folder() == first
    other.write_text("# a kernel, changed\n")
    assert folder() != first
