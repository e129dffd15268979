"""From the trainer's settings to the rules of its search for dimensions.

Knows settings and planners by name; nothing of a table. Invariant: what the settings cannot mean stops the start with
the setting's name.
"""

from dimension_search.column_pruning import ColumnPruning
from dimension_search.errors import SearchError
from dimension_search.fixed_widths import FixedSteps, PowerLaw, UniformWidth
from dimension_search.heat import HeatBands
from dimension_search.planner import Planner
from dimension_search.principal import PrincipalPlanner
from model_contract.process_settings import SettingError
from stream_trainer.dimension_keeper import DimensionRules
from stream_trainer.settings import PREFIX, TrainerSettings

__all__ = ["dimension_rules"]


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
