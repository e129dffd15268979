"""A state as plain arrays: nothing lost, nothing that only dimflow can read."""

from pathlib import Path

import numpy as np
import pytest

from stream_trainer.errors import StateError
from stream_trainer.model_export import export_arrays, write_export
from tests.stream_trainer.samples import SCHEMA, learner, samples
from tests.stream_trainer.states import assert_equal_arrays


def test_every_row_and_parameter_of_a_trained_model_is_in_it(tmp_path: Path) -> None:
    model = learner(admission="always")
    model.fresh_state(0)
    generator = np.random.default_rng(0)
    model.learn(model.prepare(samples(generator, 200), 10), 10)
    state = model.fresh_state(0)

    size = write_export(tmp_path / "x.npz", state, SCHEMA)

    assert size == (tmp_path / "x.npz").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert {name: found[name].dtype for name in found.files} == {
            name: np.asarray(values).dtype for name, values in export_arrays(state, SCHEMA).items()
        }
        for number, block in enumerate(state.rows.blocks):
            assert str(found[f"blocks/{number}/slot"]) == SCHEMA.slot_names[block.slot]
            for name in ("columns", "ids", "values", "accumulators", "counts", "last_seen_s"):
                assert_equal_arrays(found[f"blocks/{number}/{name}"], getattr(block, name))
        flat = np.concatenate([found[f"dense/{entry.name}"].ravel() for entry in model.step.layout.entries])
        assert_equal_arrays(flat, model.step.parameters)
        assert_equal_arrays(found["dense_mean"], state.arrays["serving/dense_mean"])
        assert found["dense_std"].shape == (len(SCHEMA.dense),)


def test_a_state_of_another_model_is_refused() -> None:
    state = learner().fresh_state(0)
    other = type(SCHEMA)(SCHEMA.name, SCHEMA.sparse, SCHEMA.dense, dim=8, bottom=(6,), top=(8,))
    with pytest.raises(StateError, match="expected the same model"):
        export_arrays(state, other)
