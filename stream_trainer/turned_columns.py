"""Turns the columns of rows to their principal axes before they are narrowed; a linear alignment takes it back.

All columns of a slot are alike until something tells them apart, so cutting some of them cuts a part of every
direction that rows use. With rows e' = e Q and W' = Q^T W, Q orthogonal, every prediction stays (z = e W) while what
rows say gathers in few columns: Q is made of the eigenvectors of C = sum n e e^T over a slot's rows, n the traffic of
each. They need no gradient, so a state is enough; on Globo they do as well as the axes of principal saliency.

Knows no table, no search and no file. Invariant: logits are equal to rounding. Q mixes columns only where every block
of the slot has all of them or none, so that every row keeps its columns, and a resize that is under way its aim.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_table.table import RowsOfBlock
from model_contract.dense_layout import DenseLayout
from stream_trainer.errors import StateError
from stream_trainer.model_state import Arrays, ModelState

__all__ = ["turned_state"]

_PIECE_ROWS = 1 << 16
_BY_COLUMN = ("rows", "counts", "spectrum", "squared")  # what a search remembers of columns that are no more


def turned_state(state: ModelState, layout: DenseLayout) -> ModelState:
    """The same model with its columns turned.

    Args:
        state: complete, with a linear alignment.
        layout: of its dense parameters.

    Raises:
        StateError: the model has no linear alignment.
    """
    if layout.align is None:
        message = "align is 'zero_pad', expected 'linear': nothing else could take a turn of columns back"
        raise StateError(message)
    at, blocks = layout.align, state.rows.blocks
    active = state.arrays.get("dimensions/active")
    parameters = state.arrays["step/parameters"].copy()
    weights = parameters[at.weight : at.scale].reshape(at.slots, at.dim, at.dim)
    turns = []
    for slot in range(at.slots):
        here = [block for block in blocks if block.slot == slot]
        aims = np.zeros((0, at.dim), bool) if active is None else active[slot].astype(bool)
        turns.append(_axes(_moments(here, at.dim), _shells(here, aims)))
        weights[slot] = turns[slot].T @ weights[slot]
    turned = tuple(replace(block, values=_turned(block, turns[block.slot])) for block in blocks)
    arrays = {**_without_columns(state.arrays), "step/parameters": parameters}
    return replace(state, rows=replace(state.rows, blocks=turned), arrays=arrays)


def _moments(blocks: Sequence[RowsOfBlock], dim: int) -> NDArray[np.float64]:
    """C f64 (D, D)."""
    found = np.zeros((dim, dim))
    for block in blocks:
        for lo in range(0, len(block.ids), _PIECE_ROWS):
            values = block.values[lo : lo + _PIECE_ROWS].astype(np.float64)
            weighted = values * block.counts[lo : lo + _PIECE_ROWS, None]
            found[np.ix_(block.columns, block.columns)] += weighted.T @ values
    return found


def _shells(blocks: Sequence[RowsOfBlock], aims: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """The columns, sorted into those that the same blocks have, now and where they are going."""
    held = np.zeros((len(blocks), aims.shape[1]), bool)
    for row, block in zip(held, blocks, strict=True):
        row[block.columns] = True
    _, kinds = np.unique(np.concatenate([held, aims]), axis=1, return_inverse=True)
    return [np.flatnonzero(kinds.ravel() == kind) for kind in range(kinds.max() + 1)]


def _axes(moments: NDArray[np.float64], shells: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Q f64 (D, D): in each shell the eigenvectors of its part of C, the strongest in its first column."""
    axes = np.eye(len(moments))
    for shell in shells:
        place = np.ix_(shell, shell)
        if moments[place].any():
            axes[place] = np.linalg.eigh(moments[place])[1][:, ::-1]
    return axes


def _turned(block: RowsOfBlock, turn: NDArray[np.float64]) -> NDArray[np.float32]:
    own = turn[np.ix_(block.columns, block.columns)]
    turned = np.empty(block.values.shape, np.float32)
    for lo in range(0, len(turned), _PIECE_ROWS):
        turned[lo : lo + _PIECE_ROWS] = block.values[lo : lo + _PIECE_ROWS].astype(np.float64) @ own
    return turned


def _without_columns(arrays: Arrays) -> Arrays:
    """The arrays without what was known of single columns: a search finds it anew."""
    gone = {f"dimensions/{name}" for name in _BY_COLUMN}
    kept: dict[str, NDArray[Any]] = {name: values for name, values in arrays.items() if name not in gone}
    running = (name for name in arrays if name.startswith("dimensions/running_"))
    return kept | {name: np.zeros_like(arrays[name]) for name in running}
