"""What an operator counts on, with real processes: the gate, rollback, dead letters and the poison limit."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimflow.command import main
from dimflow.local_processes import LocalPredictor, LocalTrainer
from dimflow.loop_watch import LoopWatch
from model_contract.feature_id import feature_id
from tests.integration.test_whole_loop import MODEL, Loop, read_all, sample

MakeLoop = Callable[..., contextlib.AbstractContextManager[Loop]]


@pytest.fixture
def make_loop(tmp_path: Path, kafka: Any, redis_server: Any) -> MakeLoop:
    @contextlib.contextmanager
    def make(**changes: Any) -> Iterator[Loop]:
        topic = kafka.fresh_topic()
        model_file = tmp_path / "model.toml"
        model_file.write_text(MODEL.format(name=redis_server.fresh_prefix("m")))
        settings: dict[str, Any] = {
            "model_file": model_file,
            "brokers": kafka.bootstrap,
            "redis": redis_server.url,
            "topic": topic,
            "group": topic,
            "publish_interval_s": 0.2,
            "admission": "always",
            "memory_bytes": 64 << 20,
            "gate_recent_samples": 1000,
            "gate_level_samples": 10_000,
            "gate_least_samples": 4000,
        }
        trainer = LocalTrainer(tmp_path / "trainer", **settings | changes)
        server = LocalPredictor(tmp_path / "server", model_file=model_file, redis=redis_server.url)
        with trainer, server, LoopWatch(trainer.url, server.url) as watch:
            yield Loop(tmp_path, topic, kafka.bootstrap, trainer, server, watch)

    return make


def learnable(first: int, last: int, *, flipped: bool = False) -> list[bytes]:
    """Samples whose label their item tells, or the opposite of it."""
    return [sample(f"u{n % 40}", f"i{n % 10}", int((n % 10 < 5) != flipped)) for n in range(first, last)]


def ask(loop: Loop) -> dict[str, Any]:
    import httpx

    instances = [{"sparse": {"user": f"u{n}", "item": f"i{n % 10}"}} for n in range(20)]
    answer = httpx.post(f"{loop.server.url}/predict", json={"instances": instances}, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_flipped_labels_close_the_gate_good_ones_open_it_and_answers_stay_good(make_loop: MakeLoop) -> None:
    with make_loop() as loop:
        sent = 0
        for _ in range(4):
            loop.produce(learnable(sent, sent + 4000))
            sent += 4000
            loop.wait_trained(sent)
        loop.wait_served(sent)
        loop.produce(learnable(sent, sent + 8000, flipped=True))
        sent += 8000
        loop.wait_trained(sent)
        loop.wait("the gate is closed", lambda: loop.watch.trainer()["gate_closed"] == 1)
        loop.wait("the server says why", lambda: loop.watch.model()["held_back"] is not None)
        held = loop.watch.model()["held_back"]
        assert held["reason"] == "log_loss"
        assert "over its level" in held["detail"]
        before = ask(loop)
        wanted = np.array([n % 10 < 5 for n in range(20)])
        assert ((np.array(before["probabilities"]) > 0.5) == wanted).all(), "the last good version answers"

        loop.produce(learnable(sent, sent + 8000, flipped=True))
        sent += 8000
        loop.wait_trained(sent)
        trainer = loop.watch.trainer()
        assert trainer["durable_sequence"] > trainer["published_sequence"]
        assert trainer["gate_held_cuts_total"] >= 1
        loop.trainer.kill()
        loop.trainer.restart()
        loop.wait("closed after a restart too", lambda: loop.watch.trainer()["gate_closed"] == 1)
        after = ask(loop)
        assert after["probabilities"] == before["probabilities"]
        assert after["model"]["version"] == before["model"]["version"]
        assert after["model"]["age_ms"] > before["model"]["age_ms"]

        for _ in range(20):
            loop.produce(learnable(sent, sent + 4000))
            sent += 4000
            loop.wait_trained(sent)
            if loop.watch.trainer()["gate_closed"] == 0:
                break
        loop.wait_served(sent)
        assert loop.watch.model()["held_back"] is None
        last = ask(loop)
        assert last["model"]["sequence"] > before["model"]["sequence"]
        assert ((np.array(last["probabilities"]) > 0.5) == wanted).all()
        assert loop.watch.model()["feed"]["bases"] >= 2, "by a base, not by what was held back"


def test_samples_that_explode_never_reach_an_answer(make_loop: MakeLoop) -> None:
    with make_loop() as loop:
        loop.produce(learnable(0, 2000))
        loop.wait_trained(2000)
        loop.wait_served(2000)
        before = ask(loop)
        heavy = [sample(f"u{n}", f"i{n % 10}", n % 2, weight=3e38) for n in range(400)]
        loop.produce(heavy)
        loop.produce(learnable(2400, 4000))
        loop.wait_trained(4000)
        loop.wait("the server says why", lambda: loop.watch.model()["held_back"] is not None)
        assert loop.watch.model()["held_back"]["reason"] == "not_finite"
        assert ask(loop)["probabilities"] == before["probabilities"]
        assert loop.watch.model()["feed"]["refused"] == {}, "nothing bad was offered to it"


def test_a_rollback_holds_over_restarts_and_new_bases_until_it_is_lifted(
    make_loop: MakeLoop, redis_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with make_loop(stream_increments=10, kept_bases=3) as loop:
        model = loop.watch.model()["name"]

        def say(*words: str) -> Any:
            assert main([words[0], "--redis", redis_server.url, "--model", model, "--json", *words[1:]]) == 0
            return json.loads(capsys.readouterr().out)

        sent = 0

        def grow(bases: int) -> list[str]:
            nonlocal sent
            newest = say("versions")["newest_base"]
            while bases:
                loop.produce(learnable(sent, sent + 100))
                sent += 100
                loop.wait_trained(sent)
                bases -= newest != say("versions")["newest_base"]
                newest = say("versions")["newest_base"]
            return [item["version"] for item in say("versions")["versions"]]

        loop.wait("a base", lambda: loop.watch.model()["version"] is not None)
        stored = grow(3)
        target = stored[-1]
        assert say("rollback", target, "--by", "ops")["pinned"]["version"] == target
        loop.wait("rolled back", lambda: loop.watch.model()["version"] == target)
        before = ask(loop)
        stored = grow(4)
        assert target in stored
        assert len(stored) == 4, "three and the pinned one"
        loop.server.kill()
        loop.server.restart()
        loop.wait("pinned after a restart", lambda: loop.watch.model()["version"] == target)
        assert loop.watch.model()["pinned"]["by"] == "ops"
        assert ask(loop)["probabilities"] == before["probabilities"]
        assert main(["rollback", "--redis", redis_server.url, "--model", model, "nothing-7"]) == 1
        assert f"expected one of {stored[0]}" in capsys.readouterr().err

        say("unpin")
        loop.wait_served(sent)
        assert loop.watch.model()["pinned"] is None
        assert target not in grow(1)


def train(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "dimflow", "train", "--state-dir", str(folder), "--metrics-port", "0", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_too_much_poison_stops_the_trainer_and_nothing_is_lost_or_twice(
    tmp_path: Path, kafka: Any, redis_server: Any
) -> None:
    topic = kafka.fresh_topic()
    model_file = tmp_path / "model.toml"
    model_file.write_text(MODEL.format(name=redis_server.fresh_prefix("m")))
    words = ["--model-file", str(model_file), "--brokers", kafka.bootstrap, "--redis", redis_server.url]
    words += ["--topic", topic, "--group", topic, "--admission", "always", "--memory-bytes", str(64 << 20)]
    words += ["--poison-limit", "0.5", "--poison-window", "2000", "--publish-interval-s", "0.2"]
    words += ["--chunk-rows", "500"]
    loop = Loop(tmp_path, topic, kafka.bootstrap, None, None, None)  # type: ignore[arg-type]
    loop.produce([sample(f"g{n}", "a", n % 2) for n in range(3000)])
    loop.produce([b"{poison %d" % n for n in range(6000)])  # twice the good ones: whatever a chunk takes at once
    state = tmp_path / "trainer" / "state"
    process = train(state, *words)
    try:
        _, log = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 65, log[-3000:]
    assert "poison in the topic: " in log
    assert "expected at most 50.0%" in log
    assert "Traceback" not in log

    loop.produce([sample(f"g{n}", "a", n % 2) for n in range(3000, 6000)])
    process = train(state, *words, "--poison-limit", "1")
    try:
        letters = read_all(kafka.bootstrap, f"{topic}.dlq", 6000)
        for _ in range(600):
            described = main_json(["inspect", "state", str(state)])
            if described and (described[-1]["manifest"] or {}).get("samples_trained", 0) >= 6000:
                break
            process.poll()
            assert process.returncode is None
            time.sleep(0.2)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    values = [record.value for record in letters]
    assert sorted(set(values)) == sorted(b"{poison %d" % n for n in range(6000))
    assert len(values) == 6000, "each bad record has one letter"
    counts = loop.counts_on_disk()
    assert [counts.get(feature_id("user", f"g{n}"), 0.0) for n in range(6000)] == [1.0] * 6000


def main_json(words: list[str]) -> Any:
    done = subprocess.run([sys.executable, "-m", "dimflow", *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_letters_that_are_replayed_reach_the_trainer_once(
    make_loop: MakeLoop, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trainer refuses them again, so that their second letters can be counted."""
    with make_loop() as loop:
        loop.produce([sample(f"u{n}", "a") for n in range(50)])
        loop.produce([json.dumps({"label": 1, "sparse": {"colour": f"c{n}"}}).encode() for n in range(30)])
        loop.wait("letters", lambda: loop.watch.trainer()["dead_letters_total"] == 30)
        loop.wait_served(50)
        brokers = ["--brokers", loop.bootstrap, "--topic", loop.topic]
        assert main(["dlq", "list", *brokers, "--json", "--limit", "100"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {item["reason"] for item in found} == {"unknown_slot"}
        assert len(found) == 30
        assert main(["dlq", "replay", *brokers, "--reason", "unknown_slot", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["sent"] == 30
        loop.wait("refused again", lambda: loop.watch.trainer()["dead_letters_total"] == 60)
        assert main(["dlq", "replay", *brokers, "--dry-run", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["chosen"], report["sent_before"]) == (30, 30), "the second letters are new, the first were sent"
