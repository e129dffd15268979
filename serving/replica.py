"""The model that answers: its rows and dense weights, exchanged one whole version at a time.

Knows no Redis, no HTTP and no order of increments: `intake` decides what may be applied. A version is prepared beside
the requests, then shown at once: index entries, missing rows, dense vector and stamp together.

A request takes no lock: it looks its ids up, and does so again if a change was under way or happened meanwhile (a
sequence lock: the count of changes is odd during one). A lock would be held across the kernel's release of the
interpreter lock, and every request would queue for both. What was looked up while the index changed may be nonsense,
and is thrown away before a row is read by it. Rows that a version put out of use keep their values until the last
request from before it is done.

Invariant: every score comes from exactly one version. One thread loads and applies; any number score.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from model_contract.dense_transform import transform_dense
from model_contract.dlrm_forward import DenseNetwork
from model_contract.errors import SchemaError
from model_contract.increment import DenseTensor, Increment
from model_contract.published_versions import version_name
from model_contract.samples import SampleBatch
from model_contract.schema import ModelSchema
from serving.errors import IncrementRefused, ModelNotLoaded, RefusalReason, ReplicaBusy
from serving.row_store import RowStore, StagedRows, gather_pooled, replace_absent

__all__ = ["Footprint", "ModelVersion", "Replica", "Scores"]


_COMPACTED_ROWS = 20_000  # moved after one increment: a change of half a millisecond


@dataclass(frozen=True, slots=True, eq=False)
class ModelVersion:
    """One state of the model, and where it comes from.

    Attributes:
        lineage: history it belongs to.
        epoch: life of the trainer that made it.
        sequence: of the increment (or base) that completed it.
        base_sequence: sequence of the base that was loaded first.
        created_ms: when the trainer cut it.
        newest_sample_ms: time stamp of the newest sample it learned from.
        samples_trained: samples it learned from.
        dense: f32 (P,), the dense network's flat vector.
        dense_mean: f32 (n,), of the standardised features.
        dense_std: f32 (n,).
        readers: requests that are reading rows of this version.
    """

    lineage: str
    epoch: int
    sequence: int
    base_sequence: int
    created_ms: int
    newest_sample_ms: int
    samples_trained: int
    dense: NDArray[np.float32]
    dense_mean: NDArray[np.float32]
    dense_std: NDArray[np.float32]
    readers: "_Readers"

    @property
    def name(self) -> str:
        """What an answer calls it: lineage and sequence, which together mean one state for good."""
        return version_name(self.lineage, self.sequence)


class Scores(NamedTuple):
    """What a batch was answered with.

    Attributes:
        probabilities: f64 (B,).
        version: the one version all of them come from.
        lookups: ids looked up.
        unknown: how many of them had no row and used the slot's missing row.
    """

    probabilities: NDArray[np.float64]
    version: ModelVersion
    lookups: int
    unknown: int


class Footprint(NamedTuple):
    """What the model takes in memory.

    Attributes:
        rows: ids with a row.
        row_bytes: of rows, their ids and free room for more.
        index_bytes: of the index.
        dense_bytes: of the network.
        precision_bytes: the part of `row_bytes` that rows lie in, by codec.
    """

    rows: int
    row_bytes: int
    index_bytes: int
    dense_bytes: int
    precision_bytes: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return self.row_bytes + self.index_bytes + self.dense_bytes


class _Readers:
    """How many requests read rows of one version; entering and leaving are single steps of the interpreter."""

    __slots__ = ("_inside",)

    def __init__(self) -> None:
        self._inside: list[None] = []

    def enter(self) -> None:
        self._inside.append(None)

    def leave(self) -> None:
        self._inside.pop()

    @property
    def none(self) -> bool:
        return not self._inside


class _LookedUp(NamedTuple):
    """A request's hold on one version, whose readers it has entered."""

    store: RowStore
    version: ModelVersion
    handles: NDArray[np.uint32]
    missing: NDArray[np.uint32]


class Replica:
    """Answers batches of samples while increments are applied.

    Args:
        schema: of the model.
        budget_bytes: what rows and index of one model may take; while a new base is loaded there are two.
    """

    def __init__(self, schema: ModelSchema, budget_bytes: int) -> None:
        self._schema = schema
        self._budget_bytes = budget_bytes
        self._network = DenseNetwork(schema)
        self._pooling = schema.pooling_codes
        self._change = threading.Lock()  # held during a change, for those who wait for its end
        self._changes = 0  # twice the changes made, and one more during one
        self._store: RowStore | None = None
        self._version: ModelVersion | None = None
        self._retired: deque[tuple[ModelVersion, NDArray[np.uint32]]] = deque()

    @property
    def version(self) -> ModelVersion | None:
        """The version that answers now, None before the first base."""
        return self._version

    @property
    def footprint(self) -> Footprint:
        """Memory of the model that answers now."""
        store, version = self._store, self._version
        if store is None or version is None:
            return Footprint(0, 0, 0, 0, {})
        return Footprint(store.rows, store.row_bytes, store.index_bytes, version.dense.nbytes, store.precision_bytes)

    def load_base(self, base: Increment) -> ModelVersion:
        """Replaces the whole model; the old one answers until the new one is complete, and is given back then.

        Raises:
            IncrementRefused: the base is not usable; the old model stays.
        """
        version = self._version_of(base, base.header.sequence)
        store = RowStore(self._schema, self._budget_bytes, sum(block.ids.size for block in base.blocks))
        store.show(store.stage(base.blocks, np.empty(0, np.uint64)))
        self._probe(store, version)
        with self._changing():
            self._store, self._version = store, version
        self._retired.clear()
        return version

    def apply(self, increment: Increment) -> ModelVersion:
        """Applies an increment to the version that answers now, whose sequence it must follow.

        Raises:
            ModelNotLoaded: there is no version yet.
            IncrementRefused: the increment is not usable; the old version stays.
        """
        store, old = self._store, self._version
        if store is None or old is None:
            raise ModelNotLoaded
        self._release(store)
        version = self._version_of(increment, old.base_sequence)
        staged = store.stage(increment.blocks, increment.tombstones)
        self._show(store, staged, version)
        self._retired.append((old, staged.replaced))
        compacted = store.stage_compaction(_COMPACTED_ROWS)
        if compacted is not None:  # the same version from other places
            self._show(store, compacted, version)
            self._retired.append((version, compacted.replaced))
        return version

    def score(self, batch: SampleBatch, *, wait: bool = True) -> Scores:
        """Probabilities of a batch, all from one version.

        Args:
            batch: B samples; labels and weights are not looked at.
            wait: whether to wait for a change of version to end, a millisecond for 50,000 rows.

        Raises:
            ModelNotLoaded: there is no version yet.
            ReplicaBusy: a change is under way and `wait` is false.
        """
        looked_up = self._look_up(batch.ids)
        while looked_up is None:
            if not wait:
                raise ReplicaBusy
            with self._change:
                pass
            looked_up = self._look_up(batch.ids)
        store, version, handles, missing = looked_up
        try:
            unknown = replace_absent(handles, batch.offsets, missing)
            emb = gather_pooled(store.views, handles, batch.offsets, self._pooling, self._schema.dim)
        finally:
            version.readers.leave()
        return Scores(self._probabilities(version, emb, batch.dense), version, handles.size, int(unknown))

    def _look_up(self, ids: NDArray[np.uint64]) -> _LookedUp | None:
        """Handles from one version; None where a change was under way or came in between."""
        before = self._changes
        store, version = self._store, self._version
        if store is None or version is None:
            raise ModelNotLoaded
        if before & 1:
            return None
        version.readers.enter()
        looked_up = _LookedUp(store, version, store.find(ids), store.missing_handles)
        if self._changes != before:
            version.readers.leave()
            return None
        return looked_up

    def _probabilities(
        self, version: ModelVersion, emb: NDArray[np.float32], raw_dense: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        dense = transform_dense(self._schema, raw_dense, version.dense_mean, version.dense_std)
        logits = self._network.logits(version.dense, emb, dense)
        return np.asarray(expit(logits.astype(np.float64)))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._change:
            self._changes += 1
            try:
                yield
            finally:
                self._changes += 1

    def _show(self, store: RowStore, staged: StagedRows, version: ModelVersion) -> None:
        with self._changing():
            store.show(staged)
            self._version = version

    def _release(self, store: RowStore) -> None:
        """Gives back rows that no request can read any more: oldest version first, since a row may outlive several."""
        while self._retired and self._retired[0][0].readers.none:
            store.release(self._retired.popleft()[1])

    def _probe(self, store: RowStore, version: ModelVersion) -> None:
        """Scores one sample of nothing but missing values before anybody else does: it must give a number.

        The kernels are compiled or read from their cache here, so that no request waits for it.
        """
        slots = len(self._schema.sparse)
        handles = store.find(self._schema.missing_ids)
        offsets = np.arange(slots + 1)
        replace_absent(handles, offsets, store.missing_handles)
        emb = gather_pooled(store.views, handles, offsets, self._pooling, self._schema.dim)
        dense = np.full((1, len(self._schema.dense)), np.nan, np.float32)
        score = self._probabilities(version, emb, dense)
        if not np.isfinite(score).all():
            raise IncrementRefused(
                RefusalReason.NOT_FINITE, f"a sample of missing values scores {score[0]}: expected a probability"
            )

    def _version_of(self, increment: Increment, base_sequence: int) -> ModelVersion:
        header = increment.header
        network, mean, std = self._dense_parts(increment.dense)
        return ModelVersion(
            lineage=header.lineage,
            epoch=header.epoch,
            sequence=header.sequence,
            base_sequence=base_sequence,
            created_ms=header.created_ms,
            newest_sample_ms=header.newest_sample_ms,
            samples_trained=header.samples_trained,
            dense=network,
            dense_mean=mean,
            dense_std=std,
            readers=_Readers(),
        )

    def _dense_parts(
        self, tensors: Sequence[DenseTensor]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        features = len(self._schema.dense)
        moments = {"dense_mean": np.zeros(0, np.float32), "dense_std": np.zeros(0, np.float32)}
        moments |= {tensor.name: tensor.values for tensor in tensors if tensor.name in moments}
        for name, values in moments.items():
            if values.shape != (features,):
                raise IncrementRefused(
                    RefusalReason.BAD_DENSE, f"{name} has shape {values.shape}: expected ({features},)"
                )
        try:
            network = self._network.layout.join([tensor for tensor in tensors if tensor.name not in moments])
        except SchemaError as error:
            raise IncrementRefused(RefusalReason.BAD_DENSE, str(error)) from error
        mean, std = (values.copy() for values in moments.values())  # no view may keep the increment's bytes alive
        if np.any(std <= 0):
            detail = (
                f"dense_std of feature {self._schema.dense_names[int(np.argmin(std))]} is {std.min()}: expected > 0"
            )
            raise IncrementRefused(RefusalReason.BAD_DENSE, detail)
        if not all(np.isfinite(values).all() for values in (network, mean, std)):
            raise IncrementRefused(
                RefusalReason.NOT_FINITE, "dense tensors hold NaN or infinity: expected finite numbers"
            )
        return network, mean, std
