"""Plans of precision as data."""

import numpy as np
import pytest

from dimension_search.errors import SearchError
from dimension_search.plan import Verdict
from dimension_search.precision_plan import (
    Candidate,
    PrecisionPlan,
    TierPlan,
    read_precision_plan,
    same_codec_plan,
    write_precision_plan,
)


def made_precision_plan(**changes: object) -> PrecisionPlan:
    shared = np.array([0.25, -1.0], "<f4").tobytes()
    values: dict[str, object] = {
        "policy": "importance",
        "trigger": "samples",
        "created_ms": 1_700_000_000_000,
        "samples_trained": 50_000,
        "tolerance": 1e-4,
        "budget_bytes": 0,
        "bytes_before": 4000,
        "bytes_after": 900,
        "tiers": [
            TierPlan(
                slot="user",
                band=0,
                codec="int4_minmax_block",
                least_count=0.0,
                width=8,
                rows=100,
                bytes_before=3200,
                bytes_after=408,
                error=0.0625,
                rise=1e-5,
                reason="made up",
                shared=shared,
            ),
            TierPlan(slot="user", band=0, codec="int8_minmax", least_count=3.0, width=8, rows=9, bytes_before=288),
            TierPlan(slot="article", band=0, codec="fp32", least_count=0.0),
        ],
        "candidates": [Candidate(price=1e-9, bytes=900, estimated=5e-5, expected=6e-5, measured=-1e-5, noise=4e-5)],
        "verdict": Verdict(decision="applied", reason="it keeps to the tolerance", samples=4096),
        **changes,
    }
    return PrecisionPlan(**values)  # type: ignore[arg-type]


def test_a_plan_is_read_back_as_it_was_written() -> None:
    plan = made_precision_plan()

    assert read_precision_plan(write_precision_plan(plan)) == plan
    np.testing.assert_array_equal(plan.tiers[0].shared_values, np.array([0.25, -1], np.float32))
    assert plan.tiers[1].shared_values is None


def test_people_are_spared_what_rows_share() -> None:
    plan = made_precision_plan().without_shared()

    assert all(tier.shared == b"" for tier in plan.tiers)
    assert plan.tiers[0].codec == "int4_minmax_block"


def test_one_codec_for_all() -> None:
    plan = same_codec_plan("fp16", ("user", "article"), 2, created_ms=5)

    assert [(tier.slot, tier.band) for tier in plan.tiers] == [
        ("user", 0),
        ("user", 1),
        ("article", 0),
        ("article", 1),
    ]
    assert {(tier.codec, tier.least_count) for tier in plan.tiers} == {("fp16", 0.0)}


@pytest.mark.parametrize("text", [b"", b"{}", b'{"policy": 3}', b"\xff"])
def test_what_is_no_plan_is_refused(text: bytes) -> None:
    with pytest.raises(SearchError, match="not a plan of precision"):
        read_precision_plan(text)
