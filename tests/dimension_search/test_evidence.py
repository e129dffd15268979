"""Evidence against autograd, and its spectrum against singular values found another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimension_search.errors import SearchError
from dimension_search.evidence import BlockEvidence, WindowSums, blend
from tests.dimension_search.evidences import random_evidence

SLOTS, BANDS, DIM, SAMPLES = 3, 2, 5, 40


class Window:
    """A small model with a mask alpha (F, K, D) of ones on the looked-up rows, differentiated by torch."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.blocks = rng.integers(0, SLOTS * BANDS, (SAMPLES, SLOTS))
        self.blocks = (self.blocks % BANDS + np.arange(SLOTS) * BANDS).astype(np.int32)
        rows = torch.tensor(rng.normal(size=(SAMPLES, SLOTS, DIM)).astype(np.float32), requires_grad=True)
        weights = torch.tensor(rng.normal(size=(SLOTS, DIM)).astype(np.float32))
        labels = torch.tensor(rng.integers(0, 2, SAMPLES).astype(np.float32))
        alpha = torch.ones(SLOTS * BANDS, DIM, requires_grad=True)
        masked = rows * alpha[torch.tensor(self.blocks.astype(np.int64))]
        logits = (masked * weights).sum((1, 2)) + (masked[:, 0] * masked[:, 1]).sum(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        loss.backward()
        self.values = rows.detach().numpy().reshape(-1, DIM)
        self.slopes = rows.grad.numpy().reshape(-1, DIM)
        self.by_mask = np.abs(alpha.grad.numpy()).reshape(SLOTS, BANDS, DIM)

    def evidence(self, active: np.ndarray | None = None, parts: int = 1) -> BlockEvidence:
        sums = WindowSums(SLOTS, BANDS, DIM)
        for part in np.array_split(np.arange(SAMPLES), parts):
            at = (part[:, None] * SLOTS + np.arange(SLOTS)).ravel()
            sums.add(part.size, self.blocks[part].ravel(), self.values[at], self.slopes[at])
        assert sums.samples == SAMPLES
        ones = np.ones((SLOTS, BANDS, DIM), bool) if active is None else active
        return sums.evidence(ones, np.full((SLOTS, BANDS), 9), np.full((SLOTS, BANDS), 99.0))

    def of_block(self, slot: int, band: int) -> tuple[np.ndarray, np.ndarray]:
        here = self.blocks.ravel() == slot * BANDS + band
        return self.values[here].astype(np.float64), self.slopes[here].astype(np.float64)


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_saliency_is_the_gradient_by_a_mask_of_ones(seed: int, parts: int) -> None:
    window = Window(seed)

    assert window.evidence(parts=parts).first == pytest.approx(window.by_mask, rel=1e-4, abs=1e-5)


def test_every_sum_is_over_the_lookups_of_its_own_block() -> None:
    window = Window(7)
    evidence = window.evidence(parts=3)
    for slot in range(SLOTS):
        for band in range(BANDS):
            e, g = window.of_block(slot, band)
            assert evidence.lookups[slot, band] == len(e)
            assert evidence.squared[slot, band] == pytest.approx(((e * g) ** 2).sum(axis=0), rel=1e-5)
            assert evidence.magnitude[slot, band] == pytest.approx((e**2).sum(axis=0), rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_spectrum_is_that_of_the_product_of_both_roots(seed: int) -> None:
    window = Window(seed)
    evidence = window.evidence()
    for slot in range(SLOTS):
        for band in range(BANDS):
            e, g = window.of_block(slot, band)
            # e^T = C^1/2 U and g^T = H^1/2 V with orthonormal rows, so e g^T has the singular values of C^1/2 H^1/2
            expected = np.linalg.svd(e @ g.T / SAMPLES, compute_uv=False)[:DIM]
            assert len(e) >= DIM
            assert evidence.spectrum[slot, band] == pytest.approx(expected, rel=1e-5, abs=1e-6 * expected[0])


def test_the_spectrum_does_not_change_when_columns_are_turned() -> None:
    window = Window(3)
    straight = window.evidence().spectrum
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0].astype(np.float32)
    window.values, window.slopes = window.values @ turn, window.slopes @ turn

    assert window.evidence().spectrum == pytest.approx(straight, rel=1e-4, abs=1e-6)


def test_a_block_whose_rows_lie_on_one_line_has_one_level() -> None:
    rng = np.random.default_rng(1)
    values = (rng.normal(size=(50, 1)) * np.array([1.0, -2, 3])).astype(np.float32)
    sums = WindowSums(1, 1, 3)
    sums.add(50, np.zeros(50, np.int32), values, rng.normal(size=(50, 3)).astype(np.float32))
    spectrum = sums.evidence(np.ones((1, 1, 3), bool), np.ones((1, 1), int), np.ones((1, 1))).spectrum[0, 0]

    assert spectrum[0] > 0
    assert spectrum[1:] == pytest.approx(0, abs=1e-6 * spectrum[0])


def test_columns_that_a_block_does_not_have_score_nothing() -> None:
    active = np.random.default_rng(0).random((SLOTS, BANDS, DIM)) < 0.5
    evidence = Window(0).evidence(active)

    for score in (evidence.first, evidence.squared, evidence.magnitude):
        assert ((score > 0) == active).all()
    assert (evidence.widths == active.sum(axis=2)).all()
    assert (evidence.slots, evidence.bands, evidence.dim) == (SLOTS, BANDS, DIM)


def test_lookups_without_a_row_count_nowhere() -> None:
    sums = WindowSums(1, 2, 2)
    ones = np.ones((3, 2), np.float32)
    sums.add(3, np.array([-1, 1, -5], np.int32), ones, ones)
    evidence = sums.evidence(np.ones((1, 2, 2), bool), np.ones((1, 2), int), np.ones((1, 2)))

    assert evidence.lookups.tolist() == [[0, 1]]
    assert evidence.first.tolist() == [[[0, 0], [1, 1]]]


def test_nothing_added_is_nothing_known() -> None:
    evidence = WindowSums(1, 1, 2).evidence(np.ones((1, 1, 2), bool), np.ones((1, 1), int), np.ones((1, 1)))

    assert not evidence.spectrum.any()
    assert not evidence.lookups.any()


def test_shapes_that_disagree_are_refused() -> None:
    sums = WindowSums(1, 1, 3)
    for values, slopes in (((2, 3), (2, 2)), ((2, 2), (2, 2)), ((3, 3), (3, 3))):
        with pytest.raises(SearchError, match=r"expected \(2, 3\)"):
            sums.add(1, np.zeros(2, np.int32), np.zeros(values, np.float32), np.zeros(slopes, np.float32))


def test_rows_that_fit_chance_have_no_signal_and_rows_that_are_right_are_all_signal() -> None:
    rng = np.random.default_rng(5)
    lookups, dim = 20_000, 4
    contributions = rng.normal(0, 0.25, lookups)  # what a row adds to its sample's logit
    values = np.full((lookups, dim), 1 / dim, np.float32)
    for truth, expected in ((contributions, 1.0), (np.zeros(lookups), 0.0), (contributions / 2, 0.5)):
        labels = rng.random(lookups) < 1 / (1 + np.exp(-truth))
        error = 1 / (1 + np.exp(-contributions)) - labels
        slopes = (error * contributions)[:, None] * np.ones(dim)
        sums = WindowSums(1, 1, dim)
        sums.add(lookups, np.zeros(lookups, np.int32), values, slopes.astype(np.float32))
        evidence = sums.evidence(np.ones((1, 1, dim), bool), np.ones((1, 1), int), np.ones((1, 1)))

        assert evidence.signal[0, 0] == pytest.approx(expected, abs=0.15)


def test_a_few_unlucky_samples_are_not_called_noise() -> None:
    sums = WindowSums(1, 1, 2)
    sums.add(3, np.zeros(3, np.int32), np.ones((3, 2), np.float32), np.full((3, 2), 0.25, np.float32))
    evidence = sums.evidence(np.ones((1, 1, 2), bool), np.ones((1, 1), int), np.ones((1, 1)))

    assert evidence.signal[0, 0] > 0.5


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99))
@settings(max_examples=40, deadline=None)
def test_a_running_mean_lies_between_new_and_old(seed: int, keep: float) -> None:
    old, new = random_evidence(seed, 2, 2, 4, whole=True), random_evidence(seed + 1, 2, 2, 4, whole=True)
    mean = blend(new, old, keep)
    seen = new.lookups > 0
    kept = (
        (mean.spectrum - new.spectrum) / np.where(old.spectrum == new.spectrum, np.inf, old.spectrum - new.spectrum)
    )[seen]

    assert blend(new, None, keep) is new
    assert blend(replace(new, spectrum=3 * old.spectrum), old, keep).spectrum[seen] == pytest.approx(
        (3 - 2 * keep) * old.spectrum[seen]
    )
    assert (kept >= -1e-9).all()
    assert (kept <= keep + 1e-9).all()
    assert (mean.signal <= np.maximum(new.signal, old.signal) + 1e-12).all()
    assert (mean.signal >= np.minimum(new.signal, old.signal) - 1e-12).all()
    assert (mean.proven == np.minimum(new.widths, old.widths)).all()
    assert (mean.spectrum[~seen] == old.spectrum[~seen]).all()
    assert (mean.squared[~seen] == old.squared[~seen]).all()
    assert (mean.rows == np.where(new.rows > 0, new.rows, old.rows)).all()
    assert (mean.counts == np.where(new.rows > 0, new.counts, old.counts)).all()
    assert mean.active is new.active
    assert mean.lookups is new.lookups


@pytest.mark.parametrize("factor", [0.3, 9.0])
def test_a_slot_that_matters_otherwise_than_before_is_judged_by_the_new_window_alone(factor: float) -> None:
    spectrum = np.ones((3, 1, 2))
    old = replace(random_evidence(0, 3, 1, 2, whole=True), lookups=np.ones((3, 1)), spectrum=spectrum)
    changed = spectrum * np.array([factor, 1, 1])[:, None, None]
    mean = blend(replace(old, spectrum=changed), old, 0.5).spectrum

    assert (mean[0] == changed[0]).all()
    assert (mean[1:] == 1).all()
    small = spectrum * np.array([1.2, 1, 1])[:, None, None]
    assert (blend(replace(old, spectrum=small), old, 0.5).spectrum[0] < 1.2).all()
