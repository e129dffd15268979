"""What a checkpoint costs a million live rows: how long training stands still for a cut, what is written, and restored.

    python -m benchmarks.checkpoint [--quick]

A learner as `dimflow train` makes it (8 slots, D 16, count-min admission, Adagrad), every row live. `second` is the cut
after one second of training on a Zipf stream at full speed; `every_row` the worst case, in which each row has changed
since the cut before. Training goes on between the slices in which a cut is copied, a chunk of 4,096 samples at a time,
and changes rows meanwhile. `..._longest_pause_ms` is the longest time training stood still, for a slice or for the cut
itself; `..._at_once_ms` is what one copy at the cut would have taken. Pauses are the best of the repeats, since other
processes on the machine only ever add to them; the times of files are those of this machine's disk.
"""

import argparse
import gc
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Json, report
from model_contract.samples import SampleBatch
from model_contract.schema import ModelSchema, SparseSlot
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.learner import COPIED_AT_ONCE_ROWS, Learner
from stream_trainer.model_state import Manifest, ModelState, settle_rows
from stream_trainer.process import make_learner
from stream_trainer.settings import TrainerSettings
from stream_trainer.state_chain import verify_folder

_SLOTS = 8
_DIM = 16
_CHUNK = 4096
_SCHEMA = ModelSchema("checkpoint", tuple(SparseSlot(f"s{k}") for k in range(_SLOTS)), (), dim=_DIM, top=(64, 32))


class Stream:
    """A Zipf stream over ids that all have a row."""

    def __init__(self, rows: int) -> None:
        numbers = np.arange(1000, 1000 + rows, dtype=np.uint64)
        self.ids = np.random.default_rng(0).permutation(numbers) * np.uint64(0x9E3779B97F4A7C15)
        self.slots = (np.arange(rows) % _SLOTS).astype(np.int32)
        self._generator = np.random.default_rng(1)

    def chunk(self, samples: int = _CHUNK) -> SampleBatch:
        """Samples whose ids are drawn by Zipf's law."""
        most = self.ids.size // _SLOTS - 1
        ranks = np.minimum(self._generator.zipf(1.1, samples * _SLOTS), most).astype(np.int64)
        return self._samples(self.ids[ranks * _SLOTS + np.arange(samples * _SLOTS) % _SLOTS])

    def everything(self) -> SampleBatch:
        """Every id once."""
        return self._samples(self.ids[: self.ids.size // _SLOTS * _SLOTS])

    def _samples(self, ids: NDArray[np.uint64]) -> SampleBatch:
        rows = ids.size // _SLOTS
        return SampleBatch(
            labels=(self._generator.random(rows) < 0.3).astype(np.float32),
            weights=np.ones(rows, np.float32),
            ts_ms=np.zeros(rows, np.int64),
            dense=np.empty((rows, 0), np.float32),
            ids=ids,
            offsets=np.arange(ids.size + 1, dtype=np.int64),
        )


class Run:
    """One learner on one state folder."""

    def __init__(self, folder: Path, stream: Stream) -> None:
        rows = stream.ids.size
        self.stream = stream
        self.settings = TrainerSettings(
            model_file=Path("none"), state_dir=folder, memory_bytes=rows * (4 * _DIM + 120) + (96 << 20)
        )
        self.learner = make_learner(_SCHEMA, self.settings)
        self.store = CheckpointStore(folder, self.learner.merge_admission)
        if np.any(self.learner.table.insert(stream.ids, stream.slots, 1) == np.iinfo(np.uint32).max):
            message = f"{rows} rows do not fit"
            raise RuntimeError(message)
        self.manifest = self.learner.fresh_state(1000).manifest

    def train(self, samples: SampleBatch) -> None:
        """Learns a batch in chunks."""
        self.learner.learn(self.learner.prepare(samples, 2), 2)

    def cut(self) -> ModelState:
        """The next cut of whatever is dirty."""
        self.manifest = msgspec.structs.replace(self.manifest, sequence=self.manifest.sequence + 1)
        return self.learner.take_cut(self.manifest)

    def sliced_cut(self) -> tuple[ModelState, list[float]]:
        """A cut as the training loop takes it; the seconds of every pause."""
        pauses = []
        while True:
            begin = time.perf_counter()
            more = self.learner.copy_ahead()
            if not more:
                break
            pauses.append(time.perf_counter() - begin)
            self.train(self.stream.chunk())
        begin = time.perf_counter()
        cut = self.cut()
        pauses.append(time.perf_counter() - begin)
        return cut, pauses


def main() -> None:
    """Runs all parts and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and repeats, ends within a minute")
    parser.add_argument("--folder", type=Path, help="disk to write to; a temporary folder where not given")
    args = parser.parse_args()
    rows, repeats = (200_000, 2) if args.quick else (1_000_000, 5)
    results: dict[str, Json] = {"rows": rows, "dim": _DIM, "slots": _SLOTS, "slice_rows": COPIED_AT_ONCE_ROWS}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run = Run(Path(folder), Stream(rows))
        run.train(run.stream.chunk())
        run.sliced_cut()  # compiles
        gc.disable()  # as rare as in the trainer
        results |= _second(run, repeats)
        results |= _every_row(run, repeats)
        results |= _files(run)
        run.store.close()
    report("checkpoint", results)


def _second(run: Run, repeats: int) -> dict[str, Json]:
    pauses, at_once, dirty, samples = [], [], 0, 0
    for turn in range(2 * repeats):
        run.cut()
        begin, samples = time.perf_counter(), 0
        while time.perf_counter() - begin < 1.0:
            run.train(run.stream.chunk())
            samples += _CHUNK
        dirty = run.learner.table.changes_listed
        if turn % 2:
            pauses.append(max(run.sliced_cut()[1]))
        else:
            at_once.append(_timed_cut(run))
    return {
        "second_samples": samples,
        "second_dirty_rows": dirty,
        "second_longest_pause_ms": _ms(min(pauses)),
        "second_at_once_ms": _ms(min(at_once)),
    }


def _every_row(run: Run, repeats: int) -> dict[str, Json]:
    pauses, lasts, slices, at_once = [], [], 0, []
    for turn in range(2 * repeats):
        run.train(run.stream.everything())
        if turn % 2:
            _, taken = run.sliced_cut()
            pauses.append(max(taken))
            lasts.append(taken[-1])
            slices = len(taken)
        else:
            at_once.append(_timed_cut(run))
    return {
        "every_row_longest_pause_ms": _ms(min(pauses)),
        "every_row_cut_itself_ms": _ms(min(lasts)),
        "every_row_pauses": slices,
        "every_row_at_once_ms": _ms(min(at_once)),
    }


def _timed_cut(run: Run) -> float:
    begin = time.perf_counter()
    run.cut()
    return time.perf_counter() - begin


def _files(run: Run) -> dict[str, Json]:
    base = run.learner.fresh_state(1000)
    run.manifest = base.manifest
    run.store.write_base(base)
    results: dict[str, Json] = {}
    for name, samples in (("second", run.stream.chunk(100_000)), ("every_row", run.stream.everything())):
        run.train(samples)
        cut, _ = run.sliced_cut()
        begin = time.perf_counter()
        cut = settle_rows(cut)
        settled = time.perf_counter()
        before = run.store.delta_bytes
        run.store.write_delta(cut)
        results |= {
            f"{name}_settle_ms": _ms(settled - begin),
            f"{name}_write_ms": _ms(time.perf_counter() - settled),
            f"{name}_delta_bytes": run.store.delta_bytes - before,
        }
    results |= {"verify_ms": _ms(_timed_verify(run.store.folder)), "restore_ms": _ms(_timed_restore(run))}
    begin = time.perf_counter()
    run.store.compact()
    results |= {"compact_ms": _ms(time.perf_counter() - begin), "base_bytes": run.store.base_bytes}
    return results


def _timed_verify(folder: Path) -> float:
    begin = time.perf_counter()
    damaged = [file for file in verify_folder(folder) if file.error]
    if damaged:
        raise RuntimeError(damaged[0].error)
    return time.perf_counter() - begin


def _timed_restore(run: Run) -> float:
    """A base and two deltas from the disk into a fresh learner, checked against the live one."""
    fresh: Learner = make_learner(_SCHEMA, run.settings)
    begin = time.perf_counter()
    stored = run.store.load(_SCHEMA.fingerprint)
    if stored is None:
        message = "nothing to restore"
        raise RuntimeError(message)
    fresh.restore(stored.state)
    seconds = time.perf_counter() - begin
    found: Manifest = stored.state.manifest
    same = (
        np.array_equal(fresh.step.parameters, run.learner.step.parameters)
        and fresh.table.rows == run.learner.table.rows
    )
    if found.sequence != run.manifest.sequence or not same:
        message = f"restored sequence {found.sequence}, expected {run.manifest.sequence} and the same model"
        raise RuntimeError(message)
    return seconds


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


if __name__ == "__main__":
    main()
