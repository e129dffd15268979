"""The HTTP application: predictions on their own short way, everything else through FastAPI.

Knows no Redis; model, feed and metrics are handed in. Invariant: every answer that is no result is a problem document,
also those of the framework itself.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from model_contract.schema import ModelSchema
from serving.errors import HttpProblem
from serving.feed_log import FeedLog
from serving.metrics import METRICS_TYPE, ServingMetrics
from serving.model_report import ModelReport, ModelReporter
from serving.prediction_description import describe_prediction
from serving.prediction_endpoint import PredictionEndpoint
from serving.problem import problem_document, problem_headers, send_problem
from serving.replica import Replica
from serving.settings import ServingSettings
from serving.version_endpoints import add_version_paths
from serving.version_pins import VersionPins

__all__ = ["ServingApp", "create_app"]

PREDICT_PATH = "/predict"


class ServingApp(FastAPI):
    """FastAPI with one path taken out in front of it, and described as if it were inside."""

    def __init__(self, predict: PredictionEndpoint, prediction: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._predict = predict
        self._prediction = prediction

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http" or scope["path"] != PREDICT_PATH:
            await super().__call__(scope, receive, send)
        elif scope["method"] == "POST":
            await self._predict(scope, receive, send)
        else:
            detail = f"method {scope['method']}: expected POST"
            await send_problem(send, HttpProblem(405, "method_not_allowed", detail, allow="POST"), receive)

    def openapi(self) -> dict[str, Any]:
        """The description of all paths."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title, version=self.version, description=self.description, routes=self.routes
            )
            document["paths"] = {PREDICT_PATH: self._prediction, **document["paths"]}
            self.openapi_schema = document
        return self.openapi_schema


def create_app(
    settings: ServingSettings,
    schema: ModelSchema,
    predict: PredictionEndpoint,
    reporter: ModelReporter,
    feed_log: FeedLog,
    replica: Replica,
    metrics: ServingMetrics,
    healthy: Callable[[], bool],
    pins: VersionPins,
) -> ServingApp:
    """Puts the application together.

    Args:
        settings: limits, for the description.
        schema: of the model.
        predict: the endpoint of `/predict`.
        reporter: of `/model`.
        feed_log: says what `/readyz` waits for.
        replica: says whether there is a model.
        metrics: page of `/metrics`.
        healthy: whether the process does its work; `/healthz` asks.
        pins: of the versions in Redis; on the paths only where the settings have an API key.
    """
    app = ServingApp(
        predict,
        describe_prediction(schema, settings),
        title=f"dimflow: {schema.name}",
        version=schema.fingerprint,
        description="Scores of a model that is learning while it answers.",
    )
    _add_probes(app, feed_log, replica, healthy)
    _add_reports(app, reporter, metrics)
    if settings.api_key:
        add_version_paths(app, pins, settings.api_key)
    app.add_exception_handler(HTTPException, _framework_problem)
    app.add_exception_handler(HttpProblem, _own_problem)
    app.add_exception_handler(Exception, _unexpected)
    return app


def _add_probes(app: FastAPI, feed_log: FeedLog, replica: Replica, healthy: Callable[[], bool]) -> None:
    @app.get("/healthz", summary="Whether the process works")
    async def healthz() -> dict[str, str]:
        if not healthy():
            detail = "the thread that follows Redis has ended"
            raise HttpProblem(503, "unhealthy", detail)
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether a model answers, and what is waited for if not")
    async def readyz() -> dict[str, str]:
        version = replica.version
        if version is None:
            raise HttpProblem(503, "no_model", f"waiting for {feed_log.state.waiting_for}", retry_after_s=1)
        return {"status": "ready", "version": version.name}


def _add_reports(app: FastAPI, reporter: ModelReporter, metrics: ServingMetrics) -> None:
    @app.get("/model", summary="The model that answers", response_model=ModelReport)
    def model() -> Response:  # not async: it runs in a thread, and so does the next
        return Response(msgspec.json.encode(reporter.report()), media_type="application/json")

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    def page() -> Response:
        return Response(metrics.page(), media_type=METRICS_TYPE)


async def _framework_problem(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    phrase = HTTPStatus(status).phrase
    problem = HttpProblem(status, phrase.lower().replace(" ", "_"), f"{phrase}: {_request.method} {_request.url.path}")
    response = _problem_response(problem)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


async def _own_problem(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HttpProblem):
        raise error
    return _problem_response(error)


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return _problem_response(HttpProblem(500, "internal", "an unexpected error; the server's log has it"))


def _problem_response(problem: HttpProblem) -> Response:
    body = problem_document(problem)
    headers = {name.decode(): value.decode() for name, value in problem_headers(problem, len(body))}
    return Response(body, status_code=problem.status, headers=headers)
