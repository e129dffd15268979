"""`/predict` over loopback: requests per second and latency for 1, 10 and 100 instances while increments land.

`python -m benchmarks.serving [--quick]`. A server runs as it does in production, in a process of its own, on the slots
of the Globo model; a second process publishes an increment of 50,000 rows each second to a real Redis. Clients keep a
number of connections busy, each asking again as soon as it is answered. The peer is the same HTTP side with a constant
for an answer: what is between the two is decoding, lookup, scoring and the increments. All of it, the clients too,
shares the machine's cores.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis
import uvloop
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

import dimflow
from benchmarks.report import report
from dimflow.local_servers import LocalRedis
from dimflow.server_lifecycle import free_port
from embedding_table.row_codecs import CODECS
from model_contract.dense_layout import DenseLayout
from model_contract.increment import DenseTensor, Increment, IncrementHeader, RowBlock, encode
from model_contract.prediction_request import PredictionRequestDecoder
from model_contract.process_settings import environment_of
from model_contract.redis_keys import BASE_CHUNK_BYTES, INCREMENT_FIELD, RedisKeys, entry_id
from model_contract.schema import ModelSchema
from serving.process import HttpServer, listen
from serving.request_body import BodyReader
from serving.settings import PREFIX, ServingSettings

MODEL_FILE = Path(dimflow.__file__).parent / "models" / "globo.toml"
LINEAGE = "benchmark"
BASE_ROWS = 300_000
INCREMENT_ROWS = 50_000
KNOWN_USERS = 250_000
UNKNOWN_SHARE = 0.1
BODIES = 64
SIZES = (1, 10, 100)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def instances_of(schema: ModelSchema, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Random instances: users by a power law, a tenth of them unknown, the other slots with few values."""
    users = np.minimum(rng.zipf(1.2, count), KNOWN_USERS) + KNOWN_USERS * (rng.random(count) < UNKNOWN_SHARE)
    others = rng.integers(0, 5000, (count, len(schema.sparse) - 1))
    return [
        {"sparse": dict(zip(schema.slot_names, map(str, [user, *row]), strict=True))}
        for user, row in zip(users.tolist(), others.tolist(), strict=True)
    ]


def known_ids(schema: ModelSchema) -> NDArray[np.uint64]:
    """Ids of the values above that have a row, missing values first."""
    first = schema.slot_names[0]
    body = {"instances": [{"sparse": {first: str(value)}} for value in range(KNOWN_USERS)]}
    decoder = PredictionRequestDecoder(schema, max_instances=KNOWN_USERS, max_bytes=1 << 30)
    users = decoder.decode(json.dumps(body).encode()).ids.reshape(KNOWN_USERS, -1)[:, 0]
    body = {"instances": [{"sparse": dict.fromkeys(schema.slot_names, str(value))} for value in range(5000)]}
    rest = decoder.decode(json.dumps(body).encode()).ids
    return np.unique(np.concatenate([users, rest, schema.missing_ids]))


@dataclass
class ModelStream:
    """A model that changes all the time, written to Redis as the publisher does."""

    schema: ModelSchema
    client: "redis.Redis"
    ids: NDArray[np.uint64]
    rng: np.random.Generator
    sequence: int = 0

    def put_base(self) -> None:
        """All rows, and the head that names them."""
        data = self._encoded("base", self.ids)
        keys = RedisKeys(self.schema.name)
        for index, start in enumerate(range(0, len(data), BASE_CHUNK_BYTES)):
            self.client.set(keys.base_chunk(LINEAGE, 0, index), data[start : start + BASE_CHUNK_BYTES])
        head: dict[Any, Any] = {
            "lineage": LINEAGE,
            "epoch": 1,
            "sequence": 0,
            "base_sequence": 0,
            "base_chunks": -(-len(data) // BASE_CHUNK_BYTES),
            "base_bytes": len(data),
            "fingerprint": self.schema.fingerprint,
        }
        self.client.hset(keys.head, mapping=head)

    def add_increment(self) -> None:
        """New values for some rows and all dense weights; samples of the last second."""
        self.sequence += 1
        chosen = np.sort(self.rng.permutation(self.ids.size)[:INCREMENT_ROWS])
        data = self._encoded("increment", self.ids[chosen])
        keys = RedisKeys(self.schema.name)
        entry: dict[Any, Any] = {INCREMENT_FIELD: data}
        self.client.xadd(keys.increments(LINEAGE), entry, id=entry_id(self.sequence), maxlen=200, approximate=True)
        self.client.hset(keys.head, "sequence", self.sequence)

    def _encoded(self, kind: Any, ids: NDArray[np.uint64]) -> bytes:
        now = now_ms()
        times = tuple((now // 10 * 10 - 10 * k, 1000) for k in reversed(range(100))) if kind == "increment" else ()
        header = IncrementHeader(
            kind, self.schema.fingerprint, LINEAGE, 1, self.sequence, 0, now, newest_sample_ms=now, sample_times=times
        )
        dim = self.schema.dim
        values = self.rng.standard_normal((ids.size, dim), np.float32) * np.float32(0.1)
        packed = CODECS["fp32"].encode(values)
        rows = RowBlock(0, 0, np.arange(dim, dtype=np.uint16), "fp32", ids, packed.data, packed.shared)
        layout = DenseLayout(self.schema)
        dense: tuple[DenseTensor, ...] = layout.split(layout.initial(int(self.rng.integers(1 << 30))))
        return encode(Increment(header, (rows,), np.empty(0, np.uint64), dense))


def publish(redis_url: str, stop: Any) -> None:
    """Process: an increment each second until told to stop."""
    schema = ModelSchema.parse_toml(MODEL_FILE.read_text(encoding="utf-8"))
    with redis.Redis.from_url(redis_url) as client:
        stream = ModelStream(schema, client, known_ids(schema), np.random.default_rng(1))
        due = time.monotonic()
        while not stop.is_set():
            stream.add_increment()
            due += 1.0
            stop.wait(max(0.0, due - time.monotonic()))


def run_peer(settings: ServingSettings) -> None:
    """Process: the same HTTP side, a constant for an answer."""
    model = {"name": "peer", "lineage": LINEAGE, "version": f"{LINEAGE}-0", "sequence": 0, "age_ms": 0}
    answer = json.dumps({"probabilities": [0.5], "model": model}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    bodies = BodyReader(settings.max_body_bytes, settings.max_buffered_bytes)

    async def constant(scope: Any, receive: Any, send: Any) -> None:
        await bodies.read(scope, receive)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    with listen(settings) as listener:
        HttpServer(settings, constant).run(sockets=[listener])


class Client(asyncio.Protocol):
    """One connection that always has one request under way."""

    def __init__(self, requests: Sequence[bytes], latencies_s: list[float]) -> None:
        self._requests = requests
        self._latencies_s = latencies_s
        self._next = 0
        self._received = b""
        self._started_s = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks the first time."""
        self._transport = transport  # type: ignore[assignment]
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Asks again once the answer is whole."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        if not self._received.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self._received.decode())
        start = self._received.find(b"content-length: ") + len(b"content-length: ")
        if len(self._received) >= end + 4 + int(self._received[start : self._received.find(b"\r\n", start)]):
            self._latencies_s.append(time.perf_counter() - self._started_s)
            self._ask()

    def _ask(self) -> None:
        self._received = b""
        self._started_s = time.perf_counter()
        self._transport.write(self._requests[self._next])
        self._next = (self._next + 1) % len(self._requests)


def measure(port: int, bodies: Sequence[bytes], connections: int, seconds: float) -> dict[str, float]:
    """Requests per second, and milliseconds that half and 99 % of them took."""
    head = "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
    requests = [head.format(len(body)).encode() + body for body in bodies]
    latencies_s: list[float] = []

    async def run() -> int:
        loop = asyncio.get_running_loop()
        failures: list[BaseException] = []
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))

        def client(at: int) -> Client:
            return Client(requests[at:] + requests[:at], latencies_s)

        pairs = [
            await loop.create_connection(functools.partial(client, at), "127.0.0.1", port) for at in range(connections)
        ]
        await asyncio.sleep(seconds * 0.2)
        before = len(latencies_s)
        await asyncio.sleep(seconds)
        done = len(latencies_s) - before
        for transport, _ in pairs:
            transport.abort()
        if failures:
            raise failures[0]
        del latencies_s[:before]
        return done

    done = uvloop.run(run())
    p50, p99 = np.percentile(np.array(latencies_s[:done]) * 1000, [50, 99])
    return {"requests_per_s": round(done / seconds), "p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


@contextlib.contextmanager
def server_process(settings: ServingSettings) -> Iterator[None]:
    """`python -m serving`, until the block ends."""
    environ = {**os.environ, **environment_of(settings, PREFIX)}
    with subprocess.Popen([sys.executable, "-m", "serving"], env=environ) as process:
        try:
            wait_for(settings.port, "/readyz", process)
            yield
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def spawned(target: Any, *args: Any) -> Iterator[Any]:
    """A process of this module's own functions, until the block ends."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.join(0.1)
        process.terminate()
        process.join(20)


def read_page(port: int, path: str) -> bytes:
    """The body of one of the server's pages."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bytes(answer.read())


def cpu_and_requests(port: int) -> tuple[float, float]:
    """Seconds of processor time the server has used, increments included, and predictions it has answered."""
    samples = [
        sample
        for family in text_string_to_metric_families(read_page(port, "/metrics").decode())
        for sample in family.samples
    ]
    values = {sample.name + sample.labels.get("status", ""): sample.value for sample in samples}
    return values["process_cpu_seconds_total"], values["dimflow_serving_requests_total200"]


def wait_for(port: int, path: str, process: "subprocess.Popen[bytes]") -> None:
    """Waits until the page answers."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            read_page(port, path)
            return
        time.sleep(0.05)
    message = f"no answer from {path} on port {port}, exit status {process.poll()}"
    raise RuntimeError(message)


def run(seconds: float) -> dict[str, Any]:
    """Everything, sizes and connections in turn; `seconds` for each."""
    schema = ModelSchema.parse_toml(MODEL_FILE.read_text(encoding="utf-8"))
    rng = np.random.default_rng(0)
    bodies = {
        size: [json.dumps({"instances": instances_of(schema, size, rng)}).encode() for _ in range(BODIES)]
        for size in SIZES
    }
    results: dict[str, Any] = {"base_rows": 0, "increment_rows": INCREMENT_ROWS}
    stop = multiprocessing.get_context("spawn").Event()
    with LocalRedis() as server, redis.Redis.from_url(server.url) as client:
        stream = ModelStream(schema, client, known_ids(schema), rng)
        stream.put_base()
        results["base_rows"] = int(stream.ids.size)
        settings = ServingSettings(
            model_file=MODEL_FILE, redis=server.url, port=free_port(), log_level="WARNING", memory_bytes=1 << 30
        )
        peer = ServingSettings(model_file=MODEL_FILE, port=free_port())
        with server_process(settings), spawned(publish, server.url, stop), spawned(run_peer, peer):
            while json.loads(read_page(settings.port, "/model"))["feed"]["applied"] == 0:
                time.sleep(0.05)
            for size in SIZES:
                for connections in (1, 16):
                    name = f"{size}_instances_{connections}_connections"
                    before = cpu_and_requests(settings.port)
                    results[name] = measure(settings.port, bodies[size], connections, seconds)
                    cpu_s, done = (
                        after - start for after, start in zip(cpu_and_requests(settings.port), before, strict=True)
                    )
                    results[name]["cpu_us_per_request"] = round(1e6 * cpu_s / done)
                    results[f"peer_{name}"] = measure(peer.port, bodies[size], connections, seconds / 2)
            page = json.loads(read_page(settings.port, "/model"))
            stop.set()
    results["increments_applied"] = page["feed"]["applied"]
    results["increments_refused"] = sum(page["feed"]["refused"].values())
    results["freshness_p50_ms"] = page["freshness"]["overall"]["p50_ms"]
    results["freshness_p95_ms"] = page["freshness"]["overall"]["p95_ms"]
    results["model_bytes"] = page["bytes"]["total"]
    return results


def main() -> None:
    """Runs everything and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="shorter runs: ends within 50 s")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    report("serving", run(seconds=1.5 if options.quick else 8.0))


if __name__ == "__main__":
    main()
