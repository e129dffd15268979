"""`/predict` over HTTP: answers, refusals, and versions under load."""

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from model_contract.increment import encode
from serving.intake import Head, Outcome
from serving.settings import ServingSettings


@contextlib.contextmanager
def answering(kit: Any, model: Any, settings: ServingSettings) -> Iterator[Any]:
    """A server whose model is put in by hand, not by Redis."""
    with kit.running_server(settings, follow=False) as running:
        put_base(running, model)
        yield running


def put_base(running: Any, model: Any) -> None:
    base = encode(model.base())
    head = Head(model.lineage, model.epoch, model.sequence, model.sequence, 1, len(base), model.schema.fingerprint)
    assert running.parts.intake.take_base(head, base) is Outcome.APPLIED


@pytest.fixture
def server(
    kit: Any, redis_model: Any, settings_for: Callable[..., ServingSettings], request: pytest.FixtureRequest
) -> Iterator[tuple[Any, Any]]:
    model, _ = redis_model
    changes = getattr(request, "param", {})
    with answering(kit, model, settings_for(model.schema, **changes)) as running:
        yield running, model


def post(running: Any, body: bytes | str, **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return running.http.post("/predict", content=body, headers=sent)  # type: ignore[no-any-return]


def assert_problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (f"urn:dimflow:problem:{kind}", status)
    assert problem["title"]
    assert problem["detail"]
    return problem  # type: ignore[no-any-return]


@pytest.mark.parametrize("server", [{"inline_body_bytes": 0}, {"inline_body_bytes": 1 << 20}], indirect=True)
def test_answers_equal_a_plain_dlrm_and_name_their_version(server: Any) -> None:
    running, model = server
    for count in (1, 2, 100):
        instances = [model.instance() for _ in range(count)]
        answer = running.predict(instances)
        np.testing.assert_allclose(answer["probabilities"], [model.probability(i) for i in instances], atol=1e-6)
        assert answer["model"].pop("age_ms") > 0
        assert answer["model"] == {"name": model.schema.name, "lineage": "first", "version": "first-0", "sequence": 0}


def test_a_single_instance_needs_no_list(server: Any) -> None:
    running, model = server
    instance = model.instance()
    answer = post(running, json.dumps(instance))

    assert answer.json()["probabilities"] == running.predict([instance])["probabilities"]


@pytest.mark.parametrize(
    ("body", "status", "kind", "pointer"),
    [
        (b"", 400, "not_json", None),
        (b"{", 400, "not_json", None),
        (b'{"instances": [{"sparse": {"user": "\xff"}}]}', 400, "not_json", None),
        (b'{"instances": [{"sparse": {"user": NaN}}]}', 400, "not_json", None),
        (b"[1]", 422, "invalid_request", ""),
        (b"{}", 422, "invalid_request", ""),
        (b'{"instances": []}', 422, "invalid_request", "/instances"),
        (b'{"instances": [{"sparse": {"user": 1.5}}]}', 422, "invalid_request", "/instances/0/sparse/user"),
        (b'{"instances": [{}, {"sparse": {"user": ["1"]}}]}', 422, "invalid_request", "/instances/1/sparse/user"),
        (b'{"instances": [{"sparse": {"stranger": "1"}}]}', 422, "invalid_request", None),
        (b'{"dense": {"x": "1"}}', 422, "invalid_request", "/dense/x"),
        (b'{"dense": {"x": 1e300}}', 422, "invalid_request", "/dense/x"),
        (b'{"instances": [' + b"{}," * 10 + b"{}]}", 413, "too_many", "/instances"),
        (b'{"sparse": {"tags": [1, 2, 3, 4, 5, 6]}}', 413, "too_many", "/sparse/tags"),
        (b'{"sparse": {"user": "' + b"x" * 3000 + b'"}}', 413, "body_too_large", None),
    ],
)
@pytest.mark.parametrize("server", [{"max_instances": 10, "max_values": 5, "max_body_bytes": 2000}], indirect=True)
def test_what_cannot_be_answered_says_why_and_where(
    server: Any, body: bytes, status: int, kind: str, pointer: str | None
) -> None:
    running, _ = server
    problem = assert_problem(post(running, body), status, kind)

    if pointer is not None:
        assert problem["pointer"] == pointer
    assert running.predict([{"sparse": {}}])["probabilities"]


def test_other_types_methods_and_encodings(server: Any) -> None:
    running, _ = server
    assert_problem(running.http.post("/predict", data={"a": "b"}), 415, "content_type")
    assert_problem(post(running, b"{}", content_encoding="gzip"), 415, "content_encoding")
    answer = running.http.get("/predict")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("server", [{"max_body_bytes": 5000}], indirect=True)
def test_a_chunked_body_is_refused_while_it_is_still_being_sent(server: Any) -> None:
    running, _ = server
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(3000):
            sent += 1000
            yield b" " * 1000

    with contextlib.suppress(httpx.WriteError):  # the server may close while we are still sending
        assert_problem(
            running.http.post("/predict", content=chunks(), headers={"content-type": "application/json"}),
            413,
            "body_too_large",
        )
    assert sent < 3_000_000


def test_no_model_yet_is_503_with_retry_after(
    kit: Any, redis_model: Any, settings_for: Callable[..., ServingSettings]
) -> None:
    model, _ = redis_model
    with kit.running_server(settings_for(model.schema), follow=False) as running:
        answer = post(running, b'{"sparse": {}}')
        assert_problem(answer, 503, "no_model")
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "server",
    [{"inline_body_bytes": 0, "scoring_threads": 1, "max_requests": 2, "score_timeout_s": 0.3}],
    indirect=True,
)
def test_a_full_queue_is_refused_at_once_and_a_late_answer_given_up(server: Any) -> None:
    running, model = server
    replica = running.parts.replica
    with replica._changing(), ThreadPoolExecutor(3) as pool:  # nothing can be scored meanwhile
        answers = list(pool.map(lambda _: post(running, b'{"sparse": {}}'), range(3)))
    kinds = sorted(answer.json()["type"].rpartition(":")[2] for answer in answers)

    assert kinds == ["busy", "deadline", "deadline"]
    assert all(answer.headers["retry-after"] for answer in answers)
    assert running.predict([model.instance()])["probabilities"]


def test_small_requests_go_to_a_thread_while_a_version_is_exchanged(server: Any) -> None:
    """The event loop never waits for the replica's lock."""
    running, _ = server
    with ThreadPoolExecutor(1) as pool:
        with running.parts.replica._changing():
            waiting = pool.submit(post, running, b'{"sparse": {}}')
            assert running.http.get("/healthz").status_code in {200, 503}  # the loop runs
            assert not waiting.done()
        assert waiting.result().status_code == 200


def test_a_failure_nobody_foresaw_is_a_problem_without_details(
    server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running, model = server

    def fail(*_: Any, **__: Any) -> None:
        message = "secret detail"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(running.parts.replica, "score", fail)
        answer = post(running, b'{"sparse": {}}')
    assert "secret" not in assert_problem(answer, 500, "internal")["detail"]
    assert "secret detail" in caplog.text
    assert running.predict([model.instance()])["probabilities"]


def test_a_client_that_hangs_up_disturbs_nobody(server: Any) -> None:
    running, model = server

    async def hang_up() -> None:
        for _ in range(20):
            _, writer = await asyncio.open_connection(*running.address)
            writer.write(b"POST /predict HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
            await writer.drain()
            writer.close()

    asyncio.run(hang_up())
    assert running.predict([model.instance()])["probabilities"]


def test_each_answer_under_load_is_exactly_one_version(kit: Any, server: Any) -> None:
    """Clients ask without pause for small and large batches while 40 increments land."""
    running, model = server
    instances = [model.instance() for _ in range(60)]
    truth = {"first-0": np.array([model.probability(i) for i in instances])}
    data = []
    for _ in range(40):
        data.append(encode(model.step(changed=60, died=10, born=10)))
        truth[f"first-{model.sequence}"] = np.array([model.probability(i) for i in instances])
    seen: dict[str, int] = {}
    wrong: list[str] = []
    done = threading.Event()
    lock = threading.Lock()

    def ask(count: int) -> None:
        with httpx.Client(base_url=running.url) as client:
            body = json.dumps({"instances": instances[:count]})
            while not done.is_set():
                answer = client.post("/predict", content=body, headers={"content-type": "application/json"}).json()
                name = answer["model"]["version"]
                with lock:
                    seen[name] = seen.get(name, 0) + 1
                    error = np.abs(np.array(answer["probabilities"]) - truth[name][:count]).max()
                    if error > 1e-6:
                        wrong.append(f"{name}: {error}")

    threads = [threading.Thread(target=ask, args=(count,)) for count in (1, 1, 60, 60)]
    for thread in threads:
        thread.start()
    try:
        for number, increment in enumerate(data):
            assert running.parts.intake.take(f"increment {number + 1}-0", increment) is Outcome.APPLIED
            kit.eventually(lambda name=f"first-{number + 1}": name in seen, "somebody is answered from it")
    finally:
        done.set()
        for thread in threads:
            thread.join()

    assert wrong == []
    assert seen.keys() >= truth.keys() - {"first-0"}
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(truth.values())), "versions look alike"
