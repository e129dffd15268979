"""How a process reads its settings: a frozen dataclass, one field a setting, from variables and command line.

Knows no setting by name and reads no environment itself: the caller hands the mapping over. Invariant: a settings
object that exists is valid; a wrong, unknown or missing value raises `SettingError` with the name, the value seen and
what was expected. Values marked secret never appear in a message, a `repr` or a description.
"""

import argparse
import dataclasses
import difflib
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit, urlunsplit

from model_contract.errors import DimflowError

__all__ = [
    "SettingError",
    "SettingsClass",
    "add_setting_arguments",
    "arguments_of",
    "describe_settings",
    "environment_of",
    "mask_url",
    "read_settings",
    "setting",
]

MASK = "***"


class SettingError(DimflowError):
    """A setting is wrong, unknown or missing; the process must not start."""

    def __init__(self, name: str, seen: object, expected: str) -> None:
        """Keeps the three parts, so that a caller can print them apart."""
        super().__init__(f"{name}: got {seen!r}, expected {expected}")
        self.name = name
        self.seen = seen
        self.expected = expected


class SettingsClass(Protocol):
    """Any dataclass whose fields are made by `setting`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


S = TypeVar("S", bound=SettingsClass)


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    secret: bool = False,
) -> Any:
    """A dataclass field with its default, a one-line help and its limits (inclusive).

    `dataclasses.MISSING` as default makes the setting required.
    """
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "secret": secret}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def environment_of(settings: SettingsClass, prefix: str) -> dict[str, str]:
    """The variables that make `read_settings` return an equal object (for a child process)."""
    variables = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is not None:
            variables[prefix + field.name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    return variables


def read_settings(
    cls: type[S], environ: Mapping[str, str], prefix: str, overrides: Mapping[str, Any] | None = None
) -> S:
    """Reads one settings object: overrides (command line) first, then `prefix` + FIELD variables, then defaults.

    Raises:
        SettingError: a value does not parse or breaks its limits, a required one is absent, or a variable starts with
            `prefix` but names no setting.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    for name in environ:
        if name.startswith(prefix) and name.removeprefix(prefix).lower() not in fields:
            known = [prefix + field.upper() for field in fields]
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise SettingError(name, MASK, f"the name of a setting; the nearest is {nearest}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        variable = prefix + name.upper()
        if overrides and overrides.get(name) is not None:
            seen = overrides[name]
        elif variable in environ:
            seen = environ[variable]
        elif field.default is dataclasses.MISSING:
            raise SettingError(variable, None, f"a value: {field.metadata['help']}")
        else:
            continue
        shown = MASK if field.metadata["secret"] else seen
        values[name] = _parse(variable, seen, shown, hints[name], field.metadata)
    return cls(**values)


def describe_settings(settings: SettingsClass) -> dict[str, str]:
    """Name to printed value, secrets and the passwords inside URLs masked: what a process logs at its start."""
    described = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.metadata.get("secret") and value:
            described[field.name] = MASK
        else:
            described[field.name] = mask_url(value) if isinstance(value, str) else str(value)
    return described


def mask_url(value: str) -> str:
    """`value` with the password of a URL replaced by ***; anything that is no such URL comes back as it is."""
    if "://" not in value or "@" not in value:
        return value
    parts = urlsplit(value)
    if parts.password is None:
        return value
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{MASK}@{host}"))


def add_setting_arguments(parser: argparse.ArgumentParser, cls: type[SettingsClass], prefix: str) -> None:
    """Adds `--field-name` for every field; the help names the variable and the default."""
    for field in dataclasses.fields(cls):
        default = "required" if field.default is dataclasses.MISSING else f"default {field.default}"
        variable = prefix + field.name.upper()
        text = f"{field.metadata['help']} ({default}; {variable})".replace("%", "%%")
        parser.add_argument(f"--{field.name.replace('_', '-')}", metavar="VALUE", default=None, help=text)


def arguments_of(args: argparse.Namespace, cls: type[SettingsClass]) -> dict[str, str]:
    """The values given on the command line, by field name."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)}
    return {name: value for name, value in given.items() if value is not None}


def _parse(name: str, seen: object, shown: object, hint: Any, limits: Mapping[str, Any]) -> Any:
    if get_origin(hint) in {Union, types.UnionType}:  # X | None: an empty variable means None
        if seen == "":
            return None
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is Literal:
        if seen not in get_args(hint):
            raise SettingError(name, shown, "one of " + ", ".join(map(str, get_args(hint))))
        return seen
    if hint is bool:
        return _parse_bool(name, seen, shown)
    convert: Callable[[Any], Any] = {int: int, float: float, str: str, Path: Path}[hint]
    try:
        value = convert(seen)
    except (TypeError, ValueError):
        raise SettingError(name, shown, f"a value of type {hint.__name__}") from None
    low, high = limits.get("minimum"), limits.get("maximum")
    bounded = (low is None or value >= low) and (high is None or value <= high) if hint in {int, float} else True
    if hint in {int, float} and not (math.isfinite(value) and bounded):
        span = f"from {low if low is not None else 'any'} to {high if high is not None else 'any'}"
        raise SettingError(name, shown, f"a number {span}")
    return value


def _parse_bool(name: str, seen: object, shown: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    value = words.get(str(seen).lower())
    if value is None:
        raise SettingError(name, shown, "true or false")
    return value
