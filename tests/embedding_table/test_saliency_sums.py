"""The sums against autograd through an explicit mask, against the plain table, and across a change of columns."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from embedding_table import bag_update
from embedding_table.errors import BadRows
from embedding_table.saliency_sums import SaliencySums
from embedding_table.table import EmbeddingTable

_COLUMNS = [np.array(columns, np.uint16) for columns in ([0, 1, 2, 3, 4, 5, 6, 7], [1, 4, 6], [], [0, 7])]
_POOLING = np.array([1, 0], np.int8)


def _bags(rng: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of two slots, even and odd, up to three a bag, some of them unknown."""
    sizes = rng.integers(0, 4, samples * 2)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    slot_of = np.repeat(np.arange(samples * 2) % 2, sizes)
    return (rng.integers(1, 12, slot_of.size) * 2 + slot_of).astype(np.uint64), offsets


def _table(twins: Callable, threads: int = 1) -> tuple[EmbeddingTable, object]:
    """Slot 0 with 8 columns in band 0 and three in band 1; slot 1 with none and two."""
    table, plain = twins(2, 8, bands=2, columns=_COLUMNS, threads=threads)
    ids = np.arange(2, 20, dtype=np.uint64)
    table.insert(ids, (ids % np.uint64(2)).astype(np.int32), 0)
    for feature_id in ids.tolist():
        plain.insert(feature_id, feature_id % 2, 0)
    table.move_rows(table.find(ids[6:]), np.ones(ids.size - 6, np.int32))
    plain.follow(table.all_rows())
    return table, plain


def test_one_update_equals_autograd_through_a_mask_of_ones(twins: Callable) -> None:
    table, plain = _table(twins)
    rng = np.random.default_rng(3)
    lookups, offsets = _bags(rng, 30)
    weight = torch.from_numpy(rng.standard_normal((2, 8)))
    alpha = torch.ones(2, 2, 8, dtype=torch.float64, requires_grad=True)
    pooled = []
    for bag in range(60):
        members = [i for i in lookups[offsets[bag] : offsets[bag + 1]].tolist() if i in plain.rows]
        masked = [torch.from_numpy(plain.wide(i)) * alpha[plain.rows[i].slot, plain.rows[i].band] for i in members]
        total = torch.stack(masked).sum(dim=0) if masked else torch.zeros(8, dtype=torch.float64)
        size = int(offsets[bag + 1] - offsets[bag])
        pooled.append(total / size if _POOLING[bag % 2] == 1 and size else total)
    looked_up = torch.stack(pooled).view(30, 2, 8)
    looked_up.retain_grad()
    loss = torch.nn.functional.softplus((looked_up * weight).sum(dim=(1, 2))).sum()
    loss.backward()
    grad = looked_up.grad.numpy().astype(np.float32)
    table.update(table.find(lookups), offsets, _POOLING, grad, 0.1, 1e-6, 1)
    sums = table.saliency()
    expected = alpha.grad.abs().numpy()
    assert expected[0].min(axis=1).tolist() == [expected[0, 0].min(), 0.0]
    assert expected[0, 0].min() > 0
    np.testing.assert_allclose(sums.first, expected, rtol=1e-4, atol=1e-6)
    assert sums.updates == 1


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("large", [False, True])
def test_many_updates_decay(twins: Callable, monkeypatch: pytest.MonkeyPatch, threads: int, large: bool) -> None:
    if large:
        monkeypatch.setattr(bag_update, "_PARALLEL_FLOATS", 1)
    table, plain = _table(twins, threads)
    rng = np.random.default_rng(threads)
    expected = np.zeros((2, 2, 2, 8))
    for now_s in range(5):
        lookups, offsets = _bags(rng, 20)
        grad = rng.standard_normal((20, 2, 8)).astype(np.float32)
        table.update(table.find(lookups), offsets, _POOLING, grad, 0.05, 1e-6, now_s)
        plain.update(lookups, offsets, _POOLING, grad, 0.05, 1e-6, now_s)
        expected *= 0.9995
        for home, product in plain.products.items():
            expected[(0, *home)] += np.abs(product)
        for home, square in plain.squares.items():
            expected[(1, *home)] += square
    sums = table.saliency()
    np.testing.assert_allclose(sums.first, expected[0], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(sums.squared, expected[1], rtol=2e-3, atol=1e-5)
    assert sums.updates == pytest.approx((0.9995 ** np.arange(5)).sum())


def test_rows_not_yet_resized_count_for_their_slot_and_band(twins: Callable) -> None:
    """The same rows and gradient in one table that is half resized and in one that is not: the kept columns agree."""
    results = []
    for resized in (False, True):
        table, _ = twins(1, 8)
        ids = np.arange(2, 42, dtype=np.uint64)
        table.insert(ids, np.zeros(40, np.int32), 0)
        if resized:
            table.begin_resize([np.array([0, 2, 5, 7], np.uint16)])
            table.resize_some(15)
        grad = np.random.default_rng(0).standard_normal((40, 1, 8)).astype(np.float32)
        table.update(table.find(ids), np.arange(41), np.zeros(1, np.int8), grad, 0.0, 1e-6, 1)
        results.append(table.saliency().first[0, 0])
    np.testing.assert_allclose(results[1][[0, 2, 5, 7]], results[0][[0, 2, 5, 7]], rtol=1e-5)
    assert results[1][[1, 3, 4, 6]].tolist() == [0, 0, 0, 0]


def test_kept_columns_go_on_and_new_ones_start_at_their_mean(twins: Callable) -> None:
    table, _ = twins(2, 4, columns=[np.array([0, 1], np.uint16), np.array([3], np.uint16)])
    first = np.array([[[2.0, 4.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 5.0]]])
    table.restore_saliency(SaliencySums(first, first * 10, 7.0))
    table.begin_resize([np.array([1, 2, 3], np.uint16), np.array([0], np.uint16)])
    sums = table.saliency()
    assert sums.first[:, 0].tolist() == [[0, 4, 4, 4], [0, 0, 0, 0]]
    assert sums.squared[:, 0].tolist() == [[0, 40, 40, 40], [0, 0, 0, 0]]
    assert sums.updates == 7
    table.begin_resize([np.array([0, 1], np.uint16), np.array([0], np.uint16)])
    assert table.saliency().first[0, 0].tolist() == [4, 4, 0, 0]
    with pytest.raises(BadRows, match="saliency has shape"):
        table.restore_saliency(SaliencySums(first[:1], first[:1], 1.0))


def test_none_is_gathered_where_none_is_asked_for() -> None:
    table = EmbeddingTable(1, 4, 1 << 20, 1, 0.1, 0.1, np.array([1], np.uint64), saliency_keep=None)
    grad = np.ones((1, 1, 4), np.float32)
    table.update(table.missing_handles, np.arange(2), np.zeros(1, np.int8), grad, 0.1, 1e-6, 1)
    sums = table.saliency()
    assert sums.first.tolist() == sums.squared.tolist() == [[[0, 0, 0, 0]]]
    assert sums.updates == 0
    table.restore_saliency(sums)
    table.begin_resize([np.arange(2, dtype=np.uint16)])
