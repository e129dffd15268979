"""Model files: those that come with dimflow, and any other by its path."""

from importlib import resources
from pathlib import Path

from model_contract.process_settings import SettingError
from model_contract.schema import ModelSchema

__all__ = ["packaged_model_file", "read_model_file"]

_OPTION = "--model-file"


def packaged_model_file(name: str) -> Path:
    """Path of a model file that comes with dimflow: globo, movielens, criteo or teacher."""
    return Path(str(resources.files("dimflow") / "models" / f"{name}.toml"))


def read_model_file(path: Path) -> ModelSchema:
    """The schema in a model file.

    Raises:
        SettingError: the file cannot be read.
        SchemaError: its content is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        expected = f"a readable TOML file ({error})"
        raise SettingError(_OPTION, str(path), expected) from error
    return ModelSchema.parse_toml(text)
