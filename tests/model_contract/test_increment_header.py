import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model_contract.errors import BadHeader, BadRanges, HeaderTooLarge, InvalidContent
from model_contract.increment_content import DenseTensor, Increment, IncrementHeader, IncrementLimits, RowBlock
from model_contract.increment_header import header_bytes, parse_header

HEADER = IncrementHeader("increment", "f", "l", 1, 8, 7, 0, offsets=(("t", 0, 5),), metrics={"b": 1.0, "a": 0.5})


def rows(slot: int, count: int, columns: list[int]) -> RowBlock:
    ids = np.arange(1, count + 1, dtype=np.uint64)
    data = np.zeros((count, 4 * len(columns)), np.uint8)
    return RowBlock(slot, 0, np.array(columns, np.uint16), "fp32", ids, data, np.zeros(slot, np.float32))


INCREMENT = Increment(
    HEADER,
    (rows(0, 3, [0, 5]), rows(1, 2, [1])),
    np.array([4, 5], np.uint64),
    (DenseTensor("b", np.zeros((2, 3), np.float32), "float16"), DenseTensor("s", np.array(1.0, np.float32))),
)


def test_ranges_follow_from_counts_and_shapes() -> None:
    header = parse_header(header_bytes(INCREMENT), IncrementLimits())
    assert [block.ids for block in header.blocks] == [(0, 24), (24, 40)]
    assert header.tombstones.ids == (40, 56)
    assert [block.shared for block in header.blocks] == [(56, 56), (56, 60)]
    assert [tensor.values for tensor in header.dense] == [(64, 76), (60, 64)]
    assert [block.data for block in header.blocks] == [(76, 100), (100, 108)]
    assert header.buffer_bytes == 108


def test_content_comes_back() -> None:
    assert parse_header(header_bytes(INCREMENT), IncrementLimits()).content() == HEADER


def test_metrics_are_sorted() -> None:
    assert list(json.loads(header_bytes(INCREMENT))["metrics"]) == ["a", "b"]


@pytest.mark.parametrize("span", [[0, 23], [0, 25], [1, 25], [24, 0], [24, 48], [-24, 0], [0, 2**63]])
def test_any_other_range_is_refused(span: list[int]) -> None:
    header: dict[str, Any] = json.loads(header_bytes(INCREMENT))
    header["blocks"][0]["ids"] = span
    with pytest.raises((BadRanges, BadHeader)):
        parse_header(json.dumps(header).encode(), IncrementLimits())


def test_entries_out_of_order_are_refused() -> None:
    for wrong in (
        replace(INCREMENT, blocks=INCREMENT.blocks[::-1]),
        replace(INCREMENT, blocks=(INCREMENT.blocks[0], INCREMENT.blocks[0])),
        replace(INCREMENT, dense=INCREMENT.dense[::-1]),
        replace(INCREMENT, header=replace(HEADER, sample_times=((20, 1), (10, 1)))),
    ):
        with pytest.raises(InvalidContent, match="expected ascending"):
            header_bytes(wrong)


def test_blocks_that_share_values_may_differ_in_those_alone() -> None:
    twins = replace(INCREMENT, blocks=(INCREMENT.blocks[1], INCREMENT.blocks[1]))
    assert len(parse_header(header_bytes(twins), IncrementLimits()).blocks) == 2


def test_a_header_too_large_for_every_reader_is_not_written() -> None:
    times = tuple((i, 1) for i in range(0, 10**15, 10**9))
    with pytest.raises(HeaderTooLarge):
        header_bytes(replace(INCREMENT, header=replace(HEADER, sample_times=times)))
