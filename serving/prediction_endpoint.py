"""`POST /predict`, straight on ASGI: bytes in, scores, bytes out.

Knows no Redis and no order of versions. The framework's routing, dependency and response layers are left out here on
purpose: they cost as much as scoring a small request does (figures in docs/log.md). Invariants: the event loop is
held only by a body small enough to be scored at once, and never by a lock; everything else runs in a small thread
pool with a bounded queue and a deadline.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from model_contract.errors import RequestError, RequestTooLarge
from model_contract.prediction_request import PredictionRequestDecoder
from serving.errors import ClientGone, HttpProblem, ModelNotLoaded, ReplicaBusy
from serving.metrics import ServingMetrics
from serving.problem import send_problem
from serving.replica import Replica
from serving.request_body import BodyReader
from serving.settings import ServingSettings

__all__ = ["PredictionEndpoint"]

_log = logging.getLogger(__name__)

_CLIENT_CLOSED = 499  # for the metrics alone: nobody is there to read it


class AnsweringModel(msgspec.Struct):
    """What an answer says about the model that gave it."""

    name: str
    lineage: str
    version: str
    sequence: int
    age_ms: int


class Answer(msgspec.Struct):
    """The body of an answer."""

    probabilities: list[float]
    model: AnsweringModel


class PredictionEndpoint:
    """An ASGI application for one path and method.

    Args:
        settings: limits, threads and deadline.
        model_name: of the schema.
        decoder: bodies to batches.
        replica: scores them.
        metrics: told of every answer.
        now_ms: the clock, for the model's age.
    """

    def __init__(
        self,
        settings: ServingSettings,
        model_name: str,
        decoder: PredictionRequestDecoder,
        replica: Replica,
        metrics: ServingMetrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._model_name = model_name
        self._decoder = decoder
        self._replica = replica
        self._metrics = metrics
        self._now_ms = now_ms
        self._bodies = BodyReader(settings.max_body_bytes, settings.max_buffered_bytes)
        self._pool = ThreadPoolExecutor(settings.scoring_threads, thread_name_prefix="dimflow-score")
        self._encoder = msgspec.json.Encoder()
        self._in_work = 0

    def warm_up(self, instance: dict[str, Any]) -> None:
        """Decodes an instance, so that no request waits for kernels to be compiled or read from their cache."""
        self._decoder.decode(msgspec.json.encode({"instances": [instance]}))

    def close(self) -> None:
        """Ends the scoring threads; requests still waiting for one are not answered any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        started_s = time.perf_counter()
        whole = False
        try:
            body = await self._bodies.read(scope, receive)
            whole = True
            answer = await self._answer(body)
        except HttpProblem as problem:
            status = problem.status
            await send_problem(send, problem, None if whole else receive)
        except ClientGone:
            status = _CLIENT_CLOSED
        except Exception:  # noqa: BLE001 - the outermost frame of a request: it is answered whatever happened
            _log.exception("a prediction failed")
            status = 500
            await send_problem(send, HttpProblem(500, "internal", "an unexpected error; the server's log has it"))
        else:
            status = 200
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})
        self._metrics.answered(status, time.perf_counter() - started_s)

    async def _answer(self, body: bytes) -> bytes:
        if len(body) <= self._settings.inline_body_bytes:
            try:
                return self._work(body, wait=False)
            except ReplicaBusy:
                pass  # a version is being exchanged: a thread may wait for it, the event loop may not
        if self._in_work >= self._settings.max_requests:
            detail = f"{self._in_work} predictions are in work: at most {self._settings.max_requests} at one time"
            raise HttpProblem(503, "busy", detail, retry_after_s=1)
        self._in_work += 1
        self._metrics.in_work.set(self._in_work)
        try:
            async with asyncio.timeout(self._settings.score_timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._pool, self._work, body)
        except TimeoutError as error:
            detail = f"no scores within {self._settings.score_timeout_s} s"
            raise HttpProblem(503, "deadline", detail, retry_after_s=1) from error
        finally:
            self._in_work -= 1
            self._metrics.in_work.set(self._in_work)

    def _work(self, body: bytes, wait: bool = True) -> bytes:
        """Decodes, scores and encodes; on the event loop or on a thread of the pool."""
        try:
            batch = self._decoder.decode(body)
            scores = self._replica.score(batch, wait=wait)
        except RequestTooLarge as error:
            raise HttpProblem(413, "too_many", error.detail, pointer=error.pointer) from error
        except RequestError as error:
            raise _bad_request(body, error) from error
        except ModelNotLoaded as error:
            detail = "no model has been loaded yet; /readyz says what it waits for"
            raise HttpProblem(503, "no_model", detail, retry_after_s=1) from error
        version = scores.version
        model = AnsweringModel(
            self._model_name,
            version.lineage,
            version.name,
            version.sequence,
            max(self._now_ms() - version.created_ms, 0),
        )
        self._metrics.scored(batch.rows, scores.lookups, scores.unknown)
        return self._encoder.encode(Answer(scores.probabilities.tolist(), model))


def _bad_request(body: bytes, error: RequestError) -> HttpProblem:
    """400 where the body is no JSON at all, 422 where it is JSON of another shape."""
    try:
        msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return HttpProblem(400, "not_json", error.detail)
    return HttpProblem(422, "invalid_request", error.detail, pointer=error.pointer)
