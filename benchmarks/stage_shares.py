"""What each stage of learning costs by itself, in seconds, one after another on one thread.

Lookup is finding the handles and gathering the rows; admission is the rest of the preparation (counting, admitting,
inserting); dense is the train step without gather and update. Gather and update are timed on their own over the same
micro-batches (the update with a zero gradient: the same rows and bytes, nothing learned), since inside the step no
clock could stand between them.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import UpdateScratch, gather_bags, new_scratch, update_bags
from embedding_table.row_layout import TableViews
from model_contract.compiled import kernel
from model_contract.samples import SampleBatch
from stream_trainer.learner import Learner
from stream_trainer.prepared_batch import PreparedBatch

__all__ = ["StageSeconds", "measure_stages"]


@dataclass(slots=True)
class StageSeconds:
    """Seconds of each stage over all samples measured."""

    decode: float = 0.0
    admission: float = 0.0
    lookup: float = 0.0
    dense: float = 0.0
    update: float = 0.0

    def shares(self) -> dict[str, float]:
        """Each stage's part of their sum."""
        total = sum(getattr(self, entry.name) for entry in fields(self))
        return {f"{entry.name}_share": round(getattr(self, entry.name) / total, 4) for entry in fields(self)}


@kernel
def _gather_all(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    bags: int,
    out: NDArray[np.float32],
) -> None:
    for lo in range(0, offsets.size - 1, bags):
        hi = min(offsets.size - 1, lo + bags)
        gather_bags(views, handles, offsets, pooling, lo, hi, out[: hi - lo])


@kernel
def _update_all(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    bags: int,
    grad: NDArray[np.float32],
    now_s: int,
    scratch: UpdateScratch,
) -> None:
    for lo in range(0, offsets.size - 1, bags):
        hi = min(offsets.size - 1, lo + bags)
        update_bags(views, handles, offsets, pooling, lo, hi, grad[: hi - lo], 0.0, 1e-8, now_s, scratch)


def measure_stages(
    learner: Learner, batches: Iterable[Callable[[], SampleBatch]], batch_size: int, warm: int
) -> tuple[StageSeconds, float]:
    """Learns all batches, stage by stage.

    Args:
        learner: prepares and learns.
        batches: functions that make a batch.
        batch_size: samples of a micro-batch.
        warm: how many batches at the start to leave out.

    Returns:
        the seconds of the stages, and the sparse side's part (gather and update) of the train steps.
    """
    slots, dim = learner.table.slots, learner.table.dim
    pooling = learner.schema.pooling_codes
    space = np.zeros((batch_size * slots, dim), np.float32)
    spent, gather_s, step_s = StageSeconds(), 0.0, 0.0
    now_s = int(time.time())
    for number, make in enumerate(batches):
        clock = [time.perf_counter()]

        def tick(clock: list[float] = clock) -> float:
            clock.append(time.perf_counter())
            return clock[-1] - clock[-2]

        batch = make()
        decode_s = tick()
        learner.table.find(batch.ids)
        find_s = tick()
        learner.table.find(batch.ids)
        found_again_s = tick()
        prepared = learner.prepare(batch, now_s)
        prepare_s = tick()
        views = learner.table.views()
        scratch = new_scratch(_most_lookups(prepared, batch_size * slots), dim)
        tick()
        bags = batch_size * slots
        _gather_all(views, prepared.handles, prepared.offsets, pooling, bags, space)
        gathered_s = tick()
        learner.learn(prepared, now_s)
        learned_s = tick()
        space[:] = 0.0
        tick()
        _update_all(views, prepared.handles, prepared.offsets, pooling, bags, space, now_s, scratch)
        updated_s = tick()
        if number < warm:
            continue
        spent.decode += decode_s
        spent.admission += max(0.0, prepare_s - found_again_s)
        spent.lookup += find_s + gathered_s
        spent.update += updated_s
        spent.dense += max(0.0, learned_s - gathered_s - updated_s)
        gather_s += gathered_s
        step_s += learned_s
    return spent, (gather_s + spent.update) / step_s


def _most_lookups(batch: PreparedBatch, bags: int) -> int:
    return int(np.diff(batch.offsets[::bags], append=batch.offsets[-1]).max(initial=0))
