"""Reads the pages of a running trainer and server: how far training is, what it learned, how fresh the answers are.

Knows the names on those pages and nothing else of the processes. The only module of the command that speaks HTTP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["LoopWatch", "TrainerNumbers"]


@dataclass(frozen=True, slots=True)
class TrainerNumbers:
    """The trainer's page as values, by name without prefix; progressive metrics apart."""

    values: Mapping[str, float]
    progressive: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """A value by its name, 0 where the page does not have it yet."""
        return self.values.get(name, 0.0)


class LoopWatch:
    """One client for both processes; not for several threads at once."""

    def __init__(self, trainer_url: str, server_url: str) -> None:
        self._trainer_url = trainer_url
        self._server_url = server_url
        self._client = httpx.Client(timeout=10.0)

    def trainer(self) -> TrainerNumbers:
        """The trainer's numbers now.

        Raises:
            httpx.HTTPError: no answer.
        """
        page = self._client.get(f"{self._trainer_url}/metrics").raise_for_status().text
        values: dict[str, float] = {}
        progressive: dict[str, float] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if "metric" in sample.labels:
                    progressive[sample.labels["metric"]] = sample.value
                else:
                    values[sample.name.removeprefix("dimflow_trainer_")] = sample.value
        return TrainerNumbers(values, progressive)

    def model(self) -> Mapping[str, Any]:
        """The server's /model document.

        Raises:
            httpx.HTTPError: no answer.
        """
        answer = self._client.get(f"{self._server_url}/model").raise_for_status()
        return msgspec.json.decode(answer.content, type=dict[str, Any])

    def ready(self) -> bool:
        """Whether the server answers predictions."""
        return self._client.get(f"{self._server_url}/readyz").status_code == httpx.codes.OK

    def predict(self, instances: Sequence[Mapping[str, Any]]) -> list[float]:
        """Probabilities of some instances.

        Raises:
            httpx.HTTPError: no answer, or not ready.
        """
        body = msgspec.json.encode({"instances": instances})
        headers = {"content-type": "application/json"}
        answer = self._client.post(f"{self._server_url}/predict", content=body, headers=headers).raise_for_status()
        probabilities: list[float] = msgspec.json.decode(answer.content)["probabilities"]
        return probabilities

    def __enter__(self) -> Self:
        """The watch itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the connections."""
        self._client.close()
