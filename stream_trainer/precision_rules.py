"""From the trainer's settings to the rules of its search for precision.

Knows settings; nothing of a table. Invariant: `fp32` asks for nothing at all.
"""

from dataclasses import replace

import numpy as np

from dimension_search.precision_policy import policy_named
from stream_trainer.precision_keeper import PrecisionRules
from stream_trainer.settings import TrainerSettings

__all__ = ["hurried_precision", "precision_rules"]

_CODECS = {"fp16": "fp16", "int8": "int8_minmax", "int4": "int4_greedy"}


def precision_rules(settings: TrainerSettings) -> PrecisionRules | None:
    """The rules that the settings ask for, None where servers get all rows as fp32."""
    if settings.row_precision == "fp32":
        return None
    every = settings.row_precision_every_samples
    return PrecisionRules(
        codec=_CODECS.get(settings.row_precision),
        policy=policy_named(settings.row_precision_policy),
        tolerance=settings.row_precision_tolerance,
        max_bytes=settings.row_precision_bytes,
        first_search_samples=min(50_000, every),
        search_every_samples=every,
        settle_samples=min(50_000, every),
        window_samples=settings.search_judge_samples,  # its estimates have no noise of labels: no more are needed
        judge_samples=settings.search_judge_samples,
    )


def hurried_precision(rules: PrecisionRules | None) -> PrecisionRules | None:
    """Rules that search and accept within a few samples, so that warming up goes through every codec."""
    if rules is None:
        return None
    return replace(
        rules,
        codec=None,
        max_bytes=0,
        first_search_samples=0,
        search_every_samples=1,
        window_samples=1,
        judge_samples=1,
        tolerance=np.inf,
    )
