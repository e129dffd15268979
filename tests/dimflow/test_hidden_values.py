"""Values by hash: the same for ever, uniform, and unrelated between ids, positions and salts."""

import numpy as np
import pytest

from dimflow.hidden_values import hashed, unit_variance


def test_a_value_depends_on_its_key_alone() -> None:
    ids = np.array([5, 7, 5, 1 << 40, -3], np.int64)
    values = unit_variance(ids, 99, 4)
    assert values.shape == (5, 4)
    for place, id_ in enumerate(ids):
        assert np.array_equal(unit_variance(np.array([id_]), 99, 4)[0], values[place])
    assert np.array_equal(unit_variance(ids, 99, 2), values[:, :2])
    assert not np.isclose(unit_variance(ids, 98, 4), values).any()


def test_values_have_mean_zero_and_variance_one_and_do_not_go_together() -> None:
    n = 200_000
    values = unit_variance(np.arange(n), 7, 3)
    assert abs(values).max() <= np.sqrt(3)
    assert values.mean(axis=0) == pytest.approx(np.zeros(3), abs=5 / np.sqrt(n))
    assert np.cov(values.T) == pytest.approx(np.eye(3), abs=0.02)
    neighbours = np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(n)


def test_hashes_do_not_collide_on_small_keys() -> None:
    keys = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(hashed(keys, 1))) == len(keys)
    assert len(np.intersect1d(hashed(keys, 1), hashed(keys, -5))) == 0
