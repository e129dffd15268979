"""What dimflow's planner does with evidence whose shape is known; the laws of every planner are in test_planner."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dimension_search.budget import DimensionBudget
from dimension_search.principal import PrincipalPlanner
from tests.dimension_search.evidences import falling, noisy, shaped_evidence

DIM = 32
MANY, FEW = 100_000, 10_000


def budget(rows: list[list[int]], share: float, **more: object) -> DimensionBudget:
    return DimensionBudget(int(np.sum(rows) * (DIM * 4 + 4) * share), DIM, **more)  # type: ignore[arg-type]


def one_band(*spectra: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(spectra)[:, None, :]


def widths(
    spectra: NDArray[np.float64], rows: list[list[int]], share: float, planner: PrincipalPlanner | None = None
) -> NDArray[np.int64]:
    chosen = (planner or PrincipalPlanner()).choose(shaped_evidence(spectra, rows), budget(rows, share))
    return np.asarray(chosen.sum(axis=2), np.int64)


def test_many_rows_with_a_fast_fall_get_narrow_and_a_cheap_slot_stays_wide() -> None:
    rows = [[MANY], [FEW], [24]]
    found = widths(one_band(falling(DIM, 0.5), falling(DIM, 0.9), falling(DIM, 0.9, 1e-6)), rows, 0.2)

    assert found[0, 0] <= 6
    assert found[1, 0] >= 24
    assert found[2, 0] == DIM


def test_cold_bands_are_narrower_than_hot_ones() -> None:
    spectra = np.stack([falling(DIM, 0.8, first) for first in (0.05, 0.2, 1.0)])[None]
    cold, warm, hot = widths(spectra, [[80_000, 15_000, 5_000]], 0.25)[0]

    assert 0 < cold < warm < hot


def test_a_colder_band_that_does_more_widens_the_hotter_one_with_it() -> None:
    spectra = np.stack([falling(DIM, 0.8, 1.0), falling(DIM, 0.8, 0.001)])[None]
    cold, hot = widths(spectra, [[FEW, FEW]], 0.5)[0]

    assert cold == hot > 8


@pytest.mark.parametrize("start", [0, 1])
def test_width_follows_importance_from_one_slot_to_the_other_and_back(start: int) -> None:
    rows = [[FEW], [FEW]]
    loud, faint = falling(DIM, 0.85), falling(DIM, 0.85, 1e-3)
    planner, held = PrincipalPlanner(), np.full((2, 1), DIM)
    for important in (start, 1 - start, start):
        spectra = one_band(*(loud if slot == important else faint for slot in range(2)))
        for _ in range(2):
            evidence = shaped_evidence(spectra, rows, widths=held)
            held = planner.choose(evidence, budget(rows, 0.25)).sum(axis=2)
        assert held[important, 0] >= 12
        assert held[1 - important, 0] <= 4


def test_a_slot_of_one_column_can_grow_again() -> None:
    rows = [[FEW], [FEW]]
    spectra = one_band(falling(DIM, 0.8, 10), falling(DIM, 0.8, 0.01))
    evidence = shaped_evidence(spectra, rows, widths=np.array([[1], [15]]))

    assert PrincipalPlanner().choose(evidence, budget(rows, 0.25)).sum(axis=2)[0, 0] > 4


def returns(hysteresis: float, seed: int) -> int:
    """How often a width goes back to what it was, over forty searches of an unchanging stream with 5 % noise."""
    rng = np.random.default_rng(seed)
    rows = [[70_000, 10_000], [FEW, 1_000], [4_000, 4_000]]
    falls = [(0.75, 0.85), (0.85, 0.9), (0.8, 0.8)]
    spectra = np.array([[falling(DIM, fall, band + 0.5) for band, fall in enumerate(slot)] for slot in falls])
    planner, held, turned = PrincipalPlanner(hysteresis), np.full((3, 2), DIM), 0
    last = np.zeros((3, 2), np.int64)  # which way each width went last
    for _ in range(40):
        evidence = noisy(shaped_evidence(spectra, rows, widths=held), rng, 0.05)
        new = planner.choose(evidence, budget(rows, 0.25)).sum(axis=2)
        way = np.sign(new - held)
        if held.min() < DIM:  # the first search has nothing to hold on to
            turned += int((way * last < 0).sum())
            last = np.where(way, way, last)
        held = new
    return turned


@pytest.mark.parametrize("seed", range(5))
def test_widths_do_not_flutter_under_noise_thanks_to_hysteresis(seed: int) -> None:
    assert returns(hysteresis=1.2, seed=seed) == 0
    assert returns(hysteresis=1.0, seed=seed) > 5


def test_rows_seen_seldom_get_no_more_columns_than_they_can_learn() -> None:
    evidence = shaped_evidence(one_band(falling(DIM, 0.9), falling(DIM, 0.9)), [[FEW], [FEW]], counts_per_row=4)

    def widest(columns_per_lookup: float, learnable_at_once: int) -> int:
        planner = PrincipalPlanner(columns_per_lookup=columns_per_lookup, learnable_at_once=learnable_at_once)
        return int(planner.choose(evidence, budget([[FEW], [FEW]], 1)).sum(axis=2).max())

    assert widest(1.5, 1) == 6
    assert widest(3, 8) == 12
    assert widest(1.5, 8) == 8  # a young table's rows have their lookups before them


def test_cold_rows_that_a_window_did_not_see_are_worth_a_share_of_hotter_ones() -> None:
    spectra = np.stack([np.zeros(DIM), falling(DIM, 0.8)])[None]
    rows = [[FEW, FEW]]

    assert widths(spectra, rows, 0.5, PrincipalPlanner(cold_share=0.5))[0, 0] > 4
    assert widths(spectra, rows, 0.5, PrincipalPlanner(cold_share=0))[0, 0] == 0


def test_slots_that_cost_next_to_nothing_never_break_the_budget() -> None:
    slots = 150  # each costs 0.9 % of the budget, all of them more than all of it
    spectra = np.broadcast_to(falling(DIM, 0.9), (slots, 1, DIM))
    rows = [[100]] * slots
    small = DimensionBudget(int(100 * (DIM * 4 + 4) / 0.009), DIM)
    chosen = PrincipalPlanner().choose(shaped_evidence(spectra, rows), small).sum(axis=2)

    assert small.bytes_of(np.array(rows), chosen).sum() <= small.max_bytes
    assert chosen.min() >= 16  # and are still bought by worth


def test_what_was_not_seen_goes_on_falling_as_the_seen_did() -> None:
    spectra = one_band(falling(DIM, 0.8), falling(DIM, 0.97), np.zeros(DIM), falling(DIM, 0.8, 3.0), falling(DIM, 0.8))
    evidence = shaped_evidence(spectra, [[FEW]] * 5, widths=np.array([[8], [8], [8], [1], [0]]))
    worth = PrincipalPlanner().worth(evidence)[:, 0]

    assert worth[0] == pytest.approx(falling(DIM, 0.8))
    assert worth[1, 8:12] == pytest.approx(0.97**7 * 0.9 ** np.arange(1, 5))  # never slower than nine tenths
    assert worth[2] == pytest.approx(0, abs=1e-11)
    assert worth[3, :4] == pytest.approx([3, 1.5, 0.75, 0.375])  # one level says nothing of its fall
    assert worth[4] == pytest.approx(0, abs=1e-11)


def test_what_was_known_of_a_block_without_columns_is_kept() -> None:
    evidence = shaped_evidence(one_band(falling(DIM, 0.8)), [[FEW]], widths=np.array([[0]]))
    evidence = replace(evidence, spectrum=one_band(falling(DIM, 0.8)))

    assert PrincipalPlanner().worth(evidence)[0, 0] == pytest.approx(falling(DIM, 0.8))
    assert PrincipalPlanner().choose(evidence, budget([[FEW]], 0.5)).sum() == 15


def test_the_same_worth_in_more_rows_buys_fewer_columns() -> None:
    found = widths(one_band(falling(DIM, 0.85), falling(DIM, 0.85)), [[MANY], [FEW]], 0.2)

    assert found[0, 0] < found[1, 0]


def test_what_fits_chance_counts_for_nothing_and_what_half_does_for_a_quarter() -> None:
    evidence = shaped_evidence(np.stack([[falling(6, 0.7)], [falling(6, 0.7)], [falling(6, 0.7)]]), [[10], [10], [10]])
    evidence = replace(evidence, signal=np.array([[1.0], [0.5], [0.0]]))
    worth = PrincipalPlanner().worth(evidence)[:, 0]

    assert worth[1] == pytest.approx(worth[0] / 4)
    assert (worth[2] < 1e-9 * worth[0]).all()


def test_columns_too_young_to_have_learned_are_worth_what_the_proven_ones_promise() -> None:
    spectra = np.array([[[8.0, 4.0, 2.0, 1e-6, 0.0, 0.0]]])
    young = replace(shaped_evidence(spectra, [[10]], widths=np.array([[4]])), proven=np.array([[3]]))
    old = replace(young, proven=np.array([[4]]))

    assert PrincipalPlanner().worth(young)[0, 0, 3] == pytest.approx(1.0, rel=0.5)
    assert PrincipalPlanner().worth(old)[0, 0, 3] == pytest.approx(1e-6, rel=1e-3)
