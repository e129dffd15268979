"""Model files: those that come with dimflow, and any other by its path."""

from importlib import resources
from pathlib import Path

from model_contract.process_settings import SettingError
from model_contract.schema import ModelSchema

__all__ = ["packaged_model_file", "read_model_file", "read_text"]


def packaged_model_file(name: str) -> Path:
    """Path of a model file that comes with dimflow: globo, movielens, criteo or teacher."""
    return Path(str(resources.files("dimflow") / "models" / f"{name}.toml"))


def read_model_file(path: Path) -> ModelSchema:
    """The schema in a model file.

    Raises:
        SettingError: the file cannot be read.
        SchemaError: its content is wrong.
    """
    return ModelSchema.parse_toml(read_text("--model-file", path))


def read_text(option: str, path: Path) -> str:
    """The content of a file that an option names.

    Raises:
        SettingError: the file cannot be read; it says `option`.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(option, str(path), f"a readable text file ({error})") from error
