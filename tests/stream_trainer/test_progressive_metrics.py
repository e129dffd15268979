"""Against exact formulas over all samples: AUC by ranks, losses by float64, windows by slicing."""

import numpy as np
import pytest
from scipy.stats import rankdata

from stream_trainer.errors import StateError
from stream_trainer.progressive_metrics import ProgressiveMetrics


def stream(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, rows).astype(np.float32)
    labels = (generator.random(rows) < 1 / (1 + np.exp(-0.7 * logits))).astype(np.float32)
    return logits, labels, generator.uniform(0.5, 2, rows).astype(np.float32)


def exact(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    x, y, w = (array.astype(np.float64) for array in (logits, labels, weights))
    p = 1 / (1 + np.exp(-x))
    loss = np.average(-(y * np.log(p) + (1 - y) * np.log(1 - p)), weights=w)
    share = np.average(y, weights=w)
    return {
        "log_loss": loss,
        "normalised_entropy": loss / -(share * np.log(share) + (1 - share) * np.log(1 - share)),
        "calibration": (w * p).sum() / (w * y).sum(),
    }


def rank_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    positive = labels > 0.5
    n = int(positive.sum())
    return float((rankdata(logits)[positive].sum() - n * (n + 1) / 2) / (n * (len(labels) - n)))


def fed(metrics: ProgressiveMetrics, samples: tuple[np.ndarray, ...], cut: int) -> ProgressiveMetrics:
    for lo in range(0, len(samples[0]), cut):
        metrics.update(*(array[lo : lo + cut] for array in samples))
    return metrics


def test_equals_the_exact_formulas_over_the_run() -> None:
    samples = stream(30_000, seed=1)
    found = fed(ProgressiveMetrics(window=5_000), samples, 700).summary()
    for name, value in exact(*samples).items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    assert found["samples"] == 30_000


def test_auc_is_the_rank_statistic_to_four_digits() -> None:
    logits, labels, weights = stream(50_000, seed=2)
    weights[:] = 1
    found = fed(ProgressiveMetrics(window=10_000), (logits, labels, weights), 4096).summary()
    assert found["auc"] == pytest.approx(rank_auc(logits, labels), abs=2e-5)
    held = int(found["window_samples"])
    assert found["window_auc"] == pytest.approx(rank_auc(logits[-held:], labels[-held:]), abs=1e-4)
    assert found["auc"] != found["window_auc"]


def test_a_weight_counts_like_as_many_samples() -> None:
    logits, labels, _ = stream(3_000, seed=3)
    weights = np.random.default_rng(3).integers(1, 4, 3_000)
    weighted = fed(ProgressiveMetrics(), (logits, labels, weights.astype(np.float32)), 500).summary()
    repeated = (np.repeat(logits, weights), np.repeat(labels, weights), np.ones(weights.sum(), np.float32))
    plain = fed(ProgressiveMetrics(), repeated, 500).summary()
    for name in ("auc", "log_loss", "normalised_entropy", "calibration"):
        assert weighted[name] == pytest.approx(plain[name], rel=1e-9)


def test_the_window_holds_the_newest_samples() -> None:
    samples = stream(12_345, seed=4)
    found = fed(ProgressiveMetrics(window=2_000), samples, 333).summary()
    held = int(found["window_samples"])
    assert 1_800 <= held <= 2_000
    for name, value in exact(*(array[-held:] for array in samples)).items():
        assert found[f"window_{name}"] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("cut", [1, 64, 5_000])
def test_cuts_do_not_matter(cut: int) -> None:
    samples = stream(5_000, seed=5)
    found = fed(ProgressiveMetrics(window=1_000), samples, cut).summary()
    expected = fed(ProgressiveMetrics(window=1_000), samples, 977).summary()
    assert found == pytest.approx(expected, rel=1e-12)


def test_numbers_that_do_not_exist_are_left_out_and_all_others_are_finite() -> None:
    metrics = ProgressiveMetrics()
    assert metrics.summary() == {"samples": 0, "not_finite": 0, "window_samples": 0, "window_not_finite": 0}
    one = np.ones(1, np.float32)
    metrics.update(one, 0 * one, one)
    assert "auc" not in metrics.summary()
    assert "calibration" not in metrics.summary()
    metrics.update(np.array([1e30, -1e30], np.float32), np.array([0, 1], np.float32), np.ones(2, np.float32))
    assert all(np.isfinite(value) for value in metrics.summary().values())
    assert metrics.summary()["auc"] == 0.0


def test_logits_that_are_not_finite_are_counted_apart() -> None:
    logits, labels, weights = stream(1_000, seed=6)
    clean = fed(ProgressiveMetrics(), (logits, labels, weights), 100).summary()
    spoiled = fed(ProgressiveMetrics(), (logits, labels, weights), 100)
    bad = np.array([np.nan, np.inf, -np.inf], np.float32)
    spoiled.update(bad, np.ones(3, np.float32), np.ones(3, np.float32))
    found = spoiled.summary()
    assert found["not_finite"] == 3
    assert found["samples"] == 1_003
    assert found["log_loss"] == clean["log_loss"]
    assert found["auc"] == clean["auc"]


def test_a_restored_state_continues_equal() -> None:
    first, second = stream(3_000, seed=7), stream(3_000, seed=8)
    metrics = fed(ProgressiveMetrics(window=1_000), first, 100)
    restored = ProgressiveMetrics(window=1_000)
    restored.restore(metrics.state())
    assert fed(restored, second, 100).summary() == fed(metrics, second, 100).summary()


def test_a_foreign_state_is_refused() -> None:
    state = ProgressiveMetrics().state()
    with pytest.raises(StateError, match="current is nothing"):
        ProgressiveMetrics().restore({k: v for k, v in state.items() if k != "current"})
    with pytest.raises(StateError, match="bins"):
        ProgressiveMetrics().restore({**state, "bins": state["bins"][:, :, 1:]})
