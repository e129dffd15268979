"""One trainer process from its settings: what it is made of, and what stops it before it starts."""

from pathlib import Path

import pytest

import stream_trainer.process
from feature_admission.age import AgeEviction
from feature_admission.always_admit import AlwaysAdmit
from feature_admission.count_min import CountMinAdmission
from feature_admission.least_frequent import LeastFrequentEviction
from model_contract.errors import SchemaError
from model_contract.process_settings import SettingError
from stream_trainer.amx_support import amx_is_usable
from stream_trainer.autograd_step import AutogradStep
from stream_trainer.bf16_step import Bf16Step
from stream_trainer.fused_step import FusedStep
from stream_trainer.process import make_learner, new_step, read_schema
from stream_trainer.recipe import Recipe
from tests.stream_trainer.samples import SCHEMA, settings


def test_the_settings_choose_the_parts() -> None:
    plain = make_learner(SCHEMA, settings())
    other = make_learner(SCHEMA, settings(admission="always", eviction="age", precision="bf16"))

    assert isinstance(plain.admission, CountMinAdmission)
    assert isinstance(plain.eviction, LeastFrequentEviction)
    assert type(plain.step) is FusedStep
    assert isinstance(other.admission, AlwaysAdmit)
    assert isinstance(other.eviction, AgeEviction)
    assert type(other.step) is (Bf16Step if amx_is_usable() else AutogradStep)


def test_bf16_without_amx_is_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_trainer.process, "amx_is_usable", lambda: False)
    assert type(new_step(SCHEMA, Recipe(), 0, "bf16")) is AutogradStep


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
