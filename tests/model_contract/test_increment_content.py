import dataclasses

import numpy as np
import pytest

from model_contract import increment
from model_contract.increment_content import DenseTensor, Increment, IncrementHeader, IncrementLimits, RowBlock

KINDS = (DenseTensor, Increment, IncrementHeader, IncrementLimits, RowBlock)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_frozen_and_documented(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    for field in dataclasses.fields(kind):
        assert f"{field.name}:" in (kind.__doc__ or ""), field.name


def test_the_codec_offers_them_too() -> None:
    assert all(getattr(increment, kind.__name__) is kind for kind in KINDS)


def test_headers_do_not_share_metrics() -> None:
    left, right = (IncrementHeader("base", "f", "l", 1, 7, 7, 0) for _ in range(2))
    assert left == right
    assert left.metrics is not right.metrics
    nothing = np.empty(0, np.uint64), np.empty((0, 4), np.uint8), np.empty(0, np.float32)
    assert RowBlock(0, 0, np.array([0], np.uint16), "fp32", *nothing).slot == 0
