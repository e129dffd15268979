"""One trainer process from its settings: what it is made of, and what stops it before it starts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import stream_trainer.process
from feature_admission.age import AgeEviction
from feature_admission.always_admit import AlwaysAdmit
from feature_admission.count_min import CountMinAdmission
from feature_admission.least_frequent import LeastFrequentEviction
from model_contract.errors import SchemaError
from model_contract.process_settings import SettingError
from stream_trainer.amx_step import AmxStep
from stream_trainer.amx_support import amx_is_usable
from stream_trainer.autograd_step import AutogradStep
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.fused_step import FusedStep
from stream_trainer.process import _restored, make_learner, new_step, read_schema
from stream_trainer.recipe import Recipe
from tests.stream_trainer.samples import SCHEMA, samples, settings


def test_the_settings_choose_the_parts() -> None:
    plain = make_learner(SCHEMA, settings())
    other = make_learner(SCHEMA, settings(admission="always", eviction="age", precision="bf16"))

    assert isinstance(plain.admission, CountMinAdmission)
    assert isinstance(plain.eviction, LeastFrequentEviction)
    assert type(plain.step) is FusedStep
    assert isinstance(other.admission, AlwaysAdmit)
    assert isinstance(other.eviction, AgeEviction)
    assert type(other.step) is (AmxStep if amx_is_usable() else AutogradStep)


def test_bf16_without_amx_is_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_trainer.process, "amx_is_usable", lambda: False)
    assert type(new_step(SCHEMA, Recipe(), 0, "bf16")) is AutogradStep


def test_fp32_is_multiplied_in_tiles_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = dataclasses.replace(SCHEMA, top=(1024, 1024))
    linear = dataclasses.replace(wide, align="linear")
    recipe = Recipe(batch_size=64)
    assert type(new_step(wide, recipe, 0, "fp32")) is (AmxStep if amx_is_usable() else FusedStep)
    assert type(new_step(linear, recipe, 0, "fp32")) is FusedStep
    assert type(new_step(SCHEMA, recipe, 0, "fp32")) is FusedStep
    monkeypatch.setattr(stream_trainer.process, "amx_is_usable", lambda: False)
    assert type(new_step(wide, recipe, 0, "fp32")) is FusedStep


def test_a_seed_decides_all_first_values() -> None:
    def values(seed: int) -> bytes:
        model = make_learner(SCHEMA, settings(seed=seed))
        rows = model.table.all_rows().blocks
        return model.step.parameters.tobytes() + b"".join(block.values.tobytes() for block in rows)

    assert values(3) == values(3)
    assert values(3) != values(4)


def test_memory_that_the_sketch_fills_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match=r"DIMFLOW_TRAINER_MEMORY_BYTES.*ADMISSION_BYTES, 8388608"):
        make_learner(SCHEMA, settings(memory_bytes=8 << 20, admission_bytes=8 << 20))


def test_a_model_file_that_is_absent_or_wrong_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="DIMFLOW_TRAINER_MODEL_FILE"):
        read_schema(tmp_path / "absent.toml")
    (tmp_path / "wrong.toml").write_text("[model]\nname = 'm'\n")
    with pytest.raises(SchemaError, match="sparse"):
        read_schema(tmp_path / "wrong.toml")


@pytest.mark.parametrize("amx", [False, True])
def test_bf16_refuses_a_linear_alignment_by_name(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    monkeypatch.setattr(stream_trainer.process, "amx_is_usable", lambda: amx)
    linear = dataclasses.replace(SCHEMA, align="linear")
    with pytest.raises(SettingError, match=r"DIMFLOW_TRAINER_PRECISION.*fp32.*align"):
        make_learner(linear, settings(precision="bf16"))
    assert type(make_learner(linear, settings()).step) is FusedStep


@pytest.mark.parametrize("search", [False, True])
def test_a_state_of_zero_pad_goes_on_under_a_model_file_with_a_linear_alignment(tmp_path: Path, search: bool) -> None:
    """Bit for bit; where columns will be cut, turned and equal to rounding."""
    rules = DimensionRules(search_every_samples=0) if search else None
    options = settings(admission="always")
    old = make_learner(SCHEMA, options, rules=rules)
    generator = np.random.default_rng(4)
    for _ in range(5):
        old.learn(old.prepare(samples(generator, 300), 10), 10)
    held_out = samples(generator, 128, ids=20)
    old.prepare(held_out, 10)  # whatever has no row yet gets one
    store = CheckpointStore(tmp_path, old.merge_admission)
    try:
        store.write_base(old.fresh_state(1))
        new = make_learner(dataclasses.replace(SCHEMA, align="linear"), options, rules=rules)
        state = _restored(new, store, store.load())
    finally:
        store.close()

    assert state.manifest.fingerprint == new.schema.fingerprint
    expected, found = (model.step.train(model.table, model.prepare(held_out, 10), 10) for model in (old, new))
    assert np.array_equal(found, expected) != search
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
