"""Raw dense features to what the network sees, and the running moments that standardising needs.

Knows no network and no files. Invariants: the transform is a pure function of the values and the moments handed in,
the same in trainer and server; a missing value is 0 after it; moments forget nothing and merge exactly, in any
grouping of the stream up to rounding.

Source: T. F. Chan, G. H. Golub, R. J. LeVeque, Updating formulae and a pairwise algorithm for computing sample
variances (1979), equations 2.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_contract.errors import SchemaError
from model_contract.schema import ModelSchema

__all__ = ["Moments", "RunningMoments", "transform_dense"]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What `transform_dense` standardises by.

    Attributes:
        mean: (n,) float32.
        std: (n,) float32, > 0.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]


def transform_dense(
    schema: ModelSchema, dense: NDArray[np.float32], mean: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Applies each feature's transform.

    Args:
        schema: names the n transforms: none; log1p, sign(x) * log(1 + |x|); standardise, (x - mean) / std.
        dense: (B, n) float32, NaN is missing.
        mean: (n,) float32; used where a feature is standardised.
        std: (n,) float32, > 0; likewise.

    Returns:
        (B, n) float32, 0 where a value was missing.
    """
    out = dense.astype(np.float32)  # a copy
    for i, feature in enumerate(schema.dense):
        column = out[:, i]
        if feature.transform == "log1p":
            out[:, i] = np.copysign(np.log1p(np.abs(column)), column)
        elif feature.transform == "standardise":
            out[:, i] = (column - np.float32(mean[i])) / np.float32(std[i])
    missing = np.isnan(out)
    if missing.any():  # writing by mask costs as much as the rest, and most batches lack nothing
        out[missing] = 0.0
    return out


class RunningMoments:
    """Count, mean and squared deviations of n features over everything observed, missing values left out.

    Args:
        features: n.
    """

    def __init__(self, features: int) -> None:
        self._counts = np.zeros(features, np.float64)
        self._means = np.zeros(features, np.float64)
        self._squares = np.zeros(features, np.float64)  # sums of squared deviations from the mean

    def observe(self, dense: NDArray[np.float32]) -> None:
        """Adds a batch (B, n) float32, raw, NaN is missing."""
        valid = ~np.isnan(dense)
        counts = valid.sum(axis=0).astype(np.float64)
        values = np.where(valid, dense, 0.0).astype(np.float64)
        means = values.sum(axis=0) / np.maximum(counts, 1.0)
        deviations = np.where(valid, values - means, 0.0)
        self._add(counts, means, (deviations * deviations).sum(axis=0))

    def merge(self, other: "RunningMoments") -> None:
        """Adds everything that the other has observed."""
        self._add(other._counts, other._means, other._squares)

    def _add(self, counts: NDArray[np.float64], means: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        totals = self._counts + counts
        share = counts / np.maximum(totals, 1.0)
        apart = means - self._means
        self._squares = self._squares + squares + apart * apart * self._counts * share
        self._means = self._means + apart * share
        self._counts = totals

    def moments(self) -> Moments:
        """Mean and standard deviation; 0 and 1 where nothing was observed, 1 for the deviation of a constant."""
        variances = self._squares / np.maximum(self._counts, 1.0)
        std = np.sqrt(variances).astype(np.float32)
        return Moments(self._means.astype(np.float32), np.where(std > 0, std, np.float32(1.0)).astype(np.float32))

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Copies of everything kept, (n,) float64 each, for a checkpoint."""
        return {"counts": self._counts.copy(), "means": self._means.copy(), "squares": self._squares.copy()}

    def restore(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Takes the place of what `state` was called on.

        Raises:
            SchemaError: an array is absent or of another shape.
        """
        shape = self._counts.shape
        arrays = []
        for name in ("counts", "means", "squares"):
            if name not in state or state[name].shape != shape:
                seen = state[name].shape if name in state else "nothing"
                message = f"moments' {name}: {seen}; expected an array of shape {shape}"
                raise SchemaError(message)
            arrays.append(state[name].astype(np.float64))
        self._counts, self._means, self._squares = arrays
