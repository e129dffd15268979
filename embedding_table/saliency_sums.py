"""How much each column of each (slot, band) matters to the loss, gathered while rows are trained.

Knows homes, (slot, band) by number, and columns; not what is done with them. With a mask alpha of ones on every column
of every home, dL/d alpha is by the chain rule the sum over the rows looked up of value * gradient (SSEDS: Qu et al.
2022, section 3.2). That sum is taken in the pass that trains the rows; here its absolute value over one update
goes into a decayed running sum, and beside it the sum of the squares row by row (Fisher's form), in which rows that
pull apart do not cancel.

Invariant: sums over rows are empty between updates; rows of a home count together whatever block they lie in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadRows
from embedding_table.row_layout import RunningSaliency, TableViews
from embedding_table.update_scratch import UpdateScratch
from model_contract.compiled import lean_kernel

__all__ = ["SaliencySums", "carry_over", "copy_sums", "fold_products", "join_products", "restore_sums"]


@dataclass(frozen=True, slots=True, eq=False)
class SaliencySums:
    """Decayed sums over updates; columns that a block does not have read 0.

    Attributes:
        first: f64 (slots, bands, D), of |sum over an update's rows of value * gradient|.
        squared: f64 (slots, bands, D), of the sum over an update's rows of (value * gradient)^2.
        updates: decayed number of updates, what the others are divided by for a mean.
    """

    first: NDArray[np.float64]
    squared: NDArray[np.float64]
    updates: float


@lean_kernel
def fold_products(views: TableViews, scratch: UpdateScratch) -> None:
    """Ends one update: takes what the scratch gathered of its rows into the running sums and empties the scratch."""
    running = views.saliency
    products, squares, block_rows, signed = scratch.products, scratch.squares, scratch.block_rows, scratch.signed
    if running.first.size == 0 or products.size == 0:
        return
    first, squared, keep = running.first.reshape(-1), running.squared.reshape(-1), running.keep
    block_columns, block_width, block_home = views.block_columns, views.block_width, views.block_home
    dim = block_columns.shape[1]
    running.updates[0] = keep * running.updates[0] + 1.0
    for k in range(squared.size):
        squared[k] *= keep
    for block in range(block_rows.size):
        if block_rows[block] == 0:
            continue
        block_rows[block] = 0
        home = block_home[block] * dim
        for place in range(block_width[block]):
            at = block * dim + place
            to = home + np.int64(block_columns[block, place])
            signed[to] += products[at]
            squared[to] += squares[at]
            products[at] = 0
            squares[at] = 0
    for k in range(first.size):
        first[k] = keep * first[k] + np.abs(signed[k])
        signed[k] = 0


@lean_kernel
def join_products(into: UpdateScratch, other: UpdateScratch) -> None:
    """Adds one thread's sums to another's and empties them."""
    for k in range(into.products.size):
        into.products[k] += other.products[k]
        into.squares[k] += other.squares[k]
        other.products[k] = 0
        other.squares[k] = 0
    for block in range(into.block_rows.size):
        into.block_rows[block] += other.block_rows[block]
        other.block_rows[block] = 0


def carry_over(running: RunningSaliency, home: int, old: NDArray[np.uint16], new: NDArray[np.uint16]) -> None:
    """Readies one home's sums for other columns: kept ones go on, new ones start at the mean of those.

    So a column just added is not the first to be taken away again before it has learned anything.

    Args:
        running: of the table.
        home: whose columns change.
        old: u16 (d,), columns until now.
        new: u16 (d',), columns from now on.
    """
    kept = np.intersect1d(old, new)
    added = np.setdiff1d(new, old)
    for sums in (running.first, running.squared):
        if sums.size == 0:
            return
        sums[home, added] = sums[home, kept].mean() if kept.size else 0.0


def copy_sums(running: RunningSaliency, slots: int, bands: int, active: Sequence[NDArray[np.uint16]]) -> SaliencySums:
    """Copies of the running sums, without columns that are not `active`, u16 (d,) for each home."""
    dim = running.first.shape[1]
    first, squared = np.zeros((2, slots * bands, dim))
    if running.first.size:
        for home, columns in enumerate(active):
            first[home, columns] = running.first[home, columns]
            squared[home, columns] = running.squared[home, columns]
    shape = (slots, bands, dim)
    return SaliencySums(first.reshape(shape), squared.reshape(shape), float(running.updates[0]))


def restore_sums(running: RunningSaliency, sums: SaliencySums, slots: int, bands: int) -> None:
    """Takes running sums back.

    Raises:
        BadRows: they are of another shape.
    """
    shape = (slots, bands, running.first.shape[1])
    if sums.first.shape != shape or sums.squared.shape != shape:
        message = f"saliency has shape {sums.first.shape} and {sums.squared.shape}: expected {shape}"
        raise BadRows(message)
    if running.first.size == 0:
        return
    running.first[:] = sums.first.reshape(running.first.shape)
    running.squared[:] = sums.squared.reshape(running.squared.shape)
    running.updates[0] = sums.updates
