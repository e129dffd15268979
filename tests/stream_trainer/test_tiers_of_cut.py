"""The plan that a cut carries."""

from dataclasses import replace

import numpy as np

from dimension_search.precision_plan import same_codec_plan, write_precision_plan
from stream_trainer.model_state import ModelState
from stream_trainer.tiers_of_cut import PLAN, STATE_PREFIX, TiersOfCut
from tests.stream_trainer.states import block, state


def with_plan(codec: str) -> ModelState:
    plan = write_precision_plan(same_codec_plan(codec, ("user",), 1, created_ms=0))
    cut = state(0, [block(0, [1, 2], 1.0)])
    return replace(cut, arrays={**cut.arrays, STATE_PREFIX + PLAN: np.frombuffer(plan, np.uint8)})


def codecs(tiers_of: TiersOfCut, cut: ModelState) -> list[str]:
    tiers = tiers_of(cut)
    assert tiers is not None
    return [codec.name for _, codec, _ in tiers.split(cut.rows.blocks[0])]


def test_each_cut_goes_by_its_own_plan() -> None:
    tiers_of = TiersOfCut(("user",))

    assert tiers_of(state(0, [block(0, [1], 1.0)])) is None
    assert codecs(tiers_of, with_plan("fp16")) == ["fp16"]
    assert codecs(tiers_of, with_plan("int8_minmax")) == ["int8_minmax"]
    assert codecs(tiers_of, with_plan("fp16")) == ["fp16"]
    assert tiers_of(with_plan("fp16")) is tiers_of(with_plan("fp16"))  # the plan is not read again and again
