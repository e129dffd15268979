"""Compiles every kernel of the trainer before the first record is read, on a small model that is thrown away.

Knows no Kafka and no state. Without it the first chunk of a fresh machine would wait half a minute for the compiler,
and so would everything that is measured on it.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedding_table.table import EmbeddingTable
from model_contract.arrow_samples import encode_arrow
from model_contract.sample_decoding import ARROW_CONTENT_TYPE, SampleDecoder
from model_contract.schema import ModelSchema
from stream_trainer.learner import Learner

__all__ = ["warm_up"]

logger = logging.getLogger(__name__)

_EVERYTHING = 1 << 30
_ROWS = 300  # more than one micro-batch, and not a multiple of one


def warm_up(schema: ModelSchema, decoder: SampleDecoder, new_learner: Callable[[], Learner]) -> None:
    """Runs both wire forms through a scratch learner, from bytes to a cut.

    Args:
        schema: of the model that will be trained.
        decoder: the one that will be used.
        new_learner: makes a learner like the one that will be used; two are made.
    """
    begin = time.perf_counter()
    learner = new_learner()
    base = learner.fresh_state(0)
    for values in (np.arange(_ROWS), np.char.add("v", np.arange(_ROWS).astype(str))):
        message = encode_arrow(_table(schema, values), schema)
        text = b'{"label": 1, "sparse": {"%s": "a"}}' % schema.slot_names[0].encode()
        number = b'{"label": 0, "sparse": {"%s": 7}}' % schema.slot_names[0].encode()
        decoded = decoder.decode([message, text, number], [ARROW_CONTENT_TYPE, None, None])
        for _ in range(2):  # the second time the ids have rows
            learner.learn(learner.prepare(decoded.batch, 1), 1)
    learner.tidy(1)
    if learner.dimensions is not None:
        _resize(learner.table)
    learner.take_cut(base.manifest)
    learner.table.erase(learner.table.live_rows().handles[:1])
    new_learner().restore(base)
    logger.info("kernels are ready after %.1f s", time.perf_counter() - begin)


def _resize(table: EmbeddingTable) -> None:
    """Both ways that rows' columns change: some go, others come, with random values in one slot."""
    homes = table.slots * table.bands
    seeds = [np.arange(table.dim if slot == 0 else 0, dtype=np.uint16) for slot in range(table.slots)]
    for columns, seeded in ((np.zeros(1, np.uint16), None), (np.arange(table.dim, dtype=np.uint16), seeds)):
        table.begin_resize([columns] * homes, seeded)
        table.resize_some(_EVERYTHING)


def _table(schema: ModelSchema, values: NDArray[Any]) -> pa.Table:
    single: pa.Array[Any] = pa.array(values)
    several: pa.Array[Any] = pa.array([[value] for value in values.tolist()])
    columns: dict[str, pa.Array[Any]] = {"label": pa.array(np.arange(_ROWS) % 2, pa.int8())}
    columns |= {slot.name: several if slot.multi else single for slot in schema.sparse}
    columns |= {name: pa.array(np.ones(_ROWS, np.float32)) for name in schema.dense_names}
    return pa.table(columns)
