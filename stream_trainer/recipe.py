"""How fast everything learns: the one place where training's numbers stand, with the defaults that stood still.

Knows no model and no data. Invariant: gradients are sums over samples, not means, so what a sample teaches does not
depend on how the stream was cut into batches. How the defaults were found is kept in docs/log.md.
"""

import math
from dataclasses import dataclass, fields

from stream_trainer.errors import RecipeError

__all__ = ["Recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Rates and starting points.

    Attributes:
        batch_size: samples of a micro-batch: predicted together, then learned together.
        init_scale: a new row's values are uniform in [-init_scale, init_scale).
        sparse_rate: learning rate of rows (row-wise Adagrad).
        sparse_initial_accumulator: where a new row's accumulator starts: damps what its first samples teach.
        sparse_decay: what is left of a row's accumulator at its next update: below 1, a row that is seen often keeps
            learning; 1 is plain Adagrad.
        sparse_eps: added to the root of a row's accumulator.
        sparse_reference_width: rows of d columns, d above this, learn at sparse_rate * sqrt(this / d); 0 for all at
            sparse_rate.
        dense_rate: learning rate of the dense parameters (Adagrad).
        dense_initial_accumulator: where their accumulators start.
        dense_eps: added to the root of a dense accumulator.
        align_initial_accumulator: where the accumulators of a linear alignment start: it begins as the identity, which
            the first steps of a fresh Adagrad, of the full rate each, would bury in noise.
    """

    batch_size: int = 128
    init_scale: float = 0.05
    sparse_rate: float = 0.1
    sparse_initial_accumulator: float = 0.1
    sparse_decay: float = 0.995
    sparse_eps: float = 1e-8
    sparse_reference_width: float = 16.0
    dense_rate: float = 0.015
    dense_initial_accumulator: float = 0.0
    dense_eps: float = 1e-8
    align_initial_accumulator: float = 1.0

    def __post_init__(self) -> None:
        """Refuses numbers that cannot train."""
        if self.batch_size < 1:
            detail = f"batch_size is {self.batch_size}, expected at least 1"
            raise RecipeError(detail)
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not math.isfinite(value) or value < 0:
                detail = f"{entry.name} is {value}, expected a finite number >= 0"
                raise RecipeError(detail)
        for name in ("sparse_eps", "dense_eps"):
            if getattr(self, name) == 0:
                detail = f"{name} is 0, expected above 0: what never had a gradient would be divided by zero"
                raise RecipeError(detail)
        if not 0 < self.sparse_decay <= 1:
            detail = f"sparse_decay is {self.sparse_decay}, expected above 0 and at most 1"
            raise RecipeError(detail)
