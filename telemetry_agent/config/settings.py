"""The settings: frozen and typed, one class for each section of the file.

Keys in the file have no units (``timeout = "30s"``); the settings have them in their names
(``upload.timeout_s``).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

from telemetry_agent.addresses import bracketed
from telemetry_agent.config import values
from telemetry_agent.config.files import QUEUE_PATH
from telemetry_agent.errors import Advice
from telemetry_agent.fields import FIELDS
from telemetry_agent.secrecy import (
    in_the_clear,
    masked_headers,
    masked_url,
    secret_values,
    secrets_in_url,
)
from telemetry_agent.upload.interfaces import CompressionSetting, FormatName

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema

# Formats use these names themselves, so no attribute may have them, except the name of a field that
# was added later: an older config may use it, and its attribute is still sent.
_TAKEN_NAMES = {field.name for field in FIELDS if not field.since} | set(
    "seq device stream id deviceid timestamp valid location cell wifi bearing heading "  # noqa: SIM905 - a set of words is read as words
    "altitude accuracy sat odometer tst tid topic acc vac vel cog batt bs charge batteryState "
    "battery battery_state battery_level mains device_id horizontal_accuracy vertical_accuracy "
    "driverUniqueId".split()
)


def key_of(field_name: str) -> str:
    """The key in the file: without the unit, which is part of the value there.

    The user's own attributes are beside ``extra.power``, not below a key.
    """
    if field_name == "attributes":
        return ""
    return field_name.removesuffix("_s").removesuffix("_bytes")


class _Section:
    """The pydantic config of each section."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "alias_generator": key_of}


@dataclass(frozen=True)
class GpsSettings(_Section):
    """Where positions come from."""

    source: values.SourceName = "auto"
    baud: values.Baud = "auto"
    on_connect: values.ReceiverCommands = ()

    def __post_init__(self) -> None:
        """Check that commands can be sent to the receiver."""
        if self.on_connect and self.source.startswith(("gpsd:", "udp:", "file:")):
            raise values.SettingError(
                "gps.on_connect",
                f" = {list(self.on_connect)}: {self.source} cannot pass commands to the receiver: "
                "leave it empty",
            )


@dataclass(frozen=True)
class SamplingSettings(_Section):
    """Which positions are recorded."""

    interval_s: values.Duration = 1.0
    distance_m: values.Amount = 0
    turn_deg: values.Turn = 0
    parked_radius_m: values.Amount = 25
    parked_after_s: values.PositiveDuration = 180.0
    heartbeat_s: values.PositiveDuration = 900.0
    max_hdop: values.Amount = 0
    drop_quality: values.Qualities = ()


@dataclass(frozen=True)
class QueueSettings(_Section):
    """Where fixes are stored."""

    path: values.QueuePath = QUEUE_PATH
    commit_every_s: values.Duration = 1.0
    max_size_bytes: values.QueueSize = 256 << 20
    min_free_bytes: values.Size = 64 << 20
    max_age_s: values.Duration = 0.0
    when_full: Literal["thin", "drop-oldest", "stop"] = "thin"
    keep_delivered_s: values.Duration = 30 * 86400.0


@dataclass(frozen=True)
class UploadSettings(_Section):
    """Where fixes go, and how."""

    url: values.Url
    format: FormatName = "native"
    order: Literal["auto", "live-first", "oldest-first"] = "auto"
    max_batch: values.BatchSize = 1000
    flush_every_s: values.Duration = 10.0
    timeout_s: values.PositiveDuration = 30.0
    compression: CompressionSetting = "auto"
    backoff_initial_s: values.PositiveDuration = 1.0
    backoff_max_s: values.PositiveDuration = 120.0
    resume_spread_s: values.Duration = 15.0

    headers: values.Headers = field(default_factory=dict)
    token_file: values.OptionalPath = None
    username: values.UserName = ""
    password_file: values.OptionalPath = None
    ca_file: values.OptionalPath = None
    client_cert: values.OptionalPath = None
    client_key: values.OptionalPath = None
    proxy: values.ProxyUrl = ""
    proxy_password_file: values.OptionalPath = None
    allow_insecure: bool = False
    allow_resend: bool = True

    def __post_init__(self) -> None:
        """Check for one way to log in, for secrets without encryption, and for the precision."""
        ways = [key for key in ("token_file", "username") if getattr(self, key)]
        ways += [f"headers.{name}" for name in self.headers if name.lower() == "authorization"]
        if len(ways) > 1:
            raise values.SettingError(
                f"upload.{ways[0]}", f" and upload.{ways[1]} exclude each other: keep one"
            )
        for key, other in (("password_file", "username"), ("client_key", "client_cert")):
            if getattr(self, key) and not getattr(self, other):
                raise values.SettingError(f"upload.{other}", f" is missing, upload.{key} is set")
        if bool(self.proxy_password_file) != ("@" in self.proxy):
            raise values.SettingError(
                "upload.proxy",
                " = http://USER@HOST:PORT and upload.proxy_password_file belong together: set both "
                "or none",
            )
        shown = self.token_file or self.username or secret_values(self.headers)
        shown = shown or secrets_in_url(self.url)
        if shown and (fault := self.secret_in_the_clear()):
            raise values.SettingError("upload.url", f": {fault}")
        if self.format == "influx":
            asked = parse_qs(urlsplit(self.url).query).get("precision", ["ms"])
            if asked != ["ms"]:
                raise values.SettingError(
                    "upload.url", f" has precision={asked[0]}: leave it out, the agent adds ms"
                )

    def secret_in_the_clear(self) -> str | None:
        """Why a secret may not be sent; ``None`` if it may."""
        host = in_the_clear(self.url, self.proxy if self.url.startswith("http:") else "")
        if host is None or self.allow_insecure:
            return None
        return (
            f"a secret would be sent to {host} unencrypted: use https in upload.url, "
            "or set upload.allow_insecure"
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to: the endpoint's, or the proxy's."""
        parts = urlsplit(self.proxy or self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True)
class ConnectivitySettings(_Section):
    """How the path to the endpoint is watched."""

    probe: values.HostAndPort = None
    probe_every_s: values.PositiveDuration = 30.0


@dataclass(frozen=True)
class PageSettings(_Section):
    """The device page."""

    listen: values.HostAndPort = None
    names: values.PageNames = ()
    token_file: values.OptionalPath = None
    tiles: values.TilesUrl = ""
    tiles_credit: str = ""
    map: values.OptionalPath = None


@dataclass(frozen=True)
class ExtraFile(_Section):
    """One attribute of the user: the content of a file."""

    file: values.FullPath
    scale: values.OptionalNumber = None
    unit: str = ""


_NAME = "[a-z][A-Za-z0-9_]{0,47}"


def _attribute(value: object) -> object:
    if isinstance(value, str):
        return {"file": value}
    if not isinstance(value, dict):
        raise ValueError('must be a file, or {file = "…", scale = …, unit = "…"}')  # noqa: TRY004 - pydantic wants ValueError
    return value


@dataclass(frozen=True)
class ExtraSettings(_Section):
    """The user's own attributes, read at each recorded fix: a file for each name."""

    power: bool = False
    attributes: Mapping[str, Annotated[ExtraFile, values.Checks(_attribute, reads=True)]] = field(
        default_factory=dict
    )

    @property
    def files(self) -> dict[str, ExtraFile]:
        """The files by the names that are sent: name and unit."""
        return {
            f"{name}_{one.unit}" if one.unit else name: one for name, one in self.attributes.items()
        }

    def __post_init__(self) -> None:
        """Check that every server accepts the names."""
        for name in self.files:
            if not re.fullmatch(_NAME, name):
                raise values.SettingError(
                    f"extra.{name}",
                    ": a name (with its unit) is a lower-case letter, then letters, digits and _, "
                    "at most 48",
                )
            if name in _TAKEN_NAMES:
                said = ": this name is already in use: choose another"
                raise values.SettingError(f"extra.{name}", said)
        if len(self.files) < len(self.attributes):
            said = ": two attributes have the same name with their units"
            raise values.SettingError("extra", said)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: "CoreSchema", handler: "GetJsonSchemaHandler"
    ) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        attribute = schema["properties"].pop("")["additionalProperties"]
        return schema | {"additionalProperties": {"anyOf": [{"type": "string"}, attribute]}}


@dataclass(frozen=True)
class LogSettings(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the config can say."""

    device: values.DeviceName
    gps: GpsSettings = GpsSettings()
    sampling: SamplingSettings = SamplingSettings()
    queue: QueueSettings = QueueSettings()
    upload: UploadSettings
    connectivity: ConnectivitySettings = ConnectivitySettings()
    page: PageSettings = PageSettings()
    extra: ExtraSettings = ExtraSettings()
    log: LogSettings = LogSettings()


@dataclass(frozen=True)
class LoadedConfig:
    """The settings, and where they come from."""

    settings: Settings
    texts: Mapping[str, str] = field(default_factory=dict)
    """File -> its text, in the order of reading; empty for the last good config."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Key path such as ``upload.timeout`` -> file or environment variable; absent: default."""
    notes: tuple[str, ...] = ()
    """Harmless settings that are probably mistakes."""
    fault: Advice | None = None
    """Why these are the settings of the last good config."""
    holds_uploads: bool = False
    """The config is readable and wrong. The last good one is in effect, but uploads are held,
    because the new one may name another endpoint."""


def known_keys() -> list[str]:
    """Every key path, in the order of the settings."""
    return [key_of(path) for path in _paths()]


def shown(settings: Settings) -> dict[str, Any]:
    """Key path -> value as in effect, as written in a config file, with secrets masked."""
    found: dict[str, Any] = {}
    for path in _paths():
        value = attrgetter(path)(settings)
        if path.endswith("_s"):
            value = values.DURATION.written(value)
        elif path.endswith("_bytes"):
            value = values.SIZE.written(value)
        elif path in {"page.listen", "connectivity.probe"} and value is not None:
            value = f"{bracketed(value[0])}:{value[1]}"
        found[key_of(path)] = "" if value is None else value
    for name, one in settings.extra.attributes.items():
        parts = {"file": str(one.file), "scale": one.scale, "unit": one.unit or None}
        found[f"extra.{name}"] = {key: value for key, value in parts.items() if value is not None}
    return found | {
        "upload.url": masked_url(settings.upload.url),
        "upload.headers": masked_headers(settings.upload.headers),
        "page.tiles": masked_url(settings.page.tiles),
    }


def _paths() -> Iterator[str]:
    """The attribute path of each setting, without the user's own attributes."""
    for section in fields(Settings):
        if isinstance(section.type, type) and is_dataclass(section.type):
            names = [setting.name for setting in fields(section.type)]
            yield from (f"{section.name}.{name}" for name in names if name != "attributes")
        else:
            yield section.name
