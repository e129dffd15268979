from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model_contract.samples import Decoded, Reason, Reject, SampleBatch
from model_contract.schema import ModelSchema

Plain = Callable[[ModelSchema, list[dict[str, Any]]], SampleBatch]
Same = Callable[[SampleBatch, SampleBatch], None]


def test_slices_are_the_batches_of_the_sliced_records(
    schema: ModelSchema, records: list[dict[str, Any]], plain: Plain, same_batch: Same
) -> None:
    whole = plain(schema, records)
    for lo in range(len(records) + 1):
        for hi in range(lo, len(records) + 2):
            same_batch(whole.slice(lo, hi), plain(schema, records[lo:hi]))


def test_slices_do_not_copy_ids(schema: ModelSchema, records: list[dict[str, Any]], plain: Plain) -> None:
    whole = plain(schema, records)
    assert np.shares_memory(whole.slice(1, 4).ids, whole.ids)


def test_concatenation_is_the_batch_of_all_records(
    schema: ModelSchema, records: list[dict[str, Any]], plain: Plain, same_batch: Same
) -> None:
    for cuts in ([0, 3, 3, 7], [0, 0, 7], [0, 7, 7], [0, 1, 2, 7], [0, 7]):
        parts = [plain(schema, records[a:b]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        same_batch(SampleBatch.concatenate(parts), plain(schema, records))
    empty = SampleBatch.empty(3)
    same_batch(SampleBatch.concatenate([empty, empty]), plain(schema, []))


@pytest.mark.parametrize("rows", [[], [6], [3, 3, 0], [6, 5, 4, 3, 2, 1, 0]])
def test_take_is_the_batch_of_the_chosen_records(
    schema: ModelSchema, records: list[dict[str, Any]], plain: Plain, same_batch: Same, rows: list[int]
) -> None:
    taken = plain(schema, records).take(np.array(rows, np.int64))
    same_batch(taken, plain(schema, [records[row] for row in rows]))


def test_merged_parts_stand_in_the_order_of_their_records(
    schema: ModelSchema, records: list[dict[str, Any]], plain: Plain, same_batch: Same
) -> None:
    odd = Decoded(plain(schema, records[1::2]), np.array([1, 3, 5]), (Reject(8, Reason.NOT_JSON, "b"),))
    even = Decoded(plain(schema, records[0::2]), np.array([0, 2, 4, 6]), (Reject(7, Reason.TOO_LARGE, "a"),))
    merged = Decoded.merged([odd, even])
    same_batch(merged.batch, plain(schema, records))
    assert merged.source_index.tolist() == list(range(7))
    assert [reject.index for reject in merged.rejects] == [7, 8]


def test_merged_keeps_the_order_of_rows_of_one_record(
    schema: ModelSchema, records: list[dict[str, Any]], plain: Plain
) -> None:
    many = Decoded(plain(schema, records), np.array([1] * 7), ())
    one = Decoded(plain(schema, records[:1]), np.array([0]), ())
    merged = Decoded.merged([many, one])
    np.testing.assert_array_equal(merged.batch.labels[1:], many.batch.labels)
    np.testing.assert_array_equal(merged.batch.ids[-len(many.batch.ids) :], many.batch.ids)


def test_reasons_are_plain_text_for_headers_and_metrics() -> None:
    assert all(isinstance(reason, str) and str(reason) == reason.value == reason.value.lower() for reason in Reason)
