"""The types of config values: each checks a text or number as the user wrote it.

A ValueError says what is allowed; the loader adds the key and the value. Types have their rules as
``Checks``, which pydantic calls but which does not import it: the daemon uses the types without
pydantic.
"""

import math
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from telemetry_agent.gnss.sources.on_connect import command_bytes
from telemetry_agent.gnss.sources.protocols import BAUD_RATES
from telemetry_agent.gnss.sources.sockets import UdpOptions
from telemetry_agent.model import Quality
from telemetry_agent.small_files import text_of

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Checks:
    """What a value must be; a ValueError says what is allowed.

    Args:
        check: returns the value to use.
        schema: what it adds to the type's JSON Schema.
        reads: whether it gets the value as written in the config, before the type checks it;
            ``schema`` is then the whole schema.
    """

    check: Callable[[Any], object]
    schema: Mapping[str, Any] | None = None
    reads: bool = False

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
        if self.reads and self.schema is not None:
            return dict(self.schema)
        return {**handler(core), **(self.schema or {})}


def must(allowed: str, is_right: Callable[[Any], object], **schema: Any) -> Checks:
    """A check that keeps the value; ``allowed`` ends the sentence "It must …"."""

    def check(value: Any) -> Any:
        if not is_right(value):
            raise ValueError(f"must {allowed}")
        return value

    return Checks(check, schema or None)


def _schema(number: str, text: re.Pattern[str]) -> dict[str, Any]:
    """Of a quantity: a number, or a text with a unit."""
    texts = {"type": "string", "pattern": f"^{text.pattern}$"}
    return {"anyOf": [{"type": number, "minimum": 0}, texts]}


_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_ALLOWED = 'a duration such as "250ms", "30s", "5min", "2h", "7d", or a number of seconds'
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h|d)?")


def duration_s(value: object) -> float:
    """Seconds of ``"250ms"``, ``"5min"``, ``3`` and so on.

    Raises:
        ValueError: it is not a duration.
    """
    match = _DURATION.fullmatch(str(value).strip())
    seconds = float(match[1]) * _DURATION_UNITS_S[match[2] or "s"] if match else math.inf
    if isinstance(value, bool) or math.isinf(seconds):  # of 309 digits
        raise ValueError(f"must be {_DURATION_ALLOWED}")
    return seconds


def duration_text(seconds: float) -> str:
    """As written in the config: ``250ms``, ``30s``, ``5min``."""
    for unit, unit_s in reversed(_DURATION_UNITS_S.items()):
        if seconds >= unit_s and math.isclose(seconds / unit_s, round(seconds / unit_s)):
            return f"{round(seconds / unit_s)}{unit}"
    return f"{seconds:g}s"


Duration = Annotated[float, Checks(duration_s, _schema("number", _DURATION), reads=True)]
_NONE = {"type": "string", "pattern": r"^[0.]+\s*[a-z]*$"}
_LONGER = must("be longer than 0", lambda s: s > 0, **{"not": {"anyOf": [{"const": 0}, _NONE]}})
PositiveDuration = Annotated[Duration, _LONGER]


_SIZE_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"([0-9]+)\s*(KiB|MiB|GiB)?")


def _size_bytes(value: object) -> int:
    match = _SIZE.fullmatch(str(value).strip())
    if isinstance(value, bool) or match is None:
        raise ValueError('must be a size such as "512KiB", "64MiB", "2GiB", or a number of bytes')
    return int(match[1]) * _SIZE_UNITS.get(match[2], 1)


def size_text(count: int) -> object:
    """As written in the config: ``64MiB``; a number if no unit fits."""
    for unit, unit_bytes in reversed(_SIZE_UNITS.items()):
        if count and count % unit_bytes == 0:
            return f"{count // unit_bytes}{unit}"
    return count


Size = Annotated[int, Checks(_size_bytes, _schema("integer", _SIZE), reads=True)]
_SMALL = [
    {"type": "integer", "exclusiveMaximum": 1 << 20},
    {"type": "string", "pattern": r"^([0-9]{1,6}|[0-9]{1,3}\s*KiB|0+\s*[MG]iB)$"},
]
_LARGE = must("be at least 1MiB", lambda size: size >= 1 << 20, **{"not": {"anyOf": _SMALL}})
QueueSize = Annotated[Size, _LARGE]


def _at_least(least: int) -> Checks:
    return must(f"be at least {least}", lambda value: value >= least, minimum=least)


def _at_most(most: int) -> Checks:
    return must(f"be at most {most}", lambda value: value <= most, maximum=most)


_NOT_BOOL = replace(must("be a number", lambda value: not isinstance(value, bool)), reads=True)
Number = Annotated[float, _NOT_BOOL]
Amount = Annotated[Number, _at_least(0)]
Turn = Annotated[Number, _at_least(0), _at_most(180)]
BatchSize = Annotated[int, _NOT_BOOL, _at_least(1), _at_most(10_000)]


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
    if len(name) > 128 or not name.isprintable():
        raise ValueError("must be at most 128 printable characters")
    return name


_DEVICE = r"^(?=.*\S)([^{\x00-\x1f]|\{(hostname|serial|machine-id)\})*$"
DeviceName = Annotated[str, Checks(_device_name, {"pattern": _DEVICE})]

_SOURCES = (
    "auto, a device such as /dev/serial/by-id/…, gpsd://HOST:PORT, tcp://HOST:PORT, "
    "udp://:PORT (also ?from=ADDRESS&interface=NAME), or file:///PATH to replay a recording"
)


_NO_NUL = must("not contain NUL", lambda value: "\0" not in str(value))
FilePath = Annotated[Path, _NO_NUL]


def _url_fault(error: ValueError) -> str:
    said = str(error)
    return "its port must be a number up to 65535" if said.startswith("Port") else said


def _source(value: str) -> str:
    if value != value.strip():
        raise ValueError("must not have spaces at its ends")
    if value == "auto" or re.fullmatch("(file://)?/.+", value):
        return value
    kind, scheme, _ = value.partition("://")
    if scheme and kind in {"gpsd", "tcp", "udp"}:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"must be {kind}://HOST:PORT: {_url_fault(error)}") from None
        # gpsd has a default port; for UDP the host is an address of this machine, by default all.
        whole = parts.netloc and (port or kind == "gpsd") and (parts.hostname or kind == "udp")
        query = f"?{parts.query}" if parts.query and kind == "udp" else ""
        if whole and port != 0 and "@" not in value and value == f"{kind}://{parts.netloc}{query}":
            UdpOptions.read(parts.query)
            return value
    raise ValueError(f"must be {_SOURCES}")


_SOURCE = (
    r"^(auto|(file://)?/.*\S|gpsd://[^/?#@\s]+|tcp://[^/?#@:\s][^/?#@\s]*:[0-9]{1,5}"
    r"|udp://[^/?#@\s]*:[0-9]{1,5}(\?[^#\s]+)?)$"
)
SourceName = Annotated[str, _NO_NUL, Checks(_source, {"pattern": _SOURCE})]


def _baud(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)  # from the environment
    if value != "auto" and (isinstance(value, bool) or value not in BAUD_RATES):
        raise ValueError(f'must be "auto" or one of {", ".join(map(str, sorted(BAUD_RATES)))}')
    return value


_BAUDS = {"enum": ["auto", *sorted(BAUD_RATES)]}
Baud = Annotated[int | Literal["auto"], Checks(_baud, _BAUDS, reads=True)]


def _command(value: str) -> str:
    command_bytes(value)
    return value


_COMMAND = {"pattern": r"^(\s*\$.+|ubx:[0-9A-Fa-f\s]+)$"}
ReceiverCommands = tuple[Annotated[str, Checks(_command, _COMMAND)], ...]
Qualities = tuple[Quality, ...]


_URL_MAX = 8192


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
        if "[" in parts.netloc:
            IPv6Address(parts.hostname or "")
    except ValueError as error:
        raise ValueError(f"must be a URL: {_url_fault(error)}") from None
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


_HTTP = "[Hh][Tt][Tt][Pp]"
_URL = {"pattern": rf"^(?=[!-~]+$){_HTTP}[Ss]?://[^/?#@:][^/?#@]*([/?#].*)?$"}
_PROXY = {"pattern": rf"^({_HTTP}://([^/?#:]*@)?[^/?#@:][^/?#@]*/*)?$"}
Url = Annotated[str, Checks(_url, {**_URL, "maxLength": _URL_MAX - 1})]
ProxyUrl = Annotated[str, Checks(_proxy, _PROXY)]


def _tiles(value: str) -> str:
    if value:
        parts = urlsplit(_url(value))
        others = set(re.findall(r"\{(.*?)\}", value)) - {"s", "x", "y", "z", "r"}
        if others:
            raise ValueError(f"{{{min(others)}}} is unknown: use {{s}} {{z}} {{x}} {{y}} {{r}}")
        if not all(f"{{{name}}}" in parts.path for name in "xyz"):
            raise ValueError("must be like https://tiles.example.com/{z}/{x}/{y}.png")
    return value


_TILES = {"pattern": rf"^((?=.*\{{z\}})(?=.*\{{x\}})(?=.*\{{y\}}){_HTTP}[Ss]?://.+)?$"}
TilesUrl = Annotated[str, Checks(_tiles, _TILES)]


_PAGE_NAME = re.compile(r"[0-9A-Za-z](?:[-.0-9A-Za-z]*[0-9A-Za-z])?(?::[0-9]{1,5})?")


def _page_name(value: str) -> str:
    if not _PAGE_NAME.fullmatch(value):
        raise ValueError('must be a host name, or host:port, such as "van-07.example.com"')
    return value.lower()


PageNames = tuple[Annotated[str, Checks(_page_name, {"pattern": f"^{_PAGE_NAME.pattern}$"})], ...]


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


_HEADERS = {
    "propertyNames": {"pattern": f"^{_HEADER_NAME.pattern}$"},
    "additionalProperties": {"type": "string", "pattern": r"^(\S(.*\S)?)?$"},
}
Headers = Annotated[dict[str, str], Checks(_headers, _HEADERS)]


def _host_and_port(value: object) -> tuple[str, int] | None:
    """``"host:port"`` or ``"[::1]:port"``; None for an empty text."""
    if value is None or value == "":
        return None
    host, _, port = str(value).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError('must be host:port, such as "127.0.0.1:8077" or "[::1]:8077"')
    return host.strip("[]"), int(port)


_TEXT_SCHEMA = {"type": "string"}
_HOST_AND_PORT = {**_TEXT_SCHEMA, "pattern": "^(.+:(?!0+$)[0-9]{1,5})?$"}
HostAndPort = Annotated[tuple[str, int] | None, Checks(_host_and_port, _HOST_AND_PORT, reads=True)]
OptionalPath = Annotated[
    Path | None,
    _NO_NUL,
    Checks(lambda value: None if value == "" else value, _TEXT_SCHEMA, reads=True),
]
