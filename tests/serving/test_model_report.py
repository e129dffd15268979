from dataclasses import asdict
from typing import Any

import pytest

from model_contract.increment import encode
from model_contract.published_versions import Hold, Pin, StoredBase
from serving.model_report import ModelReporter


@pytest.fixture
def reporter(bench: Any, kit: Any) -> ModelReporter:
    return ModelReporter(bench.model.schema, bench.replica, bench.feed_log, bench.freshness, lambda: kit.NOW_MS + 1000)


def test_every_field_is_there_before_a_model_is(bench: Any, reporter: ModelReporter) -> None:
    report = asdict(reporter.report())

    assert report["name"] == "small"
    assert report["fingerprint"] == bench.model.schema.fingerprint
    assert report["schema"]["dim"] == 8
    for key in ("lineage", "epoch", "version", "sequence", "base_sequence", "age_ms", "newest_sample_age_ms"):
        assert report[key] is None
    assert report["freshness"]["overall"] == {"samples": 0, "p50_ms": None, "p95_ms": None}
    assert report["bytes"]["total"] == 0
    assert report["pinned"] is report["held_back"] is None


def test_a_pin_and_a_hold_are_told(bench: Any, reporter: ModelReporter) -> None:
    base = StoredBase(lineage="first", sequence=3, epoch=1, chunks=1, size_bytes=9, fingerprint="f")
    hold = Hold(reason="not_finite", detail="the row of id 7", since_ms=4, sequence=5)
    bench.feed_log.noted(Pin(base=base, by="ops", since_ms=9), hold)
    report = asdict(reporter.report())

    assert report["pinned"] == {"version": "first-3", "by": "ops", "since_ms": 9}
    assert report["held_back"] == {"reason": "not_finite", "detail": "the row of id 7", "since_ms": 4, "sequence": 5}


def test_a_model_with_its_history(bench: Any, reporter: ModelReporter) -> None:
    model = bench.model
    bench.feed_log.connected()
    bench.intake.take_base(bench.head(), encode(model.base()))
    bench.intake.take("increment 1-0", encode(model.step()))
    model.step()
    bench.intake.take("increment 3-0", encode(model.step()))
    report = asdict(reporter.report())

    assert (report["lineage"], report["epoch"], report["version"]) == ("first", 1, "first-1")
    assert (report["sequence"], report["base_sequence"], report["samples_trained"]) == (1, 0, 100)
    assert (report["age_ms"], report["newest_sample_age_ms"]) == (999, 1000)
    assert report["rows"] == bench.replica.footprint.rows
    assert report["bytes"]["total"] == sum(report["bytes"][part] for part in ("rows", "index", "dense"))
    assert report["bytes"]["rows_by_precision"] == bench.replica.footprint.precision_bytes != {}
    assert report["freshness"]["overall"]["samples"] == 4
    assert report["freshness"]["last_minute"] == report["freshness"]["overall"]
    assert report["feed"]["refused"] == {"gap": 1}
    refusal = report["feed"]["refusals"][0]
    assert (refusal["reason"], refusal["source"]) == ("gap", "increment 3-0")
    assert "expected 2" in refusal["detail"]
