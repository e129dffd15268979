"""Streams of made-up samples: DLRM's random generator, and a teacher whose ids are born and die.

Know no Kafka and no file. Invariant: sample number i of a stream is a function of its settings, its seed and i alone,
so batches of any size, started anywhere, are cuts of one and the same stream. The random generator's labels are coin
tosses: nothing can be learned from them, the best reachable AUC is 0.5. The teacher tosses its labels by the sigmoid
of a logit that it tells, so the best reachable AUC is known (`best_auc`).

Source of the random generator: Naumov et al., Deep Learning Recommendation Model (2019), section 5.1, and its reference
program: dense features at random, ids uniform or Gaussian over a table's rows, a fixed or a random number of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dimflow.errors import StreamSettingError
from dimflow.hidden_values import hashed, unit_variance
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot

__all__ = ["DriftingTeacher", "RandomStream", "StreamBatch", "SyntheticStream", "TeacherSlot", "best_auc"]

_BLOCK_ROWS = 8192  # samples that share one seeded generator
_START_MS = 1_700_000_000_000

BlockColumns = tuple[list[Any], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class StreamBatch:
    """B samples and what only their maker knows.

    Attributes:
        samples: columns `label` int8, `ts_ms` int64, then one a slot and one a dense feature, named as in the schema.
        true_logits: float64 (B,); the label is 1 with probability sigmoid(true logit).
    """

    samples: pa.RecordBatch
    true_logits: NDArray[np.float64]


class SyntheticStream(ABC):
    """An endless stream, cut where the caller likes.

    Args:
        schema: what the samples look like.
        seed: of everything; 0 or more.
        samples_per_s: how far apart the time stamps of two samples lie; in the data, not on the clock.
        start_ms: time stamp of sample 0, ms since the epoch.
    """

    def __init__(self, schema: ModelSchema, seed: int, samples_per_s: float, start_ms: int) -> None:
        _check("samples_per_s", samples_per_s, samples_per_s > 0, "a rate above 0")
        _check("seed", seed, seed >= 0, "0 or more")
        self.schema = schema
        self.seed = seed
        self._interval_ms = 1000.0 / samples_per_s
        self._start_ms = start_ms

    @abstractmethod
    def _columns(self, rng: np.random.Generator, numbers: NDArray[np.int64]) -> BlockColumns:
        """Slot and dense columns of a block in the schema's order, and the true logits (B,) of its samples."""

    def batches(self, rows: int | None, batch_rows: int, start: int = 0) -> Iterator[StreamBatch]:
        """Cuts samples `start` to `start + rows` into batches.

        Args:
            rows: how many in all; None never ends.
            batch_rows: rows of every batch but the last.
            start: number of the first sample.
        """
        _check("batch_rows", batch_rows, batch_rows > 0, "1 or more")
        held, whole = -1, None
        end = None if rows is None else start + rows
        while end is None or start < end:
            stop = start + batch_rows if end is None else min(start + batch_rows, end)
            pieces = []
            while start < stop:
                block, low = divmod(start, _BLOCK_ROWS)
                if whole is None or block != held:
                    held, whole = block, self._block(block)
                taken = min(stop - start, _BLOCK_ROWS - low)
                pieces.append(
                    StreamBatch(whole.samples.slice(low, taken), whole.true_logits[low : low + taken]),
                )
                start += taken
            yield _joined(pieces)

    def _block(self, block: int) -> StreamBatch:
        rng = np.random.default_rng([self.seed, block])
        numbers = np.arange(block * _BLOCK_ROWS, (block + 1) * _BLOCK_ROWS)
        columns, logits = self._columns(rng, numbers)
        labels = (rng.random(_BLOCK_ROWS) < _sigmoid(logits)).astype(np.int8)
        ts_ms = self._start_ms + (numbers * self._interval_ms).astype(np.int64)
        names = ["label", "ts_ms", *self.schema.slot_names, *self.schema.dense_names]
        samples = pa.RecordBatch.from_arrays([pa.array(labels), pa.array(ts_ms), *columns], names=names)
        return StreamBatch(samples, logits)


class RandomStream(SyntheticStream):
    """DLRM's random generator: slots `c0`, `c1`, …, dense features `d0`, `d1`, … from a standard normal.

    Args:
        table_rows: different ids of each slot.
        dense: number of dense features.
        lookups: ids of a slot in one sample; with `fixed` just so many, else 1 to so many.
        fixed: see `lookups`.
        distribution: ids uniform over the table, or Gaussian around its middle with an eighth of it as deviation.
        seed: of everything.
        samples_per_s: of the time stamps.
        start_ms: of the first time stamp.

    Raises:
        StreamSettingError: a value that cannot work.
    """

    def __init__(
        self,
        table_rows: Sequence[int],
        dense: int = 0,
        lookups: int = 1,
        *,
        fixed: bool = True,
        distribution: Literal["uniform", "gaussian"] = "uniform",
        seed: int = 0,
        samples_per_s: float = 1000.0,
        start_ms: int = _START_MS,
    ) -> None:
        _check("table_rows", list(table_rows), bool(table_rows) and min(table_rows) > 0, "one number above 0 a slot")
        _check("lookups", lookups, lookups > 0, "1 or more")
        _check("distribution", distribution, distribution in {"uniform", "gaussian"}, "'uniform' or 'gaussian'")
        schema = ModelSchema(
            name="random",
            sparse=tuple(SparseSlot(f"c{i}", multi=lookups > 1) for i in range(len(table_rows))),
            dense=tuple(DenseFeature(f"d{i}") for i in range(dense)),
        )
        super().__init__(schema, seed, samples_per_s, start_ms)
        self._table_rows = tuple(table_rows)
        self._lookups = lookups
        self._fixed = fixed
        self._gaussian = distribution == "gaussian"

    def _columns(self, rng: np.random.Generator, numbers: NDArray[np.int64]) -> BlockColumns:
        n = len(numbers)
        columns = [self._slot(rng, n, rows) for rows in self._table_rows]
        dense = rng.standard_normal((len(self.schema.dense), n), np.float32)
        return [*columns, *(pa.array(values) for values in dense)], np.zeros(n)

    def _slot(self, rng: np.random.Generator, n: int, rows: int) -> Any:
        if self._fixed:
            counts = np.full(n, self._lookups)
        else:
            counts = np.maximum(1, np.rint(rng.random(n) * self._lookups)).astype(np.int64)
        offsets: NDArray[np.int32] = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        if self._gaussian:
            ids = np.clip(np.rint(rng.normal((rows - 1) / 2, rows / 8, offsets[-1])), 0, rows - 1).astype(np.int64)
        else:
            ids = rng.integers(0, rows, offsets[-1])
        if self._lookups == 1:
            return pa.array(ids)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids, pa.int64()))


@dataclass(frozen=True, slots=True)
class TeacherSlot:
    """A slot of the drifting teacher.

    Attributes:
        name: the slot's name.
        live_ids: ids that are alive at any moment.
        zipf: exponent s of their popularity, rank^-s.
        lifetime_samples: samples of the whole stream after which an id dies and another takes its place and its
            popularity; deaths are spread evenly over time. None: ids live for ever.
        importance: weight of the slot in the true logit; 0 is noise.
        importance_after: the same from sample `change_at` of the stream on; None leaves it.
    """

    name: str
    live_ids: int
    zipf: float = 1.0
    lifetime_samples: int | None = None
    importance: float = 1.0
    importance_after: float | None = None


_TEACHER_SLOTS = (
    TeacherSlot("user", 20_000, 0.8, 5_000_000),
    TeacherSlot("item", 2_000, 1.0, 400_000, importance_after=0.0),
    TeacherSlot("site", 200),
    TeacherSlot("device", 6, importance=0.5),
    TeacherSlot("hour", 24, 0.3, importance=0.5),
    TeacherSlot("noise", 1_000, importance=0.0, importance_after=1.0),
)


class DriftingTeacher(SyntheticStream):
    """A hidden factorisation machine over Zipf ids that are born and die.

    Each id x of slot f has hidden numbers u(x) and v(x) of `width` entries, all of variance 1, and with the slots'
    importances a the true logit is

        z = bias + c * (sum_f a_f u(x_f) + sum_{f<g} a_f a_g <v(x_f), v(x_g)> / sqrt(width) + sum_i dense_i w_i)

    with c such that z has the standard deviation `signal` over independent ids. Only pairs of slots with weight need
    columns of an embedding, so importances say which slots deserve width.

    Args:
        slots: see `TeacherSlot`. By default six of them, of which `item` and `noise` swap roles at `change_at`.
        dense: standard normal features `x0`, `x1`, …
        width: entries of v.
        signal: standard deviation of the true logit.
        bias: mean of the true logit.
        change_at: number of the sample from which `importance_after` holds.
        seed: of everything.
        samples_per_s: of the time stamps.
        start_ms: of the first time stamp.

    Raises:
        StreamSettingError: a value that cannot work.
    """

    def __init__(
        self,
        slots: Sequence[TeacherSlot] = _TEACHER_SLOTS,
        *,
        dense: int = 2,
        width: int = 8,
        signal: float = 2.0,
        bias: float = -1.0,
        change_at: int | None = None,
        seed: int = 0,
        samples_per_s: float = 1000.0,
        start_ms: int = _START_MS,
    ) -> None:
        for slot in slots:
            _check(f"live_ids of {slot.name}", slot.live_ids, slot.live_ids > 0, "1 or more")
            lives = slot.lifetime_samples is None or slot.lifetime_samples > 0
            _check(f"lifetime_samples of {slot.name}", slot.lifetime_samples, lives, "1 or more, or None")
        _check("width", width, width > 0, "1 or more")
        _check("signal", signal, signal >= 0, "0 or more")
        schema = ModelSchema(
            name="teacher",
            sparse=tuple(SparseSlot(slot.name) for slot in slots),
            dense=tuple(DenseFeature(f"x{i}") for i in range(dense)),
            bottom=(16,) if dense else (),
        )
        super().__init__(schema, seed, samples_per_s, start_ms)
        self._slots = tuple(slots)
        self._width = width
        self._signal = signal
        self._bias = bias
        self._change_at = change_at
        self._popularity = [_cumulative_zipf(slot.live_ids, slot.zipf) for slot in slots]
        self._dense_weights = unit_variance(np.arange(dense), self._salt(-1), 1)[:, 0]
        before = np.array([slot.importance for slot in slots])
        after = [s.importance if s.importance_after is None else s.importance_after for s in slots]
        self._importances = np.stack((before, after))  # (2, F): before and after the change

    def _salt(self, slot: int) -> int:
        return (self.seed + 1) * 0xD1B54A32D192ED03 + (slot + 2) * 0x8CB92BA72F3D8DD7

    def _columns(self, rng: np.random.Generator, numbers: NDArray[np.int64]) -> BlockColumns:
        n = len(numbers)
        ids = [self._ids(f, rng.random(n), numbers) for f in range(len(self._slots))]
        dense = rng.standard_normal((len(self.schema.dense), n), np.float32)
        columns = [pa.array(values) for values in (*ids, *dense)]
        return columns, self._true_logits(numbers, ids, dense)

    def _ids(self, f: int, uniform: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Int64 (n,): the ids alive at these samples, drawn by popularity; id = generation * live_ids + rank."""
        slot = self._slots[f]
        ranks = np.searchsorted(self._popularity[f], uniform, side="right")
        if slot.lifetime_samples is None:
            return ranks
        phases = (hashed(ranks.astype(np.uint64), self._salt(f)) % np.uint64(slot.lifetime_samples)).astype(np.int64)
        return (numbers + phases) // slot.lifetime_samples * slot.live_ids + ranks

    def _true_logits(
        self, numbers: NDArray[np.int64], ids: Sequence[NDArray[np.int64]], dense: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        changed = np.zeros(len(numbers), np.intp)
        if self._change_at is not None:
            changed = (numbers >= self._change_at).astype(np.intp)
        first = dense.T @ self._dense_weights
        total = np.zeros((len(numbers), self._width))
        squares = np.zeros(len(numbers))
        for f, values in enumerate(ids):
            hidden = unit_variance(values, self._salt(f), self._width + 1)
            hidden *= self._importances[changed, f][:, None]
            first += hidden[:, 0]
            total += hidden[:, 1:]
            squares += (hidden[:, 1:] ** 2).sum(axis=1)
        pairs = ((total**2).sum(axis=1) - squares) / 2 / np.sqrt(self._width)
        logits: NDArray[np.float64] = self._bias + self._scales()[changed] * (first + pairs)
        return logits

    def _scales(self) -> NDArray[np.float64]:
        """Float64 (2,): c of the class's formula, before and after the change."""
        squared = self._importances**2
        pairs = (squared.sum(axis=1) ** 2 - (squared**2).sum(axis=1)) / 2
        variance = squared.sum(axis=1) + pairs + (self._dense_weights**2).sum()
        return np.where(variance > 0, self._signal / np.sqrt(np.maximum(variance, 1e-300)), 0.0)


def best_auc(true_logits: NDArray[np.float64]) -> float:
    """The AUC that scoring by the true logits is expected to reach; nothing scores better in the long run.

    Computed from the probabilities and not from drawn labels, so without their noise: the expected number of rightly
    ordered (positive, negative) pairs over the expected number of pairs, ties counting one half. NaN for fewer than
    two samples.

    Args:
        true_logits: float64 (n,).
    """
    chances = _sigmoid(true_logits)
    _, level = np.unique(true_logits, return_inverse=True)
    positives = np.bincount(level, chances)
    negatives = np.bincount(level, 1.0 - chances)
    own = np.bincount(level, chances * (1.0 - chances))  # a sample makes no pair with itself
    below = np.cumsum(negatives) - negatives
    ordered = (positives * below + (positives * negatives - own) / 2).sum()
    pairs = chances.sum() * (1.0 - chances).sum() - own.sum()
    return float(ordered / pairs) if pairs > 0 else float("nan")


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def _cumulative_zipf(n: int, exponent: float) -> NDArray[np.float64]:
    """Float64 (n - 1,): upper ends of all ranks' shares but the last, for a search that ends in 0 to n - 1."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    ends: NDArray[np.float64] = np.cumsum(weights)[:-1] / weights.sum()
    return ends


def _joined(pieces: Sequence[StreamBatch]) -> StreamBatch:
    if len(pieces) == 1:
        return pieces[0]
    samples = pa.Table.from_batches([piece.samples for piece in pieces]).combine_chunks()
    return StreamBatch(samples.to_batches()[0], np.concatenate([piece.true_logits for piece in pieces]))


def _check(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        msg = f"{name}: {value!r}, expected {expected}"
        raise StreamSettingError(msg)
