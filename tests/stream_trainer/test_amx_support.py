"""The answer is one a process can live by: with it kernels run, and it is given without asking twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import stream_trainer.amx_support
from stream_trainer.amx_support import amx_is_usable, processor_flags

ROOT = Path(__file__).resolve().parent.parent.parent


def test_flags_are_single_words() -> None:
    assert all(flag and " " not in flag for flag in processor_flags())


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="no /proc here")
def test_without_the_flags_there_is_no_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_trainer.amx_support, "processor_flags", lambda: frozenset({"avx512f", "amx_tile"}))
    assert not amx_is_usable.__wrapped__()


def test_a_refused_permission_is_no_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_trainer.amx_support, "_permission_given", lambda: False)
    assert not amx_is_usable.__wrapped__()


def test_a_yes_holds_for_threads_that_ran_before() -> None:
    """Permission belongs to the process; the kernel runs in a thread that was there when it was asked for."""
    program = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
pool = ThreadPoolExecutor(1)
pool.submit(int).result()
from stream_trainer.amx_support import amx_is_usable
if not amx_is_usable():
    print("none")
    raise SystemExit
from tests.stream_trainer.test_amx_products import product
ones = np.ones((40, 40), np.float32)
print(pool.submit(product, ones, ones, 3).result()[0, 0])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("40.0" if amx_is_usable() else "none")
