"""The demo's run: its report, and what it does when a part of the loop is gone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from dimflow.demo_run import DemoOptions, DemoReport, run_loop
from dimflow.demo_view import DemoMoment
from dimflow.errors import DemoFailed
from dimflow.model_files import packaged_model_file, read_model_file
from dimflow.synthetic_streams import DriftingTeacher


def options(kafka, redis_server, batches: Iterator[pa.RecordBatch], samples: int) -> DemoOptions:
    model_file = packaged_model_file("teacher")
    return DemoOptions(
        schema=read_model_file(model_file),
        model_file=model_file,
        batches=batches,
        samples=samples,
        seed=1,
        brokers=kafka.bootstrap,
        redis=redis_server.url,
    )


def test_it_uses_servers_that_run_already_and_adds_up(kafka, redis_server, tmp_path: Path) -> None:
    moments: list[DemoMoment] = []
    stream = (batch.samples for batch in DriftingTeacher(seed=1).batches(20_000, 2048))

    report = run_loop(options(kafka, redis_server, stream, 20_000), moments.append)

    assert isinstance(report, DemoReport)
    assert report.samples == 20_000
    assert report.rows > 100
    assert 0 < report.freshness_p50_ms <= report.freshness_p95_ms
    assert json.loads(report.as_json())["samples_per_s"] == report.samples_per_s > 0
    assert [moment.stage for moment in moments[:2]] == [
        "starting Kafka and Redis",
        "starting trainer and server (the first start compiles the kernels)",
    ]
    assert any(moment.asked for moment in moments)


def test_a_stream_that_breaks_ends_the_demo_with_its_reason(kafka, redis_server) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from (batch.samples for batch in DriftingTeacher(seed=1).batches(2048, 2048))
        message = "the file ends in the middle"
        raise OSError(message)

    with pytest.raises(DemoFailed, match="the file ends in the middle"):
        run_loop(options(kafka, redis_server, broken(), 4096), lambda _: None)
