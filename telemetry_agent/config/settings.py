"""The settings: frozen and typed, one class for each section of the file.

Keys in the file are without units (``timeout = "30s"``); the settings carry them in their names
(``upload.timeout_s``), because code has no other way to know.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from telemetry_agent.config.values import (
    Amount,
    Baud,
    Count,
    DeviceName,
    Duration,
    Headers,
    HostAndPort,
    OptionalPath,
    PositiveDuration,
    ProxyUrl,
    QueueSize,
    ReceiverCommand,
    Size,
    SourceName,
    TilesUrl,
    Url,
)
from telemetry_agent.model import Quality
from telemetry_agent.secrecy import in_the_clear, secret_values, secrets_in_url
from telemetry_agent.upload.seams import FormatName

# What a format says itself by these names, no attribute may say.
_TAKEN_NAMES = set(
    "seq time lat lon alt geoid_sep speed course mode quality hdop vdop pdop sats err_h err_v odo "  # noqa: SIM905 - a set of words is read as words
    "flags extra device stream id deviceid timestamp valid location cell wifi bearing heading "
    "altitude accuracy sat odometer tst tid topic acc vac vel cog batt bs charge batteryState "
    "battery battery_state battery_level mains device_id horizontal_accuracy vertical_accuracy "
    "driverUniqueId".split()
)

ENVIRONMENT_PREFIX = "TELEMETRY_AGENT_"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Gps(_Section):
    """Where positions come from."""

    source: SourceName = "auto"
    baud: Baud = "auto"
    on_connect: tuple[ReceiverCommand, ...] = ()

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
    max_size_bytes: QueueSize = Field(256 << 20, alias="max_size")
    min_free_bytes: Size = Field(64 << 20, alias="min_free")
    max_age_s: Duration = Field(0.0, alias="max_age")
    when_full: Literal["thin", "drop-oldest", "stop"] = "thin"
    keep_delivered_s: Duration = Field(86400.0, alias="keep_delivered")


class Upload(_Section):
    """Where fixes go, and how."""

    url: Url
    format: FormatName = "native"
    order: Literal["auto", "live-first", "oldest-first"] = "auto"
    max_batch: Annotated[Count, Field(le=10_000)] = 1000
    flush_every_s: Duration = Field(10.0, alias="flush_every")
    timeout_s: PositiveDuration = Field(30.0, alias="timeout")
    compression: Literal["none", "gzip"] = "gzip"
    backoff_initial_s: PositiveDuration = Field(1.0, alias="backoff_initial")
    backoff_max_s: PositiveDuration = Field(120.0, alias="backoff_max")
    resume_spread_s: Duration = Field(15.0, alias="resume_spread")

    headers: Headers = Field(default_factory=dict)
    token_file: OptionalPath = None
    username: str = ""
    password_file: OptionalPath = None
    ca_file: OptionalPath = None
    client_cert: OptionalPath = None
    client_key: OptionalPath = None
    proxy: ProxyUrl = ""
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
        shown = shown or secrets_in_url(self.url)
        if shown and (fault := self.secret_in_the_clear()):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _leaves_the_precision_to_us(self) -> Self:
        if self.format == "influx":
            asked = parse_qs(urlsplit(self.url).query).get("precision", ["ms"])
            if asked != ["ms"]:
                raise ValueError(
                    f"upload.url asks for precision={asked[0]}: leave it out, the agent sends and "
                    "says ms"
                )
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

    probe: HostAndPort = None
    probe_every_s: PositiveDuration = Field(30.0, alias="probe_every")


class Page(_Section):
    """The device page."""

    listen: HostAndPort = None
    token_file: OptionalPath = None
    tiles: TilesUrl = ""


class ExtraFile(_Section):
    """One attribute of the user's own: what a file says."""

    file: Path
    scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    unit: str = ""

    @model_validator(mode="before")
    @classmethod
    def _may_be_the_file_alone(cls, value: object) -> object:
        if isinstance(value, str):
            return {"file": value}
        if not isinstance(value, dict):
            raise ValueError('must be a file, or {file = "…", scale = …, unit = "…"}')  # noqa: TRY004 - pydantic wants ValueError
        return value

    @field_validator("file")
    @classmethod
    def _is_found_from_anywhere(cls, file: Path) -> Path:
        if not file.is_absolute():
            raise ValueError("must be the full path of a file, such as /sys/…")
        return file


class Extra(_Section):
    """The user's own attributes, read at each recorded fix: a file for each name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ExtraFile]

    power: bool = False

    @property
    def files(self) -> dict[str, ExtraFile]:
        """By the names under which they are sent: a unit joins its name."""
        return {
            f"{name}_{one.unit}" if one.unit else name: one
            for name, one in self.__pydantic_extra__.items()
        }

    @model_validator(mode="after")
    def _has_names_that_every_server_takes(self) -> Self:
        for name in self.files:
            if not re.fullmatch("[a-z][A-Za-z0-9_]{0,47}", name):
                raise ValueError(
                    f"extra.{name}: a name (with its unit) is a small letter, then letters, digits "
                    "and _, at most 48"
                )
            if name in _TAKEN_NAMES:
                raise ValueError(f"extra.{name}: this name has a meaning already: choose another")
        if len(self.files) < len(self.__pydantic_extra__):
            raise ValueError("extra: two attributes have one name with their units")
        return self


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

    device: DeviceName = "{hostname}"
    gps: Gps
    sampling: Sampling
    queue: Queue
    upload: Upload
    connectivity: Connectivity
    page: Page
    extra: Extra
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
