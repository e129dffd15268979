from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.settings import ServingSettings


@pytest.fixture
def server(kit: Any, redis_model: Any, settings_for: Callable[..., ServingSettings]) -> Iterator[tuple[Any, Any, Any]]:
    model, store = redis_model
    with kit.running_server(settings_for(model.schema)) as running:
        yield running, model, store


def test_ready_only_with_a_model_and_the_reason_until_then(kit: Any, server: Any) -> None:
    running, model, store = server
    kit.eventually(lambda: "no key" in running.http.get("/readyz").text, "the reason is told")
    answer = running.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert running.http.get("/healthz").json() == {"status": "ok"}

    store.put_base(model.base())
    kit.eventually(lambda: running.http.get("/readyz").status_code == 200, "ready")
    assert running.http.get("/readyz").json() == {"status": "ready", "version": "first-0"}


def test_model_and_metrics_tell_of_an_increment(kit: Any, server: Any) -> None:
    running, model, store = server
    store.put_base(model.base())
    store.add(model.step())
    kit.eventually(lambda: running.sequence() == 1, "the increment")
    rows = len(model.rows)
    model.step()
    store.add(model.step())
    kit.eventually(lambda: "gap" in running.http.get("/model").json()["feed"]["refused"], "the gap is told")
    report = running.http.get("/model").json()
    page = running.http.get("/metrics")

    assert (report["version"], report["rows"]) == ("first-1", rows)
    assert report["freshness"]["overall"]["samples"] == 4
    assert page.headers["content-type"].startswith("text/plain; version=")
    assert "dimflow_serving_model_sequence 1.0" in page.text
    assert 'dimflow_serving_freshness_seconds_bucket{le="+Inf"} 4.0' in page.text


def test_health_ends_with_the_thread_that_follows_redis(kit: Any, server: Any) -> None:
    running, _, _ = server
    running.parts.subscriber.stop(10)

    answer = running.http.get("/healthz")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:dimflow:problem:unhealthy")


def test_the_frameworks_own_errors_are_problems_too(server: Any) -> None:
    running, _, _ = server
    for method, path, status in (("GET", "/nothing", 404), ("DELETE", "/model", 405)):
        answer = running.http.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.json()["status"] == status
    assert answer.headers["allow"] == "GET"


def test_an_unexpected_failure_is_a_problem_without_details(
    kit: Any, server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running, _, _ = server

    def fail() -> int:
        message = "secret detail"
        raise RuntimeError(message)

    monkeypatch.setattr(type(running.parts.feed_log), "state", property(lambda _: fail()))
    answer = running.http.get("/model")
    monkeypatch.undo()

    assert (answer.status_code, answer.json()["type"]) == (500, "urn:dimflow:problem:internal")
    assert "secret" not in answer.text
    kit.eventually(lambda: "secret detail" in caplog.text, "it is logged")


def test_the_description_lists_every_path(server: Any) -> None:
    running, model, _ = server
    document = running.http.get("/openapi.json").json()

    assert set(document["paths"]) == {"/predict", "/healthz", "/readyz", "/model", "/metrics"}
    assert document["info"]["version"] == model.schema.fingerprint
    assert "200" in document["paths"]["/predict"]["post"]["responses"]
    assert "ModelReport" in document["components"]["schemas"]
