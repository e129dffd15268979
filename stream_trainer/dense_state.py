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

__all__ = ["DenseState"]


class DenseState:
    """Dense parameters with their optimizer.

    Attributes:
        layout: of the vectors.
        parameters: f32 (P,).
        accumulators: f32 (P,), Adagrad's sums of squares.
    """

    def __init__(self, layout: DenseLayout, recipe: Recipe, seed: int) -> None:
        self.layout = layout
        self.parameters = layout.initial(seed)
        self.accumulators = np.full(layout.size, recipe.dense_initial_accumulator, np.float32)

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
