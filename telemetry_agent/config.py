"""The settings: strict, frozen, typed; read once.

Layers, later ones win: defaults, the config file, ``config.d/*.toml`` beside it in the order of
their names, environment variables (``TELEMETRY_AGENT_UPLOAD__URL``). An unknown key or a bad value
is a ConfigError that names the key's full path, the value, what is allowed, and the layer it came
from. Keys in the file are without units (``timeout = "30s"``); the settings carry them in their
names (``upload.timeout_s``), because code has no other way to know.
"""

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import WithJsonSchema
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from telemetry_agent.errors import ConfigError
from telemetry_agent.gnss.sources.baud import BAUD_RATES
from telemetry_agent.gnss.sources.commands import command_bytes
from telemetry_agent.model import Quality
from telemetry_agent.secrecy import in_the_clear, masked_headers, masked_url, secret_values

DEFAULT_PATHS = (Path("/etc/telemetry-agent/config.toml"), Path("config.toml"))
ENVIRONMENT_PREFIX = "TELEMETRY_AGENT_"

_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_ALLOWED = 'a duration such as "250ms", "30s", "5min", "2h", "7d", or a number of seconds'
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)?")


def duration_s(value: object) -> float:
    """Seconds of ``"250ms"``, ``"5min"``, ``3`` and so on.

    Raises:
        ValueError: it is no duration.
    """
    match = _DURATION.fullmatch(str(value).strip())
    if isinstance(value, bool) or match is None:
        raise ValueError(f"must be {_DURATION_ALLOWED}")
    return float(match[1]) * _DURATION_UNITS_S[match[2] or "s"]


def _positive_s(value: float) -> float:
    if value <= 0:
        raise ValueError("must be longer than 0")
    return value


_DurationSchema = WithJsonSchema(
    {
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": rf"^{_DURATION.pattern}$"},
        ]
    }
)
Duration = Annotated[float, BeforeValidator(duration_s), _DurationSchema]
PositiveDuration = Annotated[Duration, AfterValidator(_positive_s)]


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic wants ValueError
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic wants ValueError
    return value


Amount = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_not_bool), Field(ge=1)]


def _machine_fact(name: str) -> str:
    """The value of a placeholder in ``device``."""
    if name == "hostname":
        return socket.gethostname()
    sources = {
        "serial": (Path("/sys/firmware/devicetree/base/serial-number"),),
        "machine-id": (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")),
    }
    for path in sources[name]:
        try:
            if text := path.read_text("ascii", "ignore").strip("\0\n "):
                return text
        except OSError:
            continue
    raise ValueError(f"this machine has no {name}: use another placeholder, or a name")


def _device_name(value: str) -> str:
    if unknown := re.search(r"\{(?!(?:hostname|serial|machine-id)\})[^}]*\}?", value):
        raise ValueError(f"{unknown[0]} is not one of {{hostname}}, {{serial}}, {{machine-id}}")
    name = re.sub(r"\{([^}]+)\}", lambda match: _machine_fact(match[1]), value).strip()
    if name.lower() in {"", "localhost", "raspberrypi"}:
        raise ValueError(
            f"the name {name!r} would be shared by many devices: "
            'set device = "…" or change the hostname'
        )
    if len(name) > 128 or not name.isprintable():
        raise ValueError("must be at most 128 printable characters")
    return name


_SOURCES = (
    "auto, a device such as /dev/serial/by-id/…, gpsd://HOST:PORT, tcp://HOST:PORT, "
    "udp://:PORT, or file:///PATH to replay a recording"
)


def _source(value: str) -> str:
    kind, scheme, rest = value.partition("://")
    if value == "auto" or (value.startswith("/") and len(value) > 1):
        return value
    if kind == "file" and len(rest) > 1 and rest.startswith("/"):
        return value
    if scheme and kind in {"gpsd", "tcp", "udp"}:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"must be {kind}://HOST:PORT: {error}") from None
        # gpsd has a port of its own; for UDP the host is our own address, all of them without.
        whole = parts.netloc and (port or kind == "gpsd") and (parts.hostname or kind == "udp")
        if whole and port != 0 and "@" not in value and value == f"{kind}://{parts.netloc}":
            return value
    raise ValueError(f"must be {_SOURCES}")


def _baud(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)  # as the environment has it
    if value != "auto" and (isinstance(value, bool) or value not in BAUD_RATES):
        raise ValueError(f'must be "auto" or one of {", ".join(map(str, sorted(BAUD_RATES)))}')
    return value


def _command(value: str) -> str:
    command_bytes(value)
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"must be a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("must be a URL such as https://example.com/v1/fixes")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user name or password")
    if not value.isascii() or any(character.isspace() for character in value):
        raise ValueError("must be plain ASCII without spaces (percent-encode the rest)")
    return value


def _proxy(value: str) -> str:
    if not value:
        return value
    parts = urlsplit(_url(value))
    if parts.scheme != "http" or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must be http://HOST:PORT")
    return f"http://{parts.netloc}"


_HEADER_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_OUR_HEADERS = {
    *("accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
    *("expect", "host", "idempotency-key", "te", "trailer", "transfer-encoding", "upgrade"),
}


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header")
        if name.lower() in _OUR_HEADERS:
            raise ValueError(f"{name} is set by the agent itself")
        if not value.isprintable() or value != value.strip():
            raise ValueError(f"{name} must be printable, without spaces at its ends")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("each header may be there once")
    return headers


def _host_and_port(value: object) -> tuple[str, int] | None:
    """``"host:port"``, ``"[::1]:port"``; nothing for an empty text."""
    if not value:
        return None
    host, _, port = str(value).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError('must be host:port, such as "example.com:443" or "[2001:db8::1]:443"')
    return host.strip("[]"), int(port)


_TextSchema = WithJsonSchema({"type": "string"})
OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: value or None), _TextSchema]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Gps(_Section):
    """Where positions come from."""

    source: Annotated[str, AfterValidator(_source)] = "auto"
    baud: Annotated[int | Literal["auto"], BeforeValidator(_baud)] = "auto"
    on_connect: tuple[Annotated[str, AfterValidator(_command)], ...] = ()

    @field_validator("on_connect")
    @classmethod
    def _has_a_way_to_the_receiver(
        cls, commands: tuple[str, ...], info: ValidationInfo
    ) -> tuple[str, ...]:
        source = str(info.data.get("source"))
        if commands and source.startswith(("gpsd:", "udp:", "file:")):
            raise ValueError(f"nothing can be sent by way of {source}: leave it empty")
        return commands


class Sampling(_Section):
    """Which positions are recorded."""

    interval_s: Duration = Field(1.0, alias="interval")
    distance_m: Amount = 0
    turn_deg: Annotated[Amount, Field(le=180)] = 0
    parked_radius_m: Amount = 25
    parked_after_s: PositiveDuration = Field(180.0, alias="parked_after")
    heartbeat_s: PositiveDuration = Field(900.0, alias="heartbeat")
    max_hdop: Amount = 0
    drop_quality: tuple[Quality, ...] = ()


class Queue(_Section):
    """Where fixes wait."""

    path: Path = Path("/var/lib/telemetry-agent/queue.db")
    commit_every_s: Duration = Field(1.0, alias="commit_every")
    keep_delivered_s: Duration = Field(86400.0, alias="keep_delivered")


class Upload(_Section):
    """Where fixes go, and how."""

    url: Annotated[str, AfterValidator(_url)]
    format: Literal["native"] = "native"
    order: Literal["auto", "live-first", "oldest-first"] = "auto"
    max_batch: Annotated[Count, Field(le=10_000)] = 1000
    flush_every_s: Duration = Field(10.0, alias="flush_every")
    timeout_s: PositiveDuration = Field(30.0, alias="timeout")
    compression: Literal["none", "gzip"] = "gzip"
    backoff_initial_s: PositiveDuration = Field(1.0, alias="backoff_initial")
    backoff_max_s: PositiveDuration = Field(300.0, alias="backoff_max")
    resume_spread_s: Duration = Field(2.0, alias="resume_spread")

    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(default_factory=dict)
    token_file: OptionalPath = None
    username: str = ""
    password_file: OptionalPath = None
    ca_file: OptionalPath = None
    client_cert: OptionalPath = None
    client_key: OptionalPath = None
    proxy: Annotated[str, AfterValidator(_proxy)] = ""
    allow_insecure: bool = False

    @model_validator(mode="after")
    def _has_one_identity_and_keeps_it(self) -> Self:
        ways = [key for key in ("token_file", "username") if getattr(self, key)]
        ways += [f"headers.{name}" for name in self.headers if name.lower() == "authorization"]
        if len(ways) > 1:
            raise ValueError(f"upload.{ways[0]} and upload.{ways[1]} exclude each other: keep one")
        if ":" in self.username or not self.username.isprintable():
            raise ValueError("upload.username must be printable, without a colon")
        for key, other in (("password_file", "username"), ("client_key", "client_cert")):
            if getattr(self, key) and not getattr(self, other):
                raise ValueError(f"upload.{other} is missing, upload.{key} is set")
        shown = self.token_file or self.username or secret_values(self.headers)
        if shown and (fault := self.secret_in_the_clear()):
            raise ValueError(fault)
        return self

    def secret_in_the_clear(self) -> str | None:
        """Why no secret may be sent; ``None``: it may."""
        host = in_the_clear(self.url, self.proxy if self.url.startswith("http:") else "")
        if host is None or self.allow_insecure:
            return None
        return (
            f"a secret would be sent to {host} unencrypted: use https in upload.url, "
            "or set upload.allow_insecure"
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that connections are made to: the endpoint's, or the proxy's."""
        parts = urlsplit(self.proxy or self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


class Connectivity(_Section):
    """How the way to the endpoint is watched."""

    probe: Annotated[tuple[str, int] | None, BeforeValidator(_host_and_port), _TextSchema] = None
    probe_every_s: PositiveDuration = Field(30.0, alias="probe_every")


class Log(_Section):
    """What is said, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json"] = "auto"


class Settings(BaseSettings):
    """Everything the config can say."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
    )

    device: Annotated[str, AfterValidator(_device_name)] = "{hostname}"
    gps: Gps
    sampling: Sampling
    queue: Queue
    upload: Upload
    connectivity: Connectivity
    log: Log

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the files, which come as ``init_settings``."""
        return env_settings, init_settings


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
            "copy config.example.toml to one of them, or name a file with --config"
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
