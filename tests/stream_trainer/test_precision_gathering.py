"""What a search for precision gathers."""

import numpy as np

from dimension_search.row_importance import LEVELS, levels_of
from stream_trainer.precision_gathering import PrecisionGathering
from tests.stream_trainer.test_saliency_pass import BANDS, banded

CODECS = ("fp16", "int4_minmax_block")


def test_shared_values_come_before_codecs_can_be_asked() -> None:
    case = banded(0)
    gathering = PrecisionGathering(case.table, CODECS, case.model.slot_names, "samples")
    steps = 0
    while not gathering.codec_tiers:
        assert gathering.learn_shared(case.table, 1)
        steps += 1

    assert steps == case.table.slots * BANDS
    assert len(gathering.codec_tiers) == 2
    assert not gathering.learn_shared(case.table, 1)


def test_every_row_is_in_one_class_and_blocks_have_their_widths() -> None:
    case = banded(1)
    columns = [np.arange(case.model.dim, dtype=np.uint16)] * (case.table.slots * BANDS)
    columns[0] = columns[0][:2]
    case.table.begin_resize(columns)
    case.table.resize_some(1 << 20)
    gathering = PrecisionGathering(case.table, CODECS, case.model.slot_names, "samples")
    rows, widths = gathering.rows_and_widths(case.table)

    assert widths.tolist() == [2] + [case.model.dim] * (widths.size - 1)
    assert rows.sum() == case.table.rows
    expected = np.zeros(rows.size, np.int64)
    live = case.table.live_rows()
    np.add.at(expected, (live.slots * BANDS + live.bands) * LEVELS + levels_of(live.counts), 1)
    expected.reshape(case.table.slots, -1)[:, -1] += 1  # missing rows
    np.testing.assert_array_equal(rows, expected)
