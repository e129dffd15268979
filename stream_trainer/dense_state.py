"""What a train step carries from batch to batch on the dense side: parameters and their Adagrad accumulators.

Knows no kernel and no table. Invariant: both vectors stay the same arrays for the step's life (restoring writes into
them), so kernels and modules may hold on to them.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model_contract.dense_layout import DenseLayout
from stream_trainer.errors import StateError
from stream_trainer.recipe import Recipe

__all__ = ["DenseState", "initial_accumulators"]


def initial_accumulators(layout: DenseLayout, recipe: Recipe) -> NDArray[np.float32]:
    """Where Adagrad's sums of squares start, f32 (P,); the alignment's apart, since it starts as something."""
    accumulators = np.full(layout.size, recipe.dense_initial_accumulator, np.float32)
    if layout.align:
        accumulators[layout.align.weight : layout.learned] = recipe.align_initial_accumulator
    return accumulators


class DenseState:
    """Dense parameters with their optimizer.

    Args:
        layout: of the vectors.
        recipe: where accumulators start.
        seed: of the parameters' start.

    Attributes:
        layout: of the vectors.
        parameters: f32 (P,).
        accumulators: f32 (P,), Adagrad's sums of squares.
    """

    def __init__(self, layout: DenseLayout, recipe: Recipe, seed: int) -> None:
        self.layout = layout
        self.parameters = layout.initial(seed)
        self.accumulators = initial_accumulators(layout, recipe)
        self._recipe = recipe
        self._seed = seed

    def restart_first_layer(self) -> None:
        """Puts the first top layer, the one that reads the rows, back to its start, with its optimizer state.

        Source: what SSEDS does after slimming (Qu et al. 2022, arXiv 2204.03281): warm rows, a cold layer behind them.
        """
        first = self.layout.top[0]
        fresh, accumulators = self.layout.initial(self._seed), initial_accumulators(self.layout, self._recipe)
        for offset, size in ((first.weight_offset, first.inputs * first.outputs), (first.bias_offset, first.outputs)):
            place = slice(offset, offset + size)
            self.parameters[place] = fresh[place]
            self.accumulators[place] = accumulators[place]

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Copies by name."""
        return {"parameters": self.parameters.copy(), "accumulators": self.accumulators.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes back what `state` returned.

        Raises:
            StateError: a name is missing, or an array has another shape or dtype; nothing has changed then.
        """
        targets = {"parameters": self.parameters, "accumulators": self.accumulators}
        for name, target in targets.items():
            found = state.get(name)
            if found is None or found.shape != target.shape or found.dtype != target.dtype:
                seen = "nothing" if found is None else f"{found.dtype} {found.shape}"
                message = f"dense state {name} is {seen}, expected {target.dtype} {target.shape}"
                raise StateError(message)
        for name, target in targets.items():
            np.copyto(target, state[name])
