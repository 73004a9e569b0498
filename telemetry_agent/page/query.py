"""The parameters and bodies of requests, checked before they are used: else the answer is a 400."""

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from telemetry_agent.page.points import Box
from telemetry_agent.page.track_index import Wanted

_LONGEST_BODY_BYTES = 64 * 1024
_BODY_S = 10.0
_LARGEST_ROW_DIGITS = 18
_LARGEST = 253_402_300_799  # the end of the year 9999, seconds since 1970


def number(query: Mapping[str, str], name: str, default: float, most: float = _LARGEST) -> float:
    """A parameter from 0 to ``most``."""
    if name not in query:
        return default
    try:
        value = float(query[name])
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise HTTPException(400, f"{name} is a number from 0 to {most}.")
    return value


def wanted_part(query: Mapping[str, str]) -> Wanted:
    """``since``, ``until`` (seconds since 1970), ``across`` (pixels), ``tolerance`` and ``box``.

    A tolerance and a box, ``south,west,north,east``, are in 1e-7 degrees.
    """
    try:
        box = Box(*map(int, query["box"].split(","))) if "box" in query else None
    except (ValueError, TypeError):
        raise HTTPException(400, "box is four whole numbers.") from None
    return Wanted(
        number(query, "since", -math.inf),
        number(query, "until", math.inf),
        min(max(number(query, "across", 1000), 100), 5000),
        max(number(query, "tolerance", 1), 1) if "tolerance" in query else None,
        box,
    )


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        value = json.loads(await body_of(request))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HTTPException(400, "A JSON object is needed.")
    return value


async def body_of(request: Request) -> bytes:
    """The body; it is limited in size and time."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > _LONGEST_BODY_BYTES:
                    raise HTTPException(400, "The body is too long.")
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(400, "The body came too slowly, or not whole.") from None
    return body


def row_number(query: Mapping[str, str], name: str, default: str = "") -> int:
    """The number of a row in the queue."""
    text = query.get(name, default)
    if not (text.isascii() and text.isdecimal()) or len(text) > _LARGEST_ROW_DIGITS:
        raise HTTPException(400, f"{name} is a row's number.")
    return int(text)
