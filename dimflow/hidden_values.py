"""Numbers that belong to an id for ever, without being stored: a hash of (seed, slot, id, position) as a uniform value.

Knows no model. Invariant: the same key gives the same value in any process, in any order, so an id may be born, die
and be asked for again without anybody keeping its numbers. Source: the finaliser of splitmix64 (Steele, Lea, Flood:
Fast splittable pseudorandom number generators, 2014).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["hashed", "unit_variance"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WIDTH = float(np.sqrt(12.0))  # of a uniform distribution of variance 1


def hashed(keys: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """Mixes keys with a salt.

    Args:
        keys: uint64 of any shape.
        salt: any integer; 64 bits of it count.

    Returns:
        uint64 of the keys' shape, as if drawn at random for each (key, salt).
    """
    # not added to the keys: salts that lie close would give shifted copies of one sequence
    z = (keys * _GOLDEN) ^ np.uint64(salt % (1 << 64))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def unit_variance(ids: NDArray[np.int64], salt: int, columns: int) -> NDArray[np.float64]:
    """Values of ids, uniform with mean 0 and variance 1.

    Args:
        ids: int64 (n,).
        salt: tells seeds and slots apart.
        columns: values wanted of each id.

    Returns:
        float64 (n, columns).
    """
    distinct, places = np.unique(ids, return_inverse=True)
    keys: NDArray[np.uint64] = hashed(distinct.astype(np.uint64), salt)[:, None] + np.arange(columns).astype(np.uint64)
    uniform = (hashed(keys, salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    values = (uniform - 0.5) * _WIDTH
    return np.take(values, places, axis=0)
