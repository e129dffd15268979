"""Random tables and prepared batches for the train steps' tests; everything follows from the seed."""

from dataclasses import dataclass

import numpy as np

from embedding_table.table import EmbeddingTable
from model_contract.schema import Align, DenseFeature, ModelSchema, SparseSlot
from stream_trainer.prepared_batch import PreparedBatch

NOW_S = 1_700_000_000


def schema(
    dense: int = 0, dim: int = 6, top: tuple[int, ...] = (12, 5), multi: bool = True, align: Align = "zero_pad"
) -> ModelSchema:
    """Three slots, the second with several values by mean, the third by sum."""
    return ModelSchema(
        "m",
        (SparseSlot("a"), SparseSlot("b", "mean", multi), SparseSlot("c", "sum", multi)),
        tuple(DenseFeature(f"d{i}") for i in range(dense)),
        dim=dim,
        bottom=(9,) if dense else (),
        top=top,
        align=align,
    )


@dataclass
class Case:
    """A table with rows in it, and batches that look them up."""

    model: ModelSchema
    table: EmbeddingTable
    rows_by_slot: list[np.ndarray]

    def batch(self, rows: int, seed: int) -> PreparedBatch:
        """`rows` samples with weights; few rows, so that most are looked up more than once."""
        generator = np.random.default_rng(seed)
        slots = len(self.model.sparse)
        lengths = np.array(
            [generator.integers(1, 4, rows) if s.multi else np.ones(rows, int) for s in self.model.sparse]
        )
        offsets = np.concatenate([[0], np.cumsum(lengths.T.ravel())]).astype(np.int64)
        of_slot = np.repeat(np.tile(np.arange(slots), rows), np.diff(offsets))
        handles = np.array([generator.choice(self.rows_by_slot[slot]) for slot in of_slot], np.uint32)
        return PreparedBatch(
            handles=handles,
            offsets=offsets,
            dense=generator.standard_normal((rows, len(self.model.dense))).astype(np.float32),
            labels=generator.integers(0, 2, rows).astype(np.float32),
            weights=generator.uniform(0.5, 2.0, rows).astype(np.float32),
        )

    def values(self) -> np.ndarray:
        """f32 (rows, D): all rows, by slot."""
        handles = np.concatenate(self.rows_by_slot)
        offsets = np.arange(len(handles) + 1, dtype=np.int64)
        slots = len(self.model.sparse)
        out = np.empty((len(handles) // slots, slots, self.model.dim), np.float32)
        self.table.gather(handles, offsets, self.model.pooling_codes, out)
        return out.reshape(len(handles), self.model.dim)


def make_case(model: ModelSchema, rows_per_slot: int = 20) -> Case:
    """A table whose missing rows and `rows_per_slot` rows of each slot are alive; the same at every call."""
    slots = len(model.sparse)
    table = EmbeddingTable(
        slots=slots,
        dim=model.dim,
        budget_bytes=8 << 20,
        seed=5,
        init_scale=0.4,
        initial_accumulator=0.1,
        missing_ids=model.missing_ids,
    )
    ids = np.arange(1, slots * rows_per_slot + 1, dtype=np.uint64)
    of_slot = np.repeat(np.arange(slots, dtype=np.int32), rows_per_slot)
    handles = table.insert(ids, of_slot, NOW_S)
    rows = [np.append(handles[of_slot == slot], table.missing_handles[slot]) for slot in range(slots)]
    return Case(model, table, rows)
