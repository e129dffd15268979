"""A running model goes over from zero_pad to a linear alignment: its state, written for the other model file.

Knows no file, no Redis and no learner. Invariant: the state that comes out predicts what the one that went in did: the
alignment starts as the identity, everything else stays. It is of another fingerprint, so it is a lineage of its own:
replicas of the old model file go on with the last version they have, those of the new one load its first base.
"""

import uuid
from dataclasses import replace

import msgspec
import numpy as np

from model_contract.dense_layout import DenseLayout
from model_contract.schema import ModelSchema
from stream_trainer.dense_state import initial_accumulators
from stream_trainer.errors import StateError
from stream_trainer.model_state import ModelState
from stream_trainer.recipe import Recipe

__all__ = ["aligned_state"]


def aligned_state(state: ModelState, schema: ModelSchema, recipe: Recipe) -> ModelState:
    """The state as a learner of `schema` can restore it; the same state where nothing but `align` could differ.

    Args:
        state: complete.
        schema: of the model file.
        recipe: where the new parameters' accumulators start.

    Raises:
        StateError: the state has a linear alignment and the model file asks for zero_pad: what W learned lies in
            predictions and rows alike, and cannot be taken back.
    """
    found = state.manifest.fingerprint
    if found == schema.fingerprint:
        return state
    if schema.align == "zero_pad":
        if found == replace(schema, align="linear").fingerprint:
            message = (
                "state_dir holds a model with align = 'linear', the model file has 'zero_pad': expected 'linear', "
                "which cannot be taken back, or another state_dir"
            )
            raise StateError(message)
        return state
    if found != replace(schema, align="zero_pad").fingerprint:
        return state
    layout = DenseLayout(schema)
    tails = {"step/parameters": layout.initial(0), "step/accumulators": initial_accumulators(layout, recipe)}
    arrays = dict(state.arrays)
    for name, fresh in tails.items():
        arrays[name] = np.concatenate([arrays[name], fresh[len(arrays[name]) :]])
    manifest = msgspec.structs.replace(state.manifest, fingerprint=schema.fingerprint, lineage=uuid.uuid4().hex)
    return replace(state, manifest=manifest, arrays=arrays)
