from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from model_contract.increment import encode
from model_contract.published_versions import Hold, Pin, StoredBase
from serving.metrics import ServingMetrics


def values(metrics: ServingMetrics) -> dict[str, float]:
    page = metrics.page().decode()
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.fixture
def metrics(bench: Any, kit: Any) -> ServingMetrics:
    return ServingMetrics(bench.replica, bench.feed_log, bench.freshness, lambda: kit.NOW_MS + 5000)


def test_before_any_model(metrics: ServingMetrics) -> None:
    seen = values(metrics)

    assert seen["dimflow_serving_ready"] == 0
    assert seen["dimflow_serving_redis_up"] == 0
    assert seen["dimflow_serving_model_rows"] == 0
    assert "dimflow_serving_staleness_seconds" not in seen
    assert seen["dimflow_serving_freshness_seconds_count"] == 0
    assert seen["dimflow_serving_requests_total{status=200}"] == 0


def test_model_feed_and_freshness(bench: Any, metrics: ServingMetrics) -> None:
    model = bench.model
    bench.feed_log.connected()
    bench.intake.take_base(bench.head(), encode(model.base()))
    first = encode(model.step())
    bench.intake.take("increment 1-0", first)
    bench.intake.take("increment 1-0", first)
    bench.intake.take("increment 2-0", first[:-1])
    seen = values(metrics)

    assert seen["dimflow_serving_ready"] == 1
    assert seen["dimflow_serving_model_sequence"] == 1
    assert seen["dimflow_serving_model_rows"] == len(model.rows)
    footprint = bench.replica.footprint
    assert seen["dimflow_serving_model_bytes{part=row}"] == footprint.row_bytes
    assert seen["dimflow_serving_model_row_bytes{precision=fp32}"] == footprint.precision_bytes["fp32"]
    assert seen["dimflow_serving_model_bytes{part=index}"] == footprint.index_bytes
    assert seen["dimflow_serving_staleness_seconds"] == pytest.approx(4.999)
    assert seen["dimflow_serving_newest_sample_age_seconds"] == 5
    assert seen["dimflow_serving_increments_applied_total"] == 1
    assert seen["dimflow_serving_increments_duplicate_total"] == 1
    assert seen["dimflow_serving_bases_loaded_total"] == 1
    assert seen["dimflow_serving_increments_refused_total{reason=bad_checksum}"] == 1
    assert seen["dimflow_serving_freshness_seconds_count"] == 4
    assert seen["dimflow_serving_freshness_seconds_sum"] == pytest.approx(0.7)
    assert seen["dimflow_serving_freshness_seconds_bucket{le=0.1}"] == 1
    assert seen["dimflow_serving_freshness_seconds_bucket{le=0.2}"] == 4


def test_a_pin_and_a_hold_are_gauges(bench: Any, metrics: ServingMetrics) -> None:
    base = StoredBase(lineage="first", sequence=3, epoch=1, chunks=1, size_bytes=9, fingerprint="f")
    hold = Hold(reason="log_loss", detail="twice", since_ms=4, sequence=5)
    for pin, held in ((None, None), (Pin(base=base, by="ops", since_ms=9), None), (None, hold)):
        bench.feed_log.noted(pin, held)
        seen = values(metrics)
        assert seen["dimflow_serving_pinned"] == (pin is not None)
        assert seen["dimflow_serving_held_back"] == (held is not None)


def test_requests_by_status_and_latency(metrics: ServingMetrics) -> None:
    for status in (200, 200, 422, 408):
        metrics.answered(status, 0.004)
    metrics.scored(10, 90, 7)
    metrics.scored(1, 9, 0)
    seen = values(metrics)

    assert seen["dimflow_serving_requests_total{status=200}"] == 2
    assert seen["dimflow_serving_requests_total{status=422}"] == 1
    assert seen["dimflow_serving_requests_total{status=408}"] == 1
    assert seen["dimflow_serving_request_seconds_bucket{le=0.005}"] == 4
    assert seen["dimflow_serving_instances_total"] == 11
    assert seen["dimflow_serving_lookups_total"] == 99
    assert seen["dimflow_serving_lookups_unknown_total"] == 7


def test_two_servers_in_one_process_do_not_mix(bench: Any, kit: Any, metrics: ServingMetrics) -> None:
    other = ServingMetrics(bench.replica, bench.feed_log, bench.freshness, lambda: kit.NOW_MS)
    metrics.answered(200, 0.1)

    assert values(other)["dimflow_serving_requests_total{status=200}"] == 0
