"""The config: read strictly, once, into frozen typed settings.

Layers, later ones win: defaults, the config file, ``config.d/*.toml`` beside it in the order of
their names, environment variables (``TELEMETRY_AGENT_UPLOAD__URL``). An unknown key or a bad value
is a ConfigError that names the key's full path, the value, what is allowed, and the layer it came
from.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from telemetry_agent.config.settings import ENVIRONMENT_PREFIX, Settings
from telemetry_agent.errors import ConfigError
from telemetry_agent.secrecy import masked_headers, masked_url

DEFAULT_PATHS = (Path("/etc/telemetry-agent/config.toml"), Path("config.toml"))


@dataclass(frozen=True)
class Loaded:
    """The settings and where each came from."""

    settings: Settings
    files: tuple[Path, ...]
    origins: Mapping[str, str]
    """Key path such as ``upload.timeout`` -> file or environment variable; absent: default."""


def load(path: Path | None = None) -> Loaded:
    """Read every layer.

    Args:
        path: the config file; ``None`` looks at DEFAULT_PATHS. Without any file the environment
            alone may hold the config.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, a bad value.
    """
    if path is None:
        path = next(filter(_exists, DEFAULT_PATHS), None)
    files = () if path is None else (path, *sorted((path.parent / "config.d").glob("*.toml")))
    # Every section is there, so that what is missing is named by its key, not by its section.
    values: dict[str, Any] = {section: {} for section in _sections()}
    origins: dict[str, str] = {}
    for file in files:
        layer = _read_toml(file)
        origins |= dict.fromkeys(_leaves(layer), str(file))
        _merge(layer, into=values)
    origins |= _environment_origins()
    if not origins:
        raise ConfigError(
            f"no config: neither {' nor '.join(map(str, DEFAULT_PATHS))} exists; "
            "`telemetry-agent init` makes one, and --config names another"
        )
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise _explained(error, origins) from None
    except SettingsError as error:
        field = re.search(r'"(\w+)"', str(error))
        name = f"{ENVIRONMENT_PREFIX}{field[1].upper() if field else ''}__…"
        raise ConfigError(f"config: an environment variable {name} must hold JSON") from None
    return Loaded(settings, files, origins)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True  # reading it says what is wrong


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the config {path} is not valid TOML: it is no text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the config {path} is not valid TOML: {error}") from None


def _merge(layer: Mapping[str, Any], into: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(value, into[key])
        else:
            into[key] = value


def _leaves(layer: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in layer.items():
        if isinstance(value, dict) and not prefix:
            yield from _leaves(value, f"{key}.")
        else:
            yield prefix + key


def _environment_origins() -> dict[str, str]:
    origins = {}
    for name in os.environ:
        section, nested, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not name.startswith(ENVIRONMENT_PREFIX) or not (nested or section == "device"):
            continue  # not ours: a bare section is not a key, and other programs share the prefix
        if section not in Settings.model_fields:
            raise ConfigError(f"the environment variable {name} names no key of the config")
        origins[f"{section}.{key}" if nested else section] = f"environment variable {name}"
    return origins


def _explained(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    """One line: the first fault in full, and how many there are beside it.

    A misspelt key comes before a missing one: it is often the same.
    """
    faults = sorted(error.errors(), key=lambda fault: fault["type"] == "missing")
    first = faults[0]
    key = ".".join(part for part in first["loc"] if isinstance(part, str))  # not a list's places
    said = {
        "missing": " is missing",
        "extra_forbidden": f" is no key of the config{_suggestion(key)}",
    }.get(first["type"])
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if said is None and first["loc"][:2] == ("upload", "headers"):
        said = f": {reason}"  # the value may be a secret
    elif said is None and isinstance(first["input"], dict):
        key, said = reason, ""  # about several keys, which it names itself
    elif said is None:
        value = first["input"]
        said = f" = {masked_url(value) if isinstance(value, str) else value!r}: {reason}"
    place = f" [{origins[key]}]" if key in origins else ""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return ConfigError(f"config: {key}{said}{place}{more}")


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key, known_keys(), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _sections() -> list[str]:
    return [
        name
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]


def known_keys() -> list[str]:
    """Every key path, in the order of the schema."""
    return [key for key, _ in _walk(Settings, None)]


def effective(settings: Settings) -> dict[str, Any]:
    """Key path -> value as in effect (durations in seconds)."""
    return dict(_walk(Settings, settings))


def shown(settings: Settings) -> dict[str, Any]:
    """``effective`` with secrets masked."""
    upload = settings.upload
    return effective(settings) | {
        "upload.url": masked_url(upload.url),
        "upload.headers": masked_headers(upload.headers),
        "page.tiles": masked_url(settings.page.tiles),
    }


def _walk(model: type[BaseModel], values: BaseModel | None) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        value = None if values is None else getattr(values, name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for key, inner in _walk(kind, cast("BaseModel | None", value)):
                yield f"{name}.{key}", inner
        else:
            yield field.alias or name, value
    for name, value in (values.model_extra or {}).items() if values is not None else ():
        yield name, value.model_dump(mode="json", exclude_defaults=True)
