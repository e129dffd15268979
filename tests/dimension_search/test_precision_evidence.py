"""Sums of a window, and what they say of classes of rows."""

import numpy as np
import pytest

from dimension_search.errors import SearchError
from dimension_search.precision_evidence import PrecisionSums
from dimension_search.row_importance import LEVELS
from embedding_table.row_codecs import codec_named

CODECS = ("fp16", "int4_greedy_coded", "int4_minmax_block")


def sums_with(classes: list[int], rises: list[float], slots: int = 2, bands: int = 2) -> PrecisionSums:
    sums = PrecisionSums(slots, bands, CODECS)
    sums.add_samples(10, 20.0, 10.0)
    ones = np.ones(len(classes))
    sums.add_lookups(np.array(classes), 4 * ones, 6 * ones)
    sums.add_errors(1, np.array(classes), np.array(rises), ones)
    return sums


def rows_and_widths(rows: dict[int, int], widths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    found = np.zeros(len(widths) * LEVELS, np.int64)
    for place, number in rows.items():
        found[place] = number
    return found, np.array(widths, np.int64)


def test_rises_are_means_over_samples_and_errors_are_relative() -> None:
    evidence = sums_with([0, 0, 5], [1.0, 3.0, 8.0]).evidence(*rows_and_widths({0: 7, 5: 1}, [4, 0, 0, 0]))

    typical = 12 / 3  # one lookup more for each class
    assert evidence.rise[0].tolist() == [0, (4 + typical) / 20, 0]
    assert evidence.rise[5].tolist() == [0, (8 + typical) / 20, 0]
    assert evidence.error[0].tolist() == [0, 0.25, 0]
    assert evidence.log_loss == 0.5
    assert evidence.sensitivity.tolist() == [6 / 4, 0, 0, 0]


def test_classes_that_were_not_seen_lose_what_their_block_or_slot_does() -> None:
    rows = {0: 1, 1: 1, LEVELS: 1, 3 * LEVELS: 1}
    evidence = sums_with([0, 1], [1.0, 5.0]).evidence(*rows_and_widths(rows, [4, 4, 4, 4]))

    assert evidence.rise[2, 1] == 0  # no rows
    assert evidence.rise[LEVELS, 1] == pytest.approx(3 / 20)  # the other band of the slot
    assert evidence.rise[3 * LEVELS, 1] == pytest.approx(3 / 20)  # another slot


def test_bytes_are_those_of_the_codecs() -> None:
    evidence = sums_with([0], [1.0]).evidence(*rows_and_widths({0: 200, 1: 0, LEVELS: 3}, [9, 32, 4, 4]))

    assert evidence.bytes[0].tolist() == [200 * 18, 200 * 7 + 2048, 200 * 5 + 2 * 4 + 8]
    assert evidence.bytes[1].tolist() == [0, 0, 0]
    assert evidence.bytes[LEVELS, 1] == 3 * codec_named("int4_greedy_coded").bytes_per_row(32) + 2048
    assert evidence.fp32_bytes == 4 * (200 * 9 + 3 * 32)


def test_nothing_is_made_of_nothing() -> None:
    with pytest.raises(SearchError, match="0 samples"):
        PrecisionSums(1, 1, CODECS).evidence(*rows_and_widths({}, [4]))
    with pytest.raises(SearchError, match="expected 48"):
        sums_with([0], [1.0]).evidence(*rows_and_widths({}, [4]))
