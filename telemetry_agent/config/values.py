"""The types of config values: each checks a text or number as the user wrote it.

A ValueError says what is allowed; the loader adds the key and the value. Types have their rules as
``Checks``, which pydantic calls but which does not import it: the daemon uses the types without
pydantic.
"""

import math
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from telemetry_agent.config.files import QUEUE_PATH_ALLOWED, QUEUE_PATH_FORM
from telemetry_agent.gnss.sources.on_connect import command_bytes
from telemetry_agent.gnss.sources.protocols import BAUD_RATES
from telemetry_agent.gnss.sources.sockets import UdpOptions
from telemetry_agent.model import Quality
from telemetry_agent.small_files import text_of

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema


class SettingError(ValueError):
    """Two settings contradict each other; ``key`` is that of the wrong value."""

    def __init__(self, key: str, said: str) -> None:
        super().__init__(key + said)
        self.key = key
        self.said = said
        """What follows the key in the message."""


@dataclass(frozen=True)
class Checks:
    """What a value must be; a ValueError says what is allowed.

    Args:
        check: returns the value to use.
        reads: whether it gets the value as written in the config, before the type checks it.
        schema: the JSON Schema; that of the type by default.
    """

    check: Callable[[Any], object]
    reads: bool = False
    schema: Mapping[str, Any] | None = None

    def __get_pydantic_core_schema__(
        self, source: object, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        from pydantic_core import core_schema  # noqa: PLC0415

        if self.reads:
            return core_schema.no_info_before_validator_function(self.check, handler(source))
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, core: "CoreSchema", handler: "GetJsonSchemaHandler"
    ) -> dict[str, Any]:
        return handler(core) if self.schema is None else dict(self.schema)


def text(pattern: str, allowed: str, read: Callable[[str], object] = str) -> Checks:
    """A check of texts of one form, also in the schema; ``read`` makes the value of one."""

    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"must {allowed}")
        return read(value)

    return Checks(check, reads=True, schema={"type": "string", "pattern": f"^(?:{pattern})$"})


_LARGEST = 10**15 - 1
"""A number or text with at most 15 digits does not overflow."""


@dataclass(frozen=True)
class _Quantity:
    """A number in these limits; or a text of one, with a unit if there are any."""

    allowed: str
    kind: type[float] | type[int]
    units: dict[str, float] = field(default_factory=dict)
    """The smallest first."""
    least: float = 0
    most: float = math.inf

    @property
    def pattern(self) -> str:
        digits = "[0-9]{1,15}" if self.kind is int else r"[0-9]{1,15}(?:\.[0-9]+)?"
        sign = "-?" if self.least < 0 else ""
        return rf"\s*({sign}{digits})\s*({'|'.join(self.units)})?\s*"

    def read(self, value: Any) -> Any:
        """The number; raises ValueError."""
        number = math.nan
        if isinstance(value, str) and (match := re.fullmatch(self.pattern, value)):
            number = self.kind(match[1]) * self.units.get(match[2], 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            number = value if abs(value) <= _LARGEST else math.nan
        if self.least <= number <= self.most and number == self.kind(number):
            return self.kind(number)
        raise ValueError(f"must be {self.allowed}")

    def written(self, number: float) -> object:
        """As in the config, with the largest unit that makes it a whole number."""
        for unit, size in reversed(self.units.items()):
            if number and math.isclose(number / size, round(number / size), rel_tol=1e-15):
                return f"{round(number / size)}{unit}"
        return f"{number:g}s" if self.kind is float else number

    def checks(self) -> Checks:
        """The checks of a key."""
        number = {
            "type": "number" if self.kind is float else "integer",
            "minimum": max(self.least, -_LARGEST),
            "maximum": min(self.most, _LARGEST),
        }
        text = {"type": "string", "pattern": f"^{self.pattern}$"}
        return Checks(self.read, reads=True, schema={"anyOf": [number, text]})


DURATION = _Quantity(
    'a duration such as "250ms", "30s", "5min", "2h", "7d", or a number of seconds',
    float,
    {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
)
Duration = Annotated[float, DURATION.checks()]
_LONGER = replace(DURATION, allowed=f"{DURATION.allowed}, and longer than 0", least=1e-9)
PositiveDuration = Annotated[float, _LONGER.checks()]

SIZE = _Quantity(
    'a size such as "512KiB", "64MiB", "2GiB", or a number of bytes',
    int,
    {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30},
)
Size = Annotated[int, SIZE.checks()]
_LARGE = replace(SIZE, allowed=f"{SIZE.allowed}, and at least 1MiB", least=1 << 20)
QueueSize = Annotated[int, _LARGE.checks()]


OptionalNumber = Annotated[float | None, _Quantity("a number", float, least=-math.inf).checks()]
Amount = Annotated[float, _Quantity("a number, 0 or more", float).checks()]
Turn = Annotated[float, _Quantity("a number from 0 to 180", float, most=180).checks()]
_BATCH = _Quantity("a whole number from 1 to 10000", int, least=1, most=10_000)
BatchSize = Annotated[int, _BATCH.checks()]

SERIAL_NUMBER = Path("/sys/firmware/devicetree/base/serial-number")


def _machine_fact(name: str) -> str:
    """The value of a placeholder in ``device``."""
    if name == "hostname":
        return socket.gethostname() or "localhost"  # the machine has none
    sources = {
        "serial": (SERIAL_NUMBER,),
        "machine-id": (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")),
    }
    for path in sources[name]:
        if text := text_of(path):
            return text
    raise ValueError(f"this machine has no {name}: use another placeholder, or a name")


SHARED_NAMES = {
    *("(none)", "localhost", "raspberrypi", "raspberry", "pi", "debian", "ubuntu", "dietpi"),
    *("armbian", "orangepi", "beaglebone", "buildroot", "openwrt"),
}
"""Host names that an image brings, and its next copy as well."""


def _device_name(value: str) -> str:
    if unknown := re.search(r"\{(?!(?:hostname|serial|machine-id)\})[^}]*\}?", value):
        raise ValueError(f"{unknown[0]} is not one of {{hostname}}, {{serial}}, {{machine-id}}")
    name = re.sub(r"\{([^}]+)\}", lambda match: _machine_fact(match[1]), value).strip()
    if not name:
        raise ValueError("must not be empty")
    if len(name) > 128 or not (value + name).isprintable():
        raise ValueError("must be at most 128 printable characters")
    return name


DeviceName = Annotated[str, Checks(_device_name)]

UserName = Annotated[
    str,
    text(
        r"[^:\x00-\x1f\x7f-\x9f]*",
        "be a text in quotation marks, without colons and control characters",
    ),
]
OptionalPath = Annotated[
    Path | None,
    text(
        r"[^\x00]*",
        "be a path in quotation marks, without NUL",
        lambda value: Path(value) if value else None,
    ),
]
FullPath = Annotated[
    Path, text(r"/[^\x00]*", "be the full path of a file, such as /sys/…, without NUL", Path)
]
QueuePath = Annotated[Path, text(QUEUE_PATH_FORM, QUEUE_PATH_ALLOWED, Path)]

_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"(?:\[[^\]/?#@\s\x00]+\]|[^\[\]/?#@:\s\x00]+)"
# gpsd has a default port; for UDP the host is an address of this machine, by default all.
_SOURCE = (
    rf"auto|(?:file://)?/(?:[^\n\x00]*[^\s\x00])|gpsd://{_HOST}(?::{_PORT})?|tcp://{_HOST}:{_PORT}"
    rf"|udp://{_HOST}?:{_PORT}(?:\?[^#\s]+)?"
)
_SOURCES = (
    "be auto, a device such as /dev/serial/by-id/…, gpsd://HOST:PORT, tcp://HOST:PORT, "
    "udp://:PORT (also ?from=ADDRESS&interface=NAME), or file:///PATH to replay a recording; "
    "a PORT is 1 to 65535"
)


def _source(value: str) -> str:
    parts = urlsplit(value)  # refuses more hosts
    if parts.scheme == "udp":
        UdpOptions.read(parts.query)
    return value


SourceName = Annotated[str, text(_SOURCE, _SOURCES, _source)]


def _baud(value: object) -> object:
    if isinstance(value, str) and value in map(str, BAUD_RATES):
        value = int(value)  # in quotes, or from the environment
    if value != "auto" and (isinstance(value, bool) or value not in BAUD_RATES):
        raise ValueError(f'must be "auto" or one of {", ".join(map(str, sorted(BAUD_RATES)))}')
    return value


_BAUDS = {"enum": ["auto", *sorted(BAUD_RATES), *map(str, sorted(BAUD_RATES))]}
Baud = Annotated[int | Literal["auto"], Checks(_baud, reads=True, schema=_BAUDS)]


def _command(value: str) -> str:
    command_bytes(value)
    return value


ReceiverCommands = tuple[Annotated[str, Checks(_command)], ...]
Qualities = tuple[Quality, ...]


_URL_MAX = 8192


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
        if "[" in parts.netloc:
            IPv6Address(parts.hostname or "")
    except ValueError as error:
        said = str(error)
        is_port = said.startswith("Port")
        said = "its port must be a number up to 65535" if is_port else said
        raise ValueError(f"must be a URL: {said}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("must be a URL such as https://example.com/v1/fixes")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain a user name or password")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(
            "must be plain ASCII without spaces (a host as xn--…; percent-encode the rest)"
        )
    if len(value) >= _URL_MAX:
        raise ValueError(f"must be shorter than {_URL_MAX} characters")
    return value


def _proxy(value: str) -> str:
    if not value:
        return value
    user, at, _ = value.removeprefix("http://").rpartition("@")
    if ":" in user:
        raise ValueError("must not contain a password: use upload.proxy_password_file")
    parts = urlsplit(_url(value.replace(f"{user}@", "", 1) if at else value))
    if parts.scheme != "http" or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must be http://HOST:PORT or http://USER@HOST:PORT")
    return f"http://{user}{at}{parts.netloc}"


Url = Annotated[str, Checks(_url)]
ProxyUrl = Annotated[str, Checks(_proxy)]


_EACH = "".join(rf"(?=[^?#]*\{{{name}\}})" for name in "zxy")
_TILES = rf"(?:{_EACH}[Hh][Tt][Tt][Pp][Ss]?://(?:[^{{}}]|\{{[sxyzr]\}})+)?"
_TILES_ALLOWED = "be like https://tiles.example.com/{z}/{x}/{y}.png; {s} and {r} are possible too"
TilesUrl = Annotated[str, text(_TILES, _TILES_ALLOWED, lambda value: value and _url(value))]

_PAGE_NAME = rf"[0-9A-Za-z](?:[-.0-9A-Za-z]*[0-9A-Za-z])?(?::{_PORT})?"
_PAGE_NAME_ALLOWED = 'be a host name, or host:port, such as "van-07.example.com"'
PageNames = tuple[Annotated[str, text(_PAGE_NAME, _PAGE_NAME_ALLOWED, str.lower)], ...]


_HEADER_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_OUR_HEADERS = {
    *("accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
    *("expect", "host", "idempotency-key", "te", "trailer", "transfer-encoding", "upgrade"),
}


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a header name")
        if name.lower() in _OUR_HEADERS:
            raise ValueError(f"{name} is set by the agent itself")
        if not value.isprintable() or value != value.strip():
            raise ValueError(f"{name} must be printable, without spaces at its ends")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("a header may be given only once")
    return headers


Headers = Annotated[dict[str, str], Checks(_headers)]


def _host_and_port(value: str) -> tuple[str, int] | None:
    host, _, port = value.rpartition(":")
    return (host.strip("[]"), int(port)) if value else None


_HOST_AND_PORT = text(
    rf"(?:(?:{_HOST}|[0-9A-Fa-f:.]*:[^\[\]/?#@\s\x00]*):{_PORT})?",  # also ::1 without brackets
    'be host:port, such as "127.0.0.1:8077" or "[::1]:8077", with a port from 1 to 65535',
    _host_and_port,
)
HostAndPort = Annotated[tuple[str, int] | None, _HOST_AND_PORT]
