"""What codecs do to predictions: the estimate against what really happens, rows against those that are sent."""

from dataclasses import replace

import numpy as np
import pytest

from dimension_search.learned_scales import LearnedScales
from dimension_search.precision_evidence import PrecisionSums
from dimension_search.precision_plan import same_codec_plan
from dimension_search.row_importance import LEVELS, levels_of
from dimension_search.row_tiers import PlanTiers
from stream_trainer.outgoing import _packed_blocks
from stream_trainer.precision_pass import JudgedSums, PrecisionPass, learn_blocks, log_losses
from tests.stream_trainer.test_precision_keeper import decoded as decoded_block
from tests.stream_trainer.test_saliency_pass import BANDS, Banded, banded

CODECS = ("fp32", "int8_minmax", "int4_minmax", "int4_minmax_block")


def tiers_for(case: Banded, shared: LearnedScales | None = None) -> list[PlanTiers]:
    shared = shared or LearnedScales(CODECS)
    assert learn_blocks(case.table, shared, 0, 1 << 30) == case.table.slots * BANDS
    return [shared.one_codec(codec, case.model.slot_names, BANDS) for codec in CODECS]


@pytest.mark.parametrize("multi", [True, False])
def test_rows_are_read_once_with_their_counts_and_blocks(multi: bool) -> None:
    case = banded(0, multi=multi)
    read = PrecisionPass(case.model, case.step.layout).read(case.table, case.batch)
    found = {
        id_: (block.slot * BANDS + block.band, float(count), values)
        for block in case.table.all_rows().blocks
        for id_, count, values in zip(block.ids.tolist(), block.counts, block.values, strict=True)
    }
    handles = case.table.find(np.array(list(found), np.uint64))
    by_handle = dict(zip(handles.tolist(), found.values(), strict=True))
    for handle, row in zip(np.unique(case.batch.handles).tolist(), range(read.counts.size), strict=True):
        block, count, values = by_handle[handle]
        assert (read.blocks[row], read.counts[row]) == (block, count)
        np.testing.assert_array_equal(read.values[row], values)
    np.testing.assert_array_equal(read.values[read.members], read.looked_up.values)
    np.testing.assert_array_equal(read.classes, read.blocks * LEVELS + levels_of(read.counts))


def test_decoded_rows_are_those_that_are_sent() -> None:
    case = banded(1)
    codec_pass = PrecisionPass(case.model, case.step.layout)
    read = codec_pass.read(case.table, case.batch)
    for tiers in tiers_for(case):
        sent = {}
        for block in case.table.all_rows().blocks:
            for packed in _packed_blocks(block, tiers):
                sent |= dict(zip(packed.ids.tolist(), decoded_block(packed), strict=True))
        ids = np.array(list(sent), np.uint64)
        by_handle = dict(zip(case.table.find(ids).tolist(), sent.values(), strict=True))
        decoded = read.decoded(tiers)
        known: dict[tuple[int, bytes], np.ndarray] = {}
        read.decoded(tiers, known)
        np.testing.assert_array_equal(read.decoded(tiers, known), decoded)
        for handle, row in zip(np.unique(case.batch.handles).tolist(), decoded, strict=True):
            np.testing.assert_array_equal(row, by_handle[handle])


@pytest.mark.parametrize(("multi", "dense"), [(False, 0), (True, 3)])
def test_the_estimate_is_about_what_the_model_itself_expects(multi: bool, dense: int) -> None:
    case = banded(2, multi=multi, dense=dense, rows=600)
    weights = np.random.default_rng(0).integers(0, 3, case.batch.rows).astype(np.float32)
    batch = replace(case.batch, weights=weights)
    codec_pass = PrecisionPass(case.model, case.step.layout)
    read = codec_pass.read(case.table, batch)
    tiers = tiers_for(case)
    sums = PrecisionSums(case.table.slots, BANDS, CODECS)
    codec_pass.observe(case.step.parameters, batch, read, tiers, sums)
    evidence = sums.evidence(np.ones(case.table.slots * BANDS * LEVELS, np.int64), np.full(BANDS * case.table.slots, 4))
    exact = codec_pass.predict(case.step.parameters, batch, read, read.values)
    estimated = sums._rise.sum(axis=0) / weights.sum()

    assert evidence.log_loss == pytest.approx(
        np.average(log_losses(exact.astype(np.float64), batch.labels), weights=weights), rel=1e-6
    )
    assert estimated[0] == 0
    for number in (1, 2):
        judged = JudgedSums()
        judged.add(batch, exact, codec_pass.predict(case.step.parameters, batch, read, read.decoded(tiers[number])))
        found = judged.judged()
        assert found is not None
        # errors of several slots in one sample add up to zero in the mean only
        assert estimated[number] == pytest.approx(found.expected * found.log_loss, rel=0.7)
    assert estimated[2] > 30 * estimated[1]


def test_judgement_of_predictions_that_are_known() -> None:
    case = banded(3, train=False)
    labels = (np.arange(case.batch.rows) % 2).astype(np.float32)
    batch = replace(case.batch, labels=labels, weights=np.ones_like(labels))
    before, after = np.zeros_like(labels), np.ones_like(labels)
    sums = JudgedSums()
    assert sums.judged() is None
    sums.add(batch, before, after)
    found = sums.judged()

    assert found is not None
    rises = np.where(labels > 0, np.log1p(np.exp(-1)), np.log1p(np.exp(1))) - np.log(2)
    expected = -0.5 * np.log(4 * (1 / (1 + np.exp(-1))) * (1 / (1 + np.exp(1))))  # KL(1/2 || sigmoid(1))
    assert found.samples == case.batch.rows
    assert found.log_loss == pytest.approx(np.log(2))
    assert found.measured == pytest.approx(rises.mean() / np.log(2))
    assert found.expected == pytest.approx(expected / np.log(2))
    assert found.noise == pytest.approx(np.sqrt((rises**2).sum()) / rises.size / np.log(2))


def test_shared_values_can_be_learned_some_blocks_at_a_time() -> None:
    case = banded(4)
    whole, parts = LearnedScales(CODECS), LearnedScales(CODECS)
    tiers_for(case, whole)
    block, steps = 0, 0
    while block < case.table.slots * BANDS:
        block, steps = learn_blocks(case.table, parts, block, 1), steps + 1
    name = CODECS[-1]

    assert steps == case.table.slots * BANDS
    for block in range(steps):
        np.testing.assert_array_equal(parts.of(block, name, 3), whole.of(block, name, 3))


def test_the_plan_of_one_codec_is_read_exactly_by_fp32() -> None:
    case = banded(5)
    read = PrecisionPass(case.model, case.step.layout).read(case.table, case.batch)
    exact = PlanTiers(same_codec_plan("fp32", case.model.slot_names, BANDS, created_ms=0), case.model.slot_names)

    np.testing.assert_array_equal(read.decoded(exact), read.values)
