"""The fault layer itself, and the trainer's adapters under it: disk, Redis and Kafka fail by a seed, nothing is lost.

`DIMFLOW_FAULT_SEED` replays what a failed test printed.
"""

import ast
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from dimflow.local_servers import LocalKafka
from dimflow.server_lifecycle import HOST
from model_contract.increment import IncrementLimits, decode
from model_contract.redis_keys import RedisKeys
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.delivery import Delivery
from stream_trainer.publisher import Publisher
from tests.conftest import SharedKafka
from tests.faults.disk_faults import DISK_STEPS, DiskFaults, Killed
from tests.faults.fault_seed import VARIABLE, fault_random, fault_seed
from tests.faults.tcp_proxy import NetworkFaults, TcpProxy
from tests.integration.conftest import Recorder
from tests.stream_trainer.states import LAYOUT, assert_equal_states, block, merge_pages, state, with_manifest

ROOT = Path(__file__).parents[2]


def test_the_seed_is_printed_and_replays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seed = fault_seed()
    assert f"{VARIABLE}={seed}" in capsys.readouterr().out
    monkeypatch.setenv(VARIABLE, "17")
    assert fault_seed() == 17
    assert fault_random(17, "a").random() == fault_random(17, "a").random() != fault_random(17, "b").random()


def test_no_production_code_knows_the_fault_layer() -> None:
    for path in ROOT.glob("*/*.py"):
        if path.parent.name in {"tests", "benchmarks"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "tests" for name in names), path


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets."""
    listener = socket.create_server((HOST, 0))
    listener.settimeout(0.1)
    stopping = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(1 << 16):
                    connection.sendall(piece)
            except OSError:
                pass

    def accept() -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(5)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield listener.getsockname()[1]
    stopping.set()
    accepting.join()
    listener.close()


def exchanges(port: int, number: int) -> int:
    """How many of `number` messages come back over one connection."""
    done = 0
    try:
        with socket.create_connection((HOST, port), timeout=5) as client:
            for done in range(number):
                client.sendall(b"%08d" % done)
                found = b""
                while len(found) < 8:
                    piece = client.recv(8)
                    if not piece:
                        return done
                    found += piece
    except OSError:
        return done
    return number


def test_a_proxy_without_faults_passes_everything_on(echo: int) -> None:
    with TcpProxy(1).forward_to(HOST, echo) as proxy:
        assert exchanges(proxy.port, 200) == 200
        proxy.down()
        assert exchanges(proxy.port, 1) == 0
        proxy.up()
        assert exchanges(proxy.port, 1) == 1
        assert set(proxy.counts) == {"connections"}


def test_the_same_seed_cuts_at_the_same_piece_and_another_elsewhere(echo: int) -> None:
    def lengths(seed: int) -> list[int]:
        with TcpProxy(seed, NetworkFaults(cut=0.05, delay=0.1, delay_s=0.001)).forward_to(HOST, echo) as proxy:
            return [exchanges(proxy.port, 100) for _ in range(5)]

    first = lengths(3)
    assert min(first) < 100
    assert first == lengths(3)
    assert first != lengths(4)


@pytest.mark.parametrize("turn", range(25))
def test_whatever_the_disk_does_a_start_finds_a_whole_state(tmp_path: Path, turn: int) -> None:
    seed = fault_seed() + turn
    faults = DiskFaults(seed, tmp_path)
    store = CheckpointStore(tmp_path, merge_pages)
    store.write_base(state(0, [block(0, [1, 2], 0.0)]))
    store._at_step = faults.at_step
    durable = 0
    try:
        for sequence in range(1, 7):
            store.write_delta(state(sequence, [block(0, [1], float(sequence))]))
            durable = sequence
            if sequence == 4:
                store.compact()
    except (Killed, OSError):
        assert faults.happened in DISK_STEPS
    store.close()

    clean = CheckpointStore(tmp_path, merge_pages)
    stored = clean.load()
    assert stored is not None
    assert stored.skipped == ()
    found = stored.state.manifest.sequence
    assert durable <= found <= durable + 1, f"{faults.fault} at {faults.happened}"
    assert stored.state.rows.blocks[0].values[0, 0] == float(found)
    clean.write_delta(state(found + 1, [block(0, [1], 99.0)]))
    assert_equal_states(clean.load().state, clean.load().state)
    assert clean.load().state.manifest.sequence == found + 1
    clean.close()


def test_increments_through_a_bad_network_arrive_in_order_and_once(tmp_path: Path, redis_server) -> None:
    seed = fault_seed()
    port = int(redis_server.url.rsplit(":", 1)[1].split("/")[0])
    model = redis_server.fresh_prefix("model")
    faults = NetworkFaults(cut=0.04, stall=0.01, stall_s=0.3, delay=0.1, delay_s=0.01)
    total = 120
    with TcpProxy(seed, faults).forward_to(HOST, port) as proxy:
        store = CheckpointStore(tmp_path, merge_pages)
        publisher = Publisher(f"redis://{HOST}:{proxy.port}/0", model, kept_bases=2, stream_increments=1000)
        delivery = Delivery(store, publisher, LAYOUT, compact_ratio=1e9, compact_increments=50)
        begun = delivery.start(state(0, [block(0, [1, 2], 0.0)]))
        for sequence in range(1, total + 1):
            cut = state(1, [block(0, [sequence], float(sequence))])  # pages of a state go up to 7
            own = {"lineage": begun.manifest.lineage, "epoch": begun.manifest.epoch, "sequence": sequence}
            delivery.offer(with_manifest(cut, **own))
        client = redis.Redis.from_url(redis_server.url)
        head = RedisKeys(model).head
        deadline = time.monotonic() + 60
        while client.hget(head, "sequence") != b"%d" % total:
            assert time.monotonic() < deadline, (client.hgetall(head), proxy.counts)
            time.sleep(0.05)
        delivery.close()
        entries = client.xrange(RedisKeys(model).increments(begun.manifest.lineage))
        client.close()
        publisher.close()
        store.close()
    assert proxy.counts["cuts"] > 0
    sequences = [
        decode(f[b"data"], limits=IncrementLimits(), expected_fingerprint=None).header.sequence for _, f in entries
    ]
    assert sequences == sorted(set(sequences))
    assert sequences[-1] == total


class ProxiedKafka(LocalKafka):
    """A broker that sends its clients to a proxy."""

    def __init__(self, advertised: str) -> None:
        super().__init__()
        self._advertised = advertised

    def _properties(self) -> str:
        own = f"advertised.listeners=PLAINTEXT://{self.bootstrap},"
        return super()._properties().replace(own, f"advertised.listeners=PLAINTEXT://{self._advertised},")


def test_records_through_a_bad_network_are_offered_once_and_in_order(tmp_path: Path, fill) -> None:
    seed = fault_seed()
    faults = NetworkFaults(cut=0.003, delay=0.05, delay_s=0.02)
    total = 3000
    with TcpProxy(seed) as proxy, ProxiedKafka(proxy.advertised) as broker:
        proxy.forward_to(HOST, broker.port)
        shared = SharedKafka(proxy.advertised)
        topic = shared.fresh_topic(partitions=2)
        fill(proxy.advertised, topic, 2, 0, 1)
        proxy.faults = faults
        settings = {"brokers": proxy.advertised, "topic": topic, "group": topic, "session_timeout_s": 6.0}
        recorder = Recorder(tmp_path / "record.jsonl", tmp_path / "run.log", settings)
        try:
            recorder.start(stop_after=2 * total)
            fill(proxy.advertised, topic, 2, 1, total)
            deadline = time.monotonic() + 90
            while recorder.count() < 2 * total:
                if not recorder.running:  # whoever watches processes starts it again
                    recorder.start(stop_after=2 * total)
                if time.monotonic() > deadline:
                    pytest.fail(
                        f"{recorder.count()} of {2 * total}; {proxy.counts}; {recorder.log.read_text()[-3000:]}"
                    )
                time.sleep(0.1)
                if recorder.count() % 1000 > 900:
                    proxy.cut_all()
        finally:
            recorder.kill()
    values = recorder.column("values")
    assert values == {partition: [str(number) for number in range(total)] for partition in range(2)}
