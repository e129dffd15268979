"""The model files that come with dimflow."""

import pytest

from dimflow.model_files import packaged_model_file, read_model_file
from dimflow.synthetic_streams import DriftingTeacher
from model_contract.process_settings import SettingError


@pytest.mark.parametrize(("name", "slots", "dense"), [("globo", 9, 0), ("movielens", 7, 1), ("criteo", 26, 13)])
def test_they_describe_their_streams(name: str, slots: int, dense: int) -> None:
    schema = read_model_file(packaged_model_file(name))

    assert (schema.name, len(schema.sparse), len(schema.dense)) == (name, slots, dense)


def test_the_teachers_file_is_the_teachers_schema() -> None:
    assert read_model_file(packaged_model_file("teacher")).fingerprint == DriftingTeacher().schema.fingerprint


def test_a_file_that_cannot_be_read_is_named(tmp_path) -> None:
    with pytest.raises(SettingError, match=r"absent\.toml"):
        read_model_file(tmp_path / "absent.toml")
