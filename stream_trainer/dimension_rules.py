"""The rules of a trainer's search for dimensions, and what settings they come from.

Knows settings and planners by name; nothing of a table. Invariant: what the settings cannot mean stops the start with
the setting's name.
"""

from dataclasses import dataclass, field
from typing import Literal

from dimension_search.column_pruning import ColumnPruning
from dimension_search.errors import SearchError
from dimension_search.fixed_widths import FixedSteps, PowerLaw, UniformWidth
from dimension_search.heat import HeatBands
from dimension_search.planner import Planner
from dimension_search.principal import PrincipalPlanner
from model_contract.process_settings import SettingError
from stream_trainer.settings import PREFIX, TrainerSettings

__all__ = ["DimensionRules", "dimension_rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionRules:
    """When to search, by what, and within which limits.

    Attributes:
        planner: the method.
        saliency: what column scores are: "single_shot" from the window before it is learned, or "running", the decayed
            mean over updates that training gathers for nothing. Principal saliency is always single-shot.
        heat: popularity bands.
        half_life_samples: samples in whose time the heat of an unseen row halves, so that bands mean the same on a busy
            stream, a quiet one and a replay; 0 for the seconds of `heat`.
        max_bytes: of all rows' columns and optimizer state; 0 for no limit in bytes.
        max_share: of what all rows would take at the full width: the most there have been, so that giving up some of
            them leaves more for the others, not less.
        headroom: share of the budget that plans leave free for rows to come.
        floor: columns that a slot's hottest band keeps.
        steps: allowed widths, empty for any.
        drop_cold: whether colder bands may be given up; see `DimensionBudget`.
        first_search_samples: samples before the first search.
        search_every_samples: samples between two searches; 0 for never by itself. The first searches follow at twice
            the samples each, by smaller windows: a young table should not learn in columns it will not keep.
        search_every_s: seconds after a search at which there is another however few samples came; 0 for never so.
        budget_search_samples: samples between two searches that the budget asks for.
        window_samples: samples of the evidence.
        judge_samples: held-back samples that a plan is judged on.
        tolerance: relative rise of their log-loss up to which a plan is applied.
        memory: weight of what earlier searches found.
        one_shot: whether no search follows one that was applied, as published methods do.
        start_width: columns of all rows until the first search has judged them, fewer where a few thousand such rows
            would not keep to `max_bytes`; 0 for all. What is not there yet cannot fit chance.
        after_resize: what becomes of the first layer that reads the rows when a plan that changes columns is applied:
            "keep", or "cold_first_layer" to start it anew, as SSEDS is published.
    """

    planner: Planner = field(default_factory=PrincipalPlanner)
    saliency: Literal["single_shot", "running"] = "single_shot"
    heat: HeatBands = field(default_factory=HeatBands)
    half_life_samples: int = 0
    max_bytes: int = 0
    max_share: float = 1.0
    headroom: float = 0.05
    floor: int = 1
    steps: tuple[int, ...] = ()
    drop_cold: bool = True
    first_search_samples: int = 8192
    search_every_samples: int = 50_000
    search_every_s: float = 0.0
    budget_search_samples: int = 16_384
    window_samples: int = 8_192
    judge_samples: int = 4_096
    tolerance: float = 0.05
    memory: float = 0.5
    one_shot: bool = False
    start_width: int = 0
    after_resize: Literal["keep", "cold_first_layer"] = "keep"


def dimension_rules(settings: TrainerSettings, dim: int) -> DimensionRules | None:
    """The rules that the settings ask for, None where widths are fixed.

    Args:
        settings: of the trainer.
        dim: D of the model.

    Raises:
        SettingError: bands that are no ascending numbers, a floor above D.
    """
    if settings.dimensions == "fixed":
        return None
    if settings.dimension_floor > dim:
        raise SettingError(PREFIX + "DIMENSION_FLOOR", settings.dimension_floor, f"at most the model's dim, {dim}")
    try:
        thresholds = tuple(float(heat) for heat in settings.dimension_bands.split(",") if heat.strip())
        heat = HeatBands(thresholds)
    except (ValueError, SearchError) as error:
        expected = f"ascending numbers above 0, comma-separated ({error})"
        raise SettingError(PREFIX + "DIMENSION_BANDS", settings.dimension_bands, expected) from error
    every = settings.search_every_samples
    return DimensionRules(
        planner=_planner(settings.dimension_planner),
        saliency=settings.dimension_saliency,
        heat=heat,
        half_life_samples=settings.band_half_life_samples,
        max_bytes=settings.dimension_bytes,
        max_share=settings.dimension_share,
        floor=settings.dimension_floor,
        drop_cold=settings.drop_cold_rows,
        first_search_samples=min(8192, every),
        search_every_samples=every,
        search_every_s=settings.search_every_s,
        budget_search_samples=max(1, min(16_384, every)),
        window_samples=settings.search_window_samples,
        judge_samples=settings.search_judge_samples,
        memory=settings.search_memory,
        tolerance=settings.search_tolerance,
        start_width=settings.dimension_start_width if every else 0,
        after_resize=settings.after_resize,
    )


def _planner(name: str) -> Planner:
    if name == "principal":
        return PrincipalPlanner()
    planners: tuple[Planner, ...] = (
        ColumnPruning("sseds"),
        ColumnPruning("squared"),
        ColumnPruning("magnitude"),
        PowerLaw(),
        FixedSteps(),
        UniformWidth(),
    )
    return next(planner for planner in planners if planner.name == name)
