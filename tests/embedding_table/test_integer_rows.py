"""Packed bytes against PyTorch's, and what trying a narrower range may do."""

import numpy as np
import pytest
import torch

from embedding_table.integer_rows import code_bytes, pack, range_bytes, unpack
from embedding_table.packed_words import BLOCK, CODED, HALF
from embedding_table.range_search import greedy_ranges
from embedding_table.row_ranges import row_ends

NOTHING = np.zeros(0, np.float32)


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("width", [2, 8, 16, 30])
def test_int4_bytes_are_those_of_pytorch(width: int, optimized: bool) -> None:
    rows = np.random.default_rng(width).standard_normal((300, width)).astype(np.float32)
    rows = rows[np.ptp(rows, axis=1) > np.abs(rows).max(axis=1) / 50]  # so narrow that a step has a limit here
    expected = torch.ops.quantized.embedding_bag_4bit_prepack(torch.from_numpy(rows), optimized).numpy()
    ends, _ = row_ends(rows, 1)

    data, fits = pack(rows, ends, greedy_ranges(rows, 4, 1) if optimized else None, 4, HALF, NOTHING, 2)

    assert fits.all()
    np.testing.assert_array_equal(data, expected)


def test_pytorch_pools_what_was_packed() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    ends, _ = row_ends(rows, 1)
    data, _ = pack(rows, ends, None, 4, HALF, NOTHING, 1)
    ids, offsets = torch.arange(50), torch.arange(0, 50, 5)

    pooled = torch.ops.quantized.embedding_bag_4bit_rowwise_offsets(torch.from_numpy(data), ids, offsets)

    expected = unpack(data, 16, 4, HALF, NOTHING, 1).reshape(10, 5, 16).sum(axis=1)
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [HALF, CODED])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_narrower_range_is_used_only_where_it_loses_less(bits: int, form: int) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((200, 9)).astype(np.float32)
    shared = NOTHING
    if form == CODED:
        shared = np.concatenate([np.geomspace(0.001, 1, 256), np.linspace(-4, 1, 256)]).astype(np.float32)
    ends, _ = row_ends(rows, 1)
    good, worst = greedy_ranges(rows, bits, 1), (ends[0] * np.float32(0.1), ends[1] * np.float32(0.1))
    whole, _ = pack(rows, ends, None, bits, form, shared, 1)

    def loss(data: np.ndarray) -> np.ndarray:
        return ((unpack(data, 9, bits, form, shared, 1) - rows) ** 2).sum(axis=1)

    narrowed, _ = pack(rows, ends, good, bits, form, shared, 1)
    assert (loss(narrowed) <= loss(whole)).all()
    assert bits == 8 or (loss(narrowed) < loss(whole)).any()
    np.testing.assert_array_equal(pack(rows, ends, worst, bits, form, shared, 1)[0], whole)


def test_the_ends_of_a_row_hold_its_codebook_entries() -> None:
    """Entries far from the row: code 0 to its least value, and a greatest code that needs its scale."""
    shared = np.concatenate([np.repeat([0.1, 1], 128), np.repeat([-3, 3], 128)]).astype(np.float32)
    rows = np.array([[-1, 0.4, 1.6]], np.float32)
    ends, _ = row_ends(rows, 1)
    data, fits = pack(rows, ends, None, 4, CODED, shared, 1)
    assert fits.all()
    assert data.tolist() == [[0 | 3 << 4, 5, 128, 0]]


def test_bytes_and_threads() -> None:
    assert [code_bytes(4, 5), code_bytes(8, 5), code_bytes(4, 0)] == [3, 5, 0]
    assert [range_bytes(form) for form in (HALF, CODED, BLOCK)] == [4, 2, 0]
    rows = np.random.default_rng(0).standard_normal((101, 7)).astype(np.float32)
    ends, _ = row_ends(rows, 1)
    shared = np.array([0.5, -4], np.float32)
    one, three = (pack(rows, ends, None, 8, BLOCK, shared, threads)[0] for threads in (1, 3))
    np.testing.assert_array_equal(one, three)
    np.testing.assert_array_equal(unpack(one, 7, 8, BLOCK, shared, 1), unpack(one, 7, 8, BLOCK, shared, 3))
