"""Made-up evidence: random for laws, shaped by hand for behaviour."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dimension_search.budget import DimensionBudget
from dimension_search.column_pruning import ColumnPruning
from dimension_search.evidence import BlockEvidence
from dimension_search.fixed_widths import FixedSteps, PowerLaw, UniformWidth
from dimension_search.plan import DimensionPlan
from dimension_search.planner import Planner, make_plan
from dimension_search.principal import PrincipalPlanner

BY_RULE: list[Planner] = [UniformWidth(), PowerLaw(), FixedSteps()]
PLANNERS: list[Planner] = [
    PrincipalPlanner(columns_per_lookup=1e9),
    PrincipalPlanner(),
    ColumnPruning("sseds"),
    ColumnPruning("squared"),
    ColumnPruning("magnitude"),
    *BY_RULE,
]


def names_of(evidence: BlockEvidence) -> list[str]:
    return [f"slot{slot}" for slot in range(evidence.slots)]


def planned(planner: Planner, evidence: BlockEvidence, budget: DimensionBudget) -> DimensionPlan:
    return make_plan(
        planner,
        evidence,
        budget,
        names_of(evidence),
        trigger="samples",
        created_ms=1_700_000_000_000,
        samples_trained=7,
    )


def random_evidence(seed: int, slots: int, bands: int, dim: int, *, whole: bool = False) -> BlockEvidence:
    """Blocks of any size and nested columns; few distinct numbers, so that ties matter; some without rows."""
    rng = np.random.default_rng(seed)
    widths = np.sort(rng.integers(0, dim + 1, (slots, bands)), axis=1)
    widths = np.full_like(widths, dim) if whole else widths
    places = np.argsort(rng.random((slots, dim)), axis=1)
    active = places[:, None, :] < widths[:, :, None]
    shape = active.shape

    def numbers() -> NDArray[np.float64]:
        return np.where(active, np.round(rng.exponential(2, shape)) * 10.0 ** rng.integers(-6, 3, shape[:2] + (1,)), 0)

    live = rng.random(shape[:2]) < 0.8
    spectrum = -np.sort(-numbers(), axis=2) * live[:, :, None]
    return BlockEvidence(
        active=active,
        rows=np.where(live, 10 ** rng.integers(0, 5, shape[:2]), 0),
        counts=np.where(live, np.round(rng.exponential(1000, shape[:2])), 0.0),
        lookups=np.where(live, np.round(rng.exponential(100, shape[:2])), 0.0),
        first=numbers(),
        squared=numbers(),
        magnitude=numbers(),
        spectrum=np.where(np.arange(dim) < widths[:, :, None], spectrum, 0.0),
        signal=np.round(rng.random(shape[:2]), 1),
    )


evidences = st.builds(
    random_evidence,
    seed=st.integers(0, 2**32 - 1),
    slots=st.integers(1, 4),
    bands=st.integers(1, 3),
    dim=st.integers(1, 9),
)


@st.composite
def searches(draw: st.DrawFn) -> tuple[BlockEvidence, DimensionBudget]:
    """Evidence and a budget, from nothing to more than everything."""
    evidence = draw(evidences)
    steps = draw(st.sets(st.integers(1, evidence.dim)).map(sorted))
    full = int(evidence.rows.sum()) * (evidence.dim * 4 + 4)
    return evidence, DimensionBudget(
        max_bytes=int(full * draw(st.sampled_from([0, 0.01, 0.0625, 0.125, 0.3, 0.5, 0.9, 1, 2]))),
        dim=evidence.dim,
        floor=draw(st.integers(0, steps[-1] if steps else evidence.dim)),
        steps=tuple(steps),
        drop_cold=draw(st.booleans()),
    )


def falling(dim: int, fall: float, first: float = 1.0) -> NDArray[np.float64]:
    """A spectrum (D,) that falls by a factor from level to level."""
    return first * fall ** np.arange(dim)


def shaped_evidence(
    spectra: NDArray[np.float64],
    rows: Sequence[Sequence[int]],
    *,
    widths: NDArray[np.int64] | None = None,
    counts_per_row: float = 1000.0,
) -> BlockEvidence:
    """Evidence of slots with the true spectra (F, K, D) and rows (F, K) when `widths` (F, K) of them are held."""
    dim = spectra.shape[2]
    held = np.full(spectra.shape[:2], dim) if widths is None else widths
    active = np.arange(dim) < held[:, :, None]
    seen = np.where(active, spectra, 0.0)
    size = np.array(rows, np.int64)
    return BlockEvidence(
        active=active,
        rows=size,
        counts=size * counts_per_row,
        lookups=np.maximum(seen.sum(axis=2), 1.0),
        first=seen.copy(),
        squared=seen.copy(),
        magnitude=seen.copy(),
        spectrum=seen,
        signal=np.ones(size.shape),
    )


def widths_of(plan: DimensionPlan, evidence: BlockEvidence) -> NDArray[np.int64]:
    return np.array(plan.widths, np.int64).reshape(evidence.slots, evidence.bands)


def noisy(evidence: BlockEvidence, rng: np.random.Generator, share: float) -> BlockEvidence:
    """The same spectra, every level off by up to `share`."""
    factor = rng.uniform(1 - share, 1 + share, evidence.spectrum.shape)
    return replace(evidence, spectrum=-np.sort(-evidence.spectrum * factor, axis=2))
