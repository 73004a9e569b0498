"""From the layers of the config to the settings.

Later layers win: defaults, the config file, ``config.d/*.toml`` beside it in the order of their
names, environment variables (``TELEMETRY_AGENT_UPLOAD__URL``). An unknown key or an invalid value
is a ConfigError that names the full path of the key, the value, what is allowed, and its layer.
"""

import difflib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from telemetry_agent.config.files import DEFAULT_PATHS, ENVIRONMENT_PREFIX, merge, parsed, texts
from telemetry_agent.config.settings import LoadedConfig, Settings, known_keys
from telemetry_agent.config.values import SHARED_NAMES, SettingError
from telemetry_agent.errors import ConfigError, UnreadableConfigError, ask_for_memory, in_shell
from telemetry_agent.secrecy import CUT, credential, masked_url

ask_for_memory(22_000_000)  # for pydantic, which aborts the process if it gets none

from pydantic import ValidationError, create_model  # noqa: E402
from pydantic_settings import (  # noqa: E402
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)


def _attributes_below(section: object) -> object:
    """Move the attributes of ``[extra]`` below the key ``""``; ``power`` stays."""
    if not isinstance(section, dict):
        return section
    power = {key: value for key, value in section.items() if key == "power"}
    return power | {"": {key: value for key, value in section.items() if key != "power"}}


class _Layers(BaseSettings):
    model_config = SettingsConfigDict(title="Settings", extra="forbid", validate_default=True)

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # by their names
        cls, settings_cls: type[BaseSettings], **known: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls
        return (known["init_settings"],)  # its own source would take more names of variables


def _model() -> type[BaseSettings]:
    """A model of the whole config.

    A section has no default there: the loader always gives it, at least empty, so that a missing
    value is reported with its key and not with its section.
    """
    hints = get_type_hints(Settings, include_extras=True)
    sections: dict[str, Any] = {key: (hint, ...) for key, hint in hints.items()}
    sections["device"] = (hints["device"], "{hostname}")
    return create_model("Settings", __base__=_Layers, __doc__=Settings.__doc__, **sections)


_MODEL = _model()
_KINDS = {
    "string": "must be a text in quotation marks",
    "bool": "must be true or false",
    "tuple": 'must be a list, ["…"] (in an environment variable: as JSON)',
    "dict": 'must be a table, {NAME = "…"} (in an environment variable: as JSON)',
}
"""The beginning of pydantic's name of a fault -> what is allowed."""


def load(path: Path | None = None) -> LoadedConfig:
    """Read every layer.

    Args:
        path: the config file; ``None`` looks at ``DEFAULT_PATHS``. Without any file the environment
            may have the whole config.

    Raises:
        UnreadableConfigError: there is no config, it is empty, or not TOML.
        ConfigError: an unknown key, a bad value.
        ResourceError: an existing file cannot be read.
    """
    return load_texts(texts(path))


def _container_names() -> set[str]:
    """The name that Docker or Podman gives a container, if nobody has named this one."""
    name = socket.gethostname()
    in_container = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    return {name} if in_container and re.fullmatch("[0-9a-f]{12}", name) else set()


def load_texts(
    files: Mapping[str, str], environment: Mapping[str, str] = os.environ
) -> LoadedConfig:
    """The settings of these files, by their names, and of the environment.

    Raises:
        UnreadableConfigError: they have no key, or one is not TOML.
        ConfigError: an unknown key, a bad value.
    """
    values: dict[str, Any] = {
        section.name: {} for section in fields(Settings) if is_dataclass(section.type)
    }
    origins: dict[str, str] = {}
    for file, text in files.items():
        layer = parsed(file, text)
        origins |= dict.fromkeys(_leaves(layer), file)
        merge(layer, into=values)
    layer, from_environment, notes = _environment_layer(environment)
    merge(layer, into=values)
    origins |= from_environment
    if not origins:
        first = Path(next(iter(files), DEFAULT_PATHS[0]))
        remedy = "`sudo telemetry-agent init` writes one"
        if first not in DEFAULT_PATHS:
            remedy = f"`telemetry-agent init --config {in_shell(first)}` writes one"
        raise UnreadableConfigError(f"the config {' and '.join(files)} is empty", remedy)
    # pydantic-settings takes [Queue] for [queue] or drops it, and _env_file for its own option.
    for key in sorted(values.keys() - _MODEL.model_fields.keys()):
        raise ConfigError(f"config: {key}{_not_a_key(key)}{_layer(key, origins)}")
    values["extra"] = _attributes_below(values["extra"])
    try:
        settings = Settings(**dict(_MODEL(**values)))
    except ValidationError as error:
        raise _explained(error, origins) from None
    if settings.device.lower() in SHARED_NAMES:
        notes.append(
            f"the device is called {settings.device}, as many others are, and an endpoint cannot "
            'tell them apart: set device = "…", or change the hostname'
        )
    if settings.device in _container_names():
        notes.append(
            f"the device is called {settings.device}, the id of this container, and the next one "
            'has another: set device = "…", or the hostname of the container'
        )
    names = {name.lower() for name in settings.upload.headers}
    if "authorization" in names and (token := credential("token")) is not None:
        notes.append(
            f"the credential {token} is sent, and not the Authorization header of upload.headers: "
            "remove one of them"
        )
    return LoadedConfig(settings, files, origins, tuple(notes))


def _leaves(layer: Mapping[str, Any]) -> Iterator[str]:
    for table, value in layer.items():
        yield from (f"{table}.{key}" for key in value) if isinstance(value, dict) else (table,)


def _environment_layer(
    environment: Mapping[str, str],
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The layer of the environment, the origins of its keys, and notes on unknown variables."""
    layer: dict[str, Any] = {}
    origins, notes = {}, []
    known = [ENVIRONMENT_PREFIX + key.upper().replace(".", "__") for key in known_keys()]
    for name, value in sorted(environment.items()):
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        if not name.isupper() or not section or bool(key) == (section == "device"):
            close = difflib.get_close_matches(name.upper(), known, n=1)
            suggestion = f"; did you mean {close[0]}?" if close else ""
            notes.append(
                f"the environment variable {name} is unknown and has no effect{suggestion}"
            )
        else:
            origins[f"{section}.{key}" if key else section] = f"environment variable {name}"
            found: object = value
            with suppress(ValueError, RecursionError):  # a table or a list
                found = held if isinstance(held := json.loads(value), dict | list) else value
            merge({section: {key: found} if key else found}, into=layer)
    return layer, origins, notes


def _explained(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    """One line: the first fault in full, and the number of others.

    A misspelt key comes before a missing one, because it is often the same key.
    """
    first, *others = sorted(error.errors(), key=lambda fault: fault["type"] == "missing")
    kind, value, place = first["type"], first["input"], first["loc"]
    key = ".".join(part for part in place if part and isinstance(part, str))  # no list positions
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    reason = _KINDS.get(kind.partition("_")[0], reason)
    if kind == "dataclass_type":
        reason = f"must be a table, [{key}]"
    if key == "upload.format":
        reason += "; `sudo telemetry-agent init` knows the format of each kind of server"
    if kind == "missing":
        text = f" is missing: set it below [{key.rpartition('.')[0]}]"
    elif kind == "unexpected_keyword_argument":
        text = _not_a_key(key)
    elif place[:2] == ("upload", "headers") or (isinstance(value, dict) and key in known_keys()):
        text = f": {reason}"  # the value may be a secret
    elif isinstance(fault := first.get("ctx", {}).get("error"), SettingError):
        key, text = fault.key, fault.said
    else:
        text = repr(masked_url(value) if isinstance(value, str) else value)
        text = f" = {text if len(text) < 100 else text[:80] + CUT}: {reason}"
    more = f" (and {len(others)} more)" if others else ""
    return ConfigError(f"config: {key}{text}{_layer(key, origins)}{more}")


def _layer(key: str, origins: Mapping[str, str]) -> str:
    # Only keys have one: an unknown table has that of a key in it, a part of a value its key's.
    pairs = ((f"{one}.", f"{key}.", origin) for one, origin in origins.items())
    near = next((o for a, b, o in pairs if a.startswith(b) or b.startswith(a)), "")
    origin = origins.get(key, near)
    return f" [{origin}]" if origin else ""


def _not_a_key(key: str) -> str:
    known, (table, _, name) = known_keys(), key.rpartition(".")
    close = [one for one in known if one.endswith(f".{name}")]  # the right key in another table
    if not close and name == key:
        near = difflib.get_close_matches(key.lower(), _MODEL.model_fields, n=1)
        close = [one if one in known else f"[{one}]" for one in near]
    for keys, cutoff in ([one for one in known if one.startswith(f"{table}.")], 0.6), (known, 0.8):
        names = {one.rpartition(".")[2]: one for one in keys}
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=cutoff)
        close = close or [names[one] for one in near]
    suggestion = f"; did you mean {' or '.join(close)}?" if close else ""
    return f" is not a key of the config{suggestion}"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the config. Only [upload] has a key without a default."""
    return _MODEL.model_json_schema() | {"required": ["upload"]}
