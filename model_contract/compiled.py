"""The decorators that compile kernels: numba, without the interpreter lock, cached on disk.

Knows nothing of what a kernel computes. Invariant: a cached binary is never older than any kernel source of this
distribution. numba's own cache looks at the file of the decorated function alone, so a kernel that inlines another
file's kernel would go on running its old code after an update; here the cache folder is named by a digest of all
sources that may hold kernels, so a change anywhere starts a new folder.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import config

__all__ = ["fast_kernel", "kernel", "lean_fast_kernel", "lean_kernel"]

F = TypeVar("F", bound=Callable[..., Any])

_KERNEL_PACKAGES = (
    "model_contract",
    "embedding_table",
    "feature_admission",
    "dimension_search",
    "stream_trainer",
    "serving",
)


def _sources_digest(root: Path) -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for package in _KERNEL_PACKAGES:
        for path in sorted((root / package).glob("*.py")):
            source = path.read_bytes()
            if b"kernel" in source:
                digest.update(path.name.encode() + b"\0" + source)
    return digest.hexdigest()[:16]


def _use_cache_folder(root: Path) -> None:
    chosen = getattr(config, "CACHE_DIR", "")  # by the person running it, with NUMBA_CACHE_DIR
    base = Path(chosen) if chosen else root / "model_contract" / "__pycache__"
    config.CACHE_DIR = str(base / f"kernels-{_sources_digest(root)}")  # type: ignore[attr-defined]


_use_cache_folder(Path(__file__).resolve().parent.parent)


_FAST = {"reassoc", "contract", "nsz", "arcp"}
_LEAN: dict[str, Any] = {"_nrt": False}  # as numba compiles its own merge sort; not in its documentation


def kernel(function: F) -> F:
    """Compiles `function` with numba on first call: nopython, GIL released, IEEE arithmetic, cached on disk."""
    return cast("F", numba.njit(nogil=True, cache=True)(function))


def fast_kernel(function: F) -> F:
    """As `kernel`, with sums free to be reordered and multiply-adds fused, so that loops over floats vectorise.

    NaN and infinity keep their meaning. The result is the same at every run of one binary, but not the strict
    left-to-right sum: use it where trainer and server run this very kernel or where a tolerance is stated.
    """
    return cast("F", numba.njit(nogil=True, cache=True, fastmath=_FAST)(function))


def lean_kernel(function: F) -> F:
    """As `kernel`, for functions that allocate nothing: compiled without reference counts of arrays.

    numba counts a reference to every array at the start and end of each kernel, inlined ones too, in atomic
    instructions on a word that all threads share, and drops a pair of these only where no branch lies between. Called
    once a row that costs more than the row itself. What is handed in is held by the caller; slices of it may be taken.
    Who answers with an array may be called by another of these alone: it is no new reference.
    """
    return cast("F", numba.njit(nogil=True, cache=True, **_LEAN)(function))


def lean_fast_kernel(function: F) -> F:
    """As `fast_kernel` and `lean_kernel` both."""
    return cast("F", numba.njit(nogil=True, cache=True, fastmath=_FAST, **_LEAN)(function))
