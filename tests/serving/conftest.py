"""A model written down in plain Python, its bytes, a Redis that holds it, and a server that answers from it."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import redis
import xxhash
from numpy.typing import NDArray

from embedding_table.row_codecs import CODECS
from model_contract.dense_layout import DenseLayout
from model_contract.increment import DenseTensor, Increment, IncrementHeader, IncrementLimits, RowBlock, encode
from model_contract.prediction_request import PredictionRequestDecoder
from model_contract.published_versions import StoredBase
from model_contract.redis_keys import BASE_CHUNK_BYTES, INCREMENT_FIELD, RedisKeys, entry_id
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot
from serving.feed_log import FeedLog
from serving.freshness import FreshnessMeter
from serving.intake import Head, Intake
from serving.prediction_description import example_instance
from serving.process import HttpServer, ServingParts, assemble, listen
from serving.replica import Replica
from serving.settings import ServingSettings

NOW_MS = 1_700_000_000_000
SEED = 20260101


def schema_with_dense(name: str = "small") -> ModelSchema:
    return ModelSchema(
        name=name,
        sparse=(SparseSlot("user"), SparseSlot("tags", "mean", multi=True), SparseSlot("seen", "sum", multi=True)),
        dense=(DenseFeature("x"), DenseFeature("price", "log1p"), DenseFeature("age", "standardise")),
        dim=8,
        bottom=(12,),
        top=(16, 8),
    )


def schema_without_dense(name: str = "bare") -> ModelSchema:
    return replace(schema_with_dense(name), dense=(), bottom=())


def fp32_block(
    slot: int, columns: NDArray[np.uint16], ids: NDArray[np.uint64], values: NDArray[np.float32]
) -> RowBlock:
    packed = CODECS["fp32"].encode(values)
    return RowBlock(slot, 0, columns, "fp32", ids, packed.data, packed.shared)


def feature_id(slot: str, value: str) -> int:
    return xxhash.xxh64(value.encode(), seed=xxhash.xxh64(slot.encode()).intdigest()).intdigest() or 1


@dataclass
class Row:
    slot: int
    band: int
    values: NDArray[np.float32]
    precision: str = "fp32"


@dataclass
class PlainModel:
    """The second implementation: a dict of rows, named matrices, loops and float64."""

    schema: ModelSchema
    rng: np.random.Generator
    vocabulary: int = 40
    lineage: str = "first"
    epoch: int = 1
    sequence: int = 0
    base_sequence: int = 0
    codecs: tuple[str, ...] = ("fp32",)  # a row that is set has any one of them
    rows: dict[int, Row] = field(default_factory=dict)
    columns: dict[tuple[int, int], NDArray[np.uint16]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dim = self.schema.dim
        for slot in range(len(self.schema.sparse)):
            self.columns[slot, 0] = np.arange(dim, dtype=np.uint16)
            pruned = np.sort(self.rng.choice(dim, size=1 + slot, replace=False)).astype(np.uint16)
            self.columns[slot, 1] = pruned
        for slot, name in enumerate(self.schema.slot_names):
            for value in ["", *map(str, range(self.vocabulary))]:
                self.set_row(feature_id(name, value), slot, band=0 if value == "" else int(self.rng.integers(2)))
        self.shake_dense()

    def set_row(self, row_id: int, slot: int, band: int) -> None:
        width = self.columns[slot, band].size
        precision = self.codecs[int(self.rng.integers(len(self.codecs)))]
        values = self.rng.normal(0, 0.5, width).astype(np.float32)
        self.rows[row_id] = Row(slot, band, values, precision)

    def shake_dense(self) -> None:
        layout = DenseLayout(self.schema)
        self.tensors = {
            entry.name: self.rng.normal(0, entry.shape[-1] ** -0.5, entry.shape).astype(np.float32)
            for entry in layout.entries
        }
        count = len(self.schema.dense)
        self.mean = self.rng.normal(0, 1, count).astype(np.float32)
        self.std = self.rng.uniform(0.5, 2, count).astype(np.float32)

    def header(self, kind: str, **changes: Any) -> IncrementHeader:
        header = IncrementHeader(
            kind=kind,  # type: ignore[arg-type]
            schema_fingerprint=self.schema.fingerprint,
            lineage=self.lineage,
            epoch=self.epoch,
            sequence=self.sequence,
            base_sequence=self.sequence if kind == "base" else self.base_sequence,
            created_ms=NOW_MS + self.sequence,
            newest_sample_ms=NOW_MS,
            samples_trained=100 * self.sequence,
            sample_times=((NOW_MS - 200, 3), (NOW_MS - 100, 1)) if kind == "increment" else (),
        )
        return replace(header, **changes)

    def blocks(self, ids: list[int]) -> tuple[RowBlock, ...]:
        """The rows as they are sent. From then on the model knows them as they decode."""
        by_block: dict[tuple[int, int, str], list[int]] = {}
        for row_id in sorted(ids):
            row = self.rows[row_id]
            by_block.setdefault((row.slot, row.band, row.precision), []).append(row_id)
        return tuple(self._block(*key, members) for key, members in sorted(by_block.items()))

    def _block(self, slot: int, band: int, precision: str, members: list[int]) -> RowBlock:
        codec = CODECS[precision]
        packed = codec.encode(np.stack([self.rows[row_id].values for row_id in members]))
        for row_id, values in zip(members, codec.decode(packed), strict=True):
            self.rows[row_id].values = values
        ids = np.array(members, np.uint64)
        return RowBlock(slot, band, self.columns[slot, band], precision, ids, packed.data, packed.shared)

    def dense(self) -> tuple[DenseTensor, ...]:
        tensors = [DenseTensor(name, values) for name, values in self.tensors.items()]
        if self.schema.dense:
            tensors += [DenseTensor("dense_mean", self.mean), DenseTensor("dense_std", self.std)]
        return tuple(tensors)

    def base(self, **changes: Any) -> Increment:
        self.base_sequence = self.sequence
        header = self.header("base", **changes)
        return Increment(header, self.blocks(list(self.rows)), np.empty(0, np.uint64), self.dense())

    def step(self, changed: int = 10, died: int = 3, born: int = 2, **changes: Any) -> Increment:
        """Learns: changes some rows, loses some, gains some (also lost ones again), and answers what to publish."""
        self.sequence += 1
        missing = set(self.schema.missing_ids.tolist())
        ordinary = [row_id for row_id in self.rows if row_id not in missing]
        gone = self._some_of(ordinary, died)
        touched = set(self._some_of(list(self.rows), changed))
        for row_id in gone:
            del self.rows[row_id]
        for _ in range(born):
            slot = int(self.rng.integers(len(self.schema.sparse)))
            row_id = feature_id(self.schema.slot_names[slot], str(self.rng.integers(self.vocabulary + 10)))
            touched.add(row_id)
            if row_id not in self.rows:
                self.set_row(row_id, slot, band=int(self.rng.integers(2)))
        alive = sorted(touched & self.rows.keys())
        for row_id in alive:  # a row may come back in another band, that is, with other columns
            band = 0 if row_id in missing else int(self.rng.integers(2))
            self.set_row(row_id, self.rows[row_id].slot, band)
        self.shake_dense()
        tombstones = np.array(sorted(gone), np.uint64)
        return Increment(self.header("increment", **changes), self.blocks(alive), tombstones, self.dense())

    def _some_of(self, ids: list[int], count: int) -> list[int]:
        return [ids[at] for at in self.rng.permutation(len(ids))[:count]]

    def instance(self) -> dict[str, Any]:
        """A random instance: values with and without rows, lists, and things left out."""
        sparse: dict[str, Any] = {}
        for slot in self.schema.sparse:
            values = [str(v) for v in self.rng.integers(0, self.vocabulary + 20, self.rng.integers(0, 4))]
            if slot.multi and values:
                sparse[slot.name] = values
            elif values:
                sparse[slot.name] = values[0]
        dense = {name: float(self.rng.normal(0, 2)) for name in self.schema.dense_names if self.rng.random() < 0.8}
        return {"sparse": sparse, "dense": dense}

    def probability(self, instance: dict[str, Any]) -> float:
        vectors = [self._pooled(i, instance["sparse"].get(s.name)) for i, s in enumerate(self.schema.sparse)]
        bottom = None
        if self.schema.dense:
            bottom = np.array([self._transformed(i, instance["dense"]) for i in range(len(self.schema.dense))])
            for layer in range(len(self.schema.bottom) + 1):
                bottom = np.maximum(self._linear(f"bottom.{layer}", bottom), 0)
            vectors = [bottom, *vectors]
        dots = [float(vectors[i] @ vectors[j]) for i in range(len(vectors)) for j in range(i)]
        top = np.array(dots if bottom is None else [*bottom, *dots])
        for layer in range(len(self.schema.top) + 1):
            top = self._linear(f"top.{layer}", top)
            if layer < len(self.schema.top):
                top = np.maximum(top, 0)
        return float(1 / (1 + np.exp(-top[0])))

    def _linear(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.tensors[f"{name}.weight"].astype(np.float64) @ x + self.tensors[f"{name}.bias"].astype(np.float64)

    def _pooled(self, slot: int, value: Any) -> NDArray[np.float64]:
        name = self.schema.slot_names[slot]
        values = [""] if value in (None, "", []) else value if isinstance(value, list) else [value]
        total = np.zeros(self.schema.dim)
        for item in values:
            row = self.rows.get(feature_id(name, item)) or self.rows[feature_id(name, "")]
            total[self.columns[row.slot, row.band]] += row.values
        return total / len(values) if self.schema.sparse[slot].pooling == "mean" else total

    def _transformed(self, index: int, dense: dict[str, float]) -> float:
        feature = self.schema.dense[index]
        if feature.name not in dense:
            return 0.0
        value = dense[feature.name]
        if feature.transform == "log1p":
            return float(np.sign(value) * np.log1p(abs(value)))
        if feature.transform == "standardise":
            return float((value - self.mean[index]) / self.std[index])
        return value


@dataclass
class RedisModel:
    """Writes a model to Redis as the publisher does."""

    client: "redis.Redis"
    schema: ModelSchema

    @property
    def keys(self) -> RedisKeys:
        return RedisKeys(self.schema.name)

    def put_base(self, base: Increment, **changes: Any) -> None:
        data = encode(base)
        header = base.header
        chunks = [data[i : i + BASE_CHUNK_BYTES] for i in range(0, len(data), BASE_CHUNK_BYTES)]
        for index, chunk in enumerate(chunks):
            self.client.set(self.keys.base_chunk(header.lineage, header.sequence, index), chunk)
        fields = {
            "lineage": header.lineage,
            "epoch": header.epoch,
            "sequence": header.sequence,
            "base_sequence": header.sequence,
            "base_chunks": len(chunks),
            "base_bytes": len(data),
            "fingerprint": header.schema_fingerprint,
        }
        self.client.hset(self.keys.head, mapping=fields | changes)
        described = StoredBase(
            lineage=header.lineage,
            sequence=header.sequence,
            epoch=header.epoch,
            chunks=len(chunks),
            size_bytes=len(data),
            fingerprint=header.schema_fingerprint,
            created_ms=header.created_ms,
            samples_trained=header.samples_trained,
        )
        self.client.hset(self.keys.versions, described.version, msgspec.json.encode(described))

    def add(self, increment: Increment, data: bytes | None = None) -> None:
        header = increment.header
        entry = {INCREMENT_FIELD: encode(increment) if data is None else data}
        self.client.xadd(self.keys.increments(header.lineage), entry, id=entry_id(header.sequence))
        self.client.hset(self.keys.head, "sequence", header.sequence)


@dataclass(frozen=True)
class Running:
    url: str
    parts: ServingParts
    http: httpx.Client
    address: tuple[str, int]

    def predict(self, instances: list[dict[str, Any]]) -> dict[str, Any]:
        answer = self.http.post("/predict", json={"instances": instances})
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def sequence(self) -> int | None:
        version = self.parts.replica.version
        return None if version is None else version.sequence


def eventually(condition: Callable[[], Any], what: str, deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def running_server(settings: ServingSettings, *, follow: bool = True) -> Iterator[Running]:
    parts = assemble(settings)
    parts.endpoint.warm_up(example_instance(parts.schema))
    with listen(settings) as listener:
        address = listener.getsockname()[:2]
        server = HttpServer(settings, parts.app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        if follow:
            parts.subscriber.start()
        url = f"http://{address[0]}:{address[1]}"
        try:
            with httpx.Client(base_url=url, timeout=10) as client:
                eventually(lambda: server.started, "the server listens")
                yield Running(url, parts, client, address)
        finally:
            server.should_exit = True
            thread.join(15)
            if follow:
                assert parts.subscriber.stop(10), "the subscriber did not stop"
            parts.endpoint.close()
            assert not thread.is_alive(), "the server did not stop"


def write_model_file(schema: ModelSchema, folder: Path) -> Path:
    lines = ["[model]", f'name = "{schema.name}"', f"dim = {schema.dim}"]
    lines += [f"bottom = {list(schema.bottom)}", f"top = {list(schema.top)}"]
    for slot in schema.sparse:
        lines += [
            "[[sparse]]",
            f'name = "{slot.name}"',
            f'pooling = "{slot.pooling}"',
            f"multi = {str(slot.multi).lower()}",
        ]
    for feature in schema.dense:
        lines += ["[[dense]]", f'name = "{feature.name}"', f'transform = "{feature.transform}"']
    path = folder / "model.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@dataclass
class Bench:
    """Replica and intake without Redis or HTTP."""

    model: PlainModel
    replica: Replica
    feed_log: FeedLog
    freshness: FreshnessMeter
    intake: Intake

    def head(self, **changes: Any) -> Head:
        model = self.model
        head = Head(model.lineage, model.epoch, model.sequence, model.base_sequence, 1, 1, model.schema.fingerprint)
        return replace(head, **changes)


def make_bench(model: PlainModel, budget_bytes: int = 64 << 20) -> Bench:
    replica, feed_log, freshness = Replica(model.schema, budget_bytes), FeedLog(), FreshnessMeter()
    limits = IncrementLimits(max_bytes=1 << 24, max_dim=model.schema.dim)
    intake = Intake(
        model.schema,
        replica,
        feed_log,
        freshness,
        increment_limits=limits,
        base_limits=limits,
        now_ms=lambda: NOW_MS,
    )
    return Bench(model, replica, feed_log, freshness, intake)


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """Compiles every kernel that serving uses before the first test, so that no deadline below includes it."""
    rng = np.random.default_rng(SEED)
    for schema in (schema_with_dense(), schema_without_dense()):
        model = PlainModel(schema, rng)
        bench = make_bench(model)
        bench.intake.take_base(bench.head(), encode(model.base()))
        bench.intake.take("increment 1-0", encode(model.step()))
        body = msgspec.json.encode({"instances": [example_instance(schema), model.instance()]})
        bench.replica.score(PredictionRequestDecoder(schema).decode(body))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.fixture(params=[schema_with_dense, schema_without_dense], ids=["dense", "no_dense"])
def model(request: pytest.FixtureRequest, rng: np.random.Generator) -> PlainModel:
    return PlainModel(request.param(), rng)


@pytest.fixture
def bench(rng: np.random.Generator) -> Bench:
    return make_bench(PlainModel(schema_with_dense(), rng))


@pytest.fixture
def kit() -> ModuleType:
    """This file's classes and functions, for tests that need more than one model or server."""
    return sys.modules[__name__]


@pytest.fixture
def redis_model(redis_server: Any, rng: np.random.Generator) -> Iterator[tuple[PlainModel, RedisModel]]:
    """A model under a name that nobody else uses, and its writer; Redis holds nothing of it yet."""
    model = PlainModel(schema_with_dense(redis_server.fresh_prefix("model")), rng)
    with redis.Redis.from_url(redis_server.url) as client:
        yield model, RedisModel(client, model.schema)


@pytest.fixture
def settings_for(redis_server: Any, tmp_path: Path) -> Callable[..., ServingSettings]:
    """Settings of a server for a schema: its model file, a free port, the session's Redis, short waits."""

    def make(schema: ModelSchema, **changes: Any) -> ServingSettings:
        defaults: dict[str, Any] = {
            "model_file": write_model_file(schema, tmp_path),
            "redis": redis_server.url,
            "port": 0,
            "poll_ms": 20,
            "retry_max_s": 0.2,
            "memory_bytes": 64 << 20,
        }
        return ServingSettings(**defaults | changes)

    return make
