"""The native format for an endpoint: the bytes of a request -> NativeRequest. Pure, strict."""

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from telemetry_agent.fields import FIELDS, Field
from telemetry_agent.model import Flag, Quality, is_stream

BODY_MAX_BYTES = 8 << 20


class RefusedError(Exception):
    """A request that is answered with ``status`` and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class NativeRequest:
    """The content of one request, under the names of the format."""

    device: str
    stream: str
    fixes: list[dict[str, Any]]
    """The valid fixes; each has at least seq, time, lat and lon."""
    rejected: list[dict[str, Any]]
    """``{"seq": …, "reason": …}`` for each invalid fix."""
    agent: dict[str, Any] | None


def _number(low: float, high: float, *, whole: bool = False) -> Callable[[Any], bool]:
    """JSON has one kind of number: 17.0 is 17."""
    return lambda value: (
        type(value) in {int, float} and low <= value <= high and not (whole and value % 1)
    )


def _is_time(value: Any) -> bool:
    with suppress(ValueError, TypeError):  # it may be anything
        pattern = r"[-0-9]{10}T[:0-9]{8}\.[0-9]{3}Z"
        return bool(re.fullmatch(pattern, value) and datetime.fromisoformat(value))
    return False


def _check(field: Field) -> Callable[[Any], bool]:
    """A function that checks a value of this field."""
    match field.kind:
        case "time":
            return _is_time
        case "number":
            return _number(field.lowest, field.highest)
        case "count":
            return _number(field.lowest, field.highest, whole=True)
        case "quality":
            return lambda value: value in get_args(Quality)
        case "flags":
            return lambda value: (
                isinstance(value, list) and all(flag in get_args(Flag) for flag in value)
            )
        case "object":
            return lambda value: isinstance(value, dict)


_FIELDS = {field.name: (field.allowed, _check(field)) for field in FIELDS}
_REQUIRED = ("time", "lat", "lon")


def _flaw(fix: Mapping[str, Any]) -> str | None:
    """What is wrong with a fix, or None. Unknown fields are ignored."""
    for name in _REQUIRED:
        if name not in fix:
            return f"{name} is missing"
    for name, (allowed, is_right) in _FIELDS.items():
        if name in fix and not is_right(fix[name]):
            return f"{name} {json.dumps(fix[name])[:60]}: {allowed}"
    return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float | None:
    """``None`` for what is larger than a double: it would be stored as ``Infinity``, no JSON."""
    return value if math.isfinite(value := float(text)) else None


_is_seq = _number(1, 2**63 - 1, whole=True)
_ENVELOPE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "format": ('"native/1"', lambda v: v == "native/1"),
    "device": ("a text", lambda v: isinstance(v, str) and v != "" and v.isprintable()),
    "stream": ("16 hex digits", is_stream),
    "fixes": (
        "a list of objects, each with a seq from 1",
        # The answer could not name a fix without a seq, so it fails the request.
        lambda v: (
            isinstance(v, list)
            and all(isinstance(fix, dict) and _is_seq(fix.get("seq")) for fix in v)
        ),
    ),
    "agent": ("an object", lambda v: v is None or isinstance(v, dict)),
}


def parse(body: bytes, encoding: str) -> NativeRequest:
    """Read the body of a request whose Content-Encoding is ``encoding``.

    Raises:
        RefusedError: it is not the native format, or larger than ``BODY_MAX_BYTES`` unpacked.
    """
    try:
        value = json.loads(_unpack(body, encoding), parse_constant=_no_constant, parse_float=_float)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RefusedError(400, "not the native format: an object is needed")
    for name, (allowed, is_right) in _ENVELOPE.items():
        if not is_right(value.get(name)):
            raise RefusedError(400, f"not the native format: {name}: {allowed} is needed")
    request = NativeRequest(value["device"], value["stream"], [], [], value.get("agent"))
    for fix in value["fixes"]:
        fix["seq"] = int(fix["seq"])
        if reason := _flaw(fix):
            request.rejected.append({"seq": fix["seq"], "reason": reason})
        else:
            request.fixes.append(fix)
    return request


def _unpack(body: bytes, encoding: str) -> bytes:
    if encoding.lower() == "identity":
        return body
    if encoding.lower() not in {"gzip", "x-gzip"}:  # RFC 9110, 8.4.1
        raise RefusedError(415, "Content-Encoding must be gzip or absent")
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(body, BODY_MAX_BYTES + 1)
    except zlib.error as error:
        raise RefusedError(400, f"not gzip: {error}") from error
    if len(plain) > BODY_MAX_BYTES:
        raise RefusedError(413, f"more than {BODY_MAX_BYTES} bytes when unpacked")
    if not stream.eof or stream.unused_data:
        raise RefusedError(400, "not gzip: one whole member is needed")
    return plain
