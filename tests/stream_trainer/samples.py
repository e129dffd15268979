"""Small random samples and learners for tests of training."""

from pathlib import Path

import numpy as np

from model_contract.samples import SampleBatch
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot
from stream_trainer.learner import Learner
from stream_trainer.process import make_learner
from stream_trainer.settings import TrainerSettings

SCHEMA = ModelSchema(
    "m",
    (SparseSlot("user"), SparseSlot("item"), SparseSlot("tags", pooling="mean", multi=True)),
    (DenseFeature("x", "standardise"),),
    dim=4,
    bottom=(6,),
    top=(8,),
)


def settings(folder: Path = Path("unused"), **changes: object) -> TrainerSettings:
    values = {"memory_bytes": 4 << 20, "admission_bytes": 1 << 14, **changes}
    return TrainerSettings(model_file=folder / "model.toml", state_dir=folder / "state", **values)


def learner(schema: ModelSchema = SCHEMA, **changes: object) -> Learner:
    return make_learner(schema, settings(**changes))


def samples(generator: np.random.Generator, rows: int, schema: ModelSchema = SCHEMA, ids: int = 200) -> SampleBatch:
    """Zipf-like ids; a label that depends on the first slot, so that there is something to learn."""
    slots = len(schema.sparse)
    sizes = np.ones((rows, slots), np.int64)
    for f, slot in enumerate(schema.sparse):
        if slot.multi:
            sizes[:, f] = generator.integers(1, 4, rows)
    offsets = np.concatenate([[0], np.cumsum(sizes.ravel())])
    slot_of = np.repeat(np.tile(np.arange(slots), rows), sizes.ravel())
    drawn = np.minimum(generator.zipf(1.4, offsets[-1]), ids)
    first = drawn[offsets[:-1].reshape(rows, slots)[:, 0]]
    return SampleBatch(
        labels=((first + (generator.random(rows) < 0.1)) % 2).astype(np.float32),
        weights=np.ones(rows, np.float32),
        ts_ms=np.zeros(rows, np.int64),
        dense=generator.standard_normal((rows, len(schema.dense))).astype(np.float32),
        ids=(drawn + 1000 * (slot_of + 1)).astype(np.uint64),
        offsets=offsets,
    )
