"""Versions over HTTP: nothing without a key, and with it what the command does."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.settings import ServingSettings

KEY = "a-Key/of+our=own"
PATHS = [("GET", "/versions"), ("POST", "/rollback"), ("POST", "/pin"), ("POST", "/unpin")]


@pytest.fixture
def server(kit: Any, redis_model: Any, settings_for: Callable[..., ServingSettings]) -> Iterator[tuple[Any, Any, Any]]:
    model, store = redis_model
    with kit.running_server(settings_for(model.schema, api_key=KEY)) as running:
        yield running, model, store
        running.parts.pins.close()


def ask(running: Any, method: str, path: str, key: str | None = KEY, **more: Any) -> Any:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return running.http.request(method, path, headers=headers, **more)


def test_without_a_key_of_its_own_the_server_has_no_such_paths(
    kit: Any, redis_model: Any, settings_for: Callable[..., ServingSettings]
) -> None:
    model, _ = redis_model
    with kit.running_server(settings_for(model.schema)) as running:
        for method, path in PATHS:
            for key in (None, KEY):
                answer = ask(running, method, path, key)
                assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert not {path for _, path in PATHS} & running.http.get("/openapi.json").json()["paths"].keys()
        running.parts.pins.close()


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_no_key_is_401_another_is_403_and_neither_does_anything(server: Any, method: str, path: str) -> None:
    running, model, store = server
    store.put_base(model.base())
    answer = ask(running, method, path, None)
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:dimflow:problem:no_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    for header in ("Basic abc", "Bearer"):
        assert running.http.request(method, path, headers={"authorization": header}).status_code == 401
    for key in (KEY[:-1], KEY + "x", KEY.lower(), "k" * 1000):
        answer = ask(running, method, path, key)
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:dimflow:problem:wrong_key")
        assert key not in answer.text
    assert not store.client.hexists(store.keys.head, "pin")


def test_rollback_pin_and_unpin_over_http(kit: Any, server: Any) -> None:
    running, model, store = server
    store.put_base(model.base())
    store.add(model.step())
    store.put_base(model.base())
    store.add(model.step())
    kit.eventually(lambda: running.sequence() == 2, "it follows")
    listed = ask(running, "GET", "/versions").json()
    assert [item["version"] for item in listed["versions"]] == ["first-1", "first-0"]
    assert (listed["head"], listed["pinned"], listed["held_back"]) == ("first-2", None, None)

    answer = ask(running, "POST", "/rollback", json={"version": "first-0", "by": "night shift"})
    assert answer.status_code == 200
    assert answer.json()["pinned"]["version"] == "first-0"
    kit.eventually(lambda: running.sequence() == 0, "rolled back")
    report = running.http.get("/model").json()
    assert report["pinned"] == answer.json()["pinned"]
    assert report["pinned"]["by"] == "night shift"
    assert "dimflow_serving_pinned 1.0" in running.http.get("/metrics").text
    assert running.predict([model.instance()])["model"]["version"] == "first-0"

    answer = ask(running, "POST", "/pin")
    assert answer.json()["pinned"]["version"] == "first-1", "the newest base"
    assert answer.json()["pinned"]["by"] == "HTTP from 127.0.0.1"
    kit.eventually(lambda: running.sequence() == 1, "pinned")
    assert ask(running, "POST", "/unpin").json() == {"pinned": None}
    kit.eventually(lambda: running.sequence() == 2, "caught up")
    assert running.http.get("/model").json()["pinned"] is None
    assert "dimflow_serving_pinned 0.0" in running.http.get("/metrics").text


def test_orders_that_cannot_be_followed_are_problems(server: Any) -> None:
    running, model, store = server
    answer = ask(running, "POST", "/pin")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:dimflow:problem:no_versions")
    store.put_base(model.base())
    answer = ask(running, "POST", "/rollback", json={"version": "first-9"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:dimflow:problem:unknown_version")
    assert "expected one of first-0" in answer.json()["detail"]
    for body in ({}, {"version": 3}, {"versoin": "first-0"}, []):
        assert ask(running, "POST", "/rollback", json=body).status_code == 422
    assert ask(running, "POST", "/pin", content=b"{").status_code == 415
    assert ask(running, "POST", "/rollback", json={"version": "x" * 5000}).status_code == 413
    assert ask(running, "GET", "/pin").status_code == 405


def test_the_key_stands_in_no_log_answer_or_report(kit: Any, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    running, model, store = server
    caplog.set_level(logging.DEBUG)
    store.put_base(model.base())
    texts = [ask(running, "POST", "/pin", json={"version": "no"}).text, repr(running.parts)]
    texts += [running.http.get(path).text for path in ("/model", "/metrics", "/openapi.json", "/nothing")]
    texts.append(ask(running, "GET", "/versions").text)
    assert KEY not in "\n".join([*texts, caplog.text])
