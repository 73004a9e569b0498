"""The parameters and bodies of requests, checked before they are used."""

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from telemetry_agent.page.points import Box
from telemetry_agent.page.track_index import Wanted

_LONGEST_BODY_BYTES = 64 * 1024
_BODY_S = 10.0
_LARGEST_ROW_DIGITS = 18
_LARGEST = 253_402_300_799  # the end of the year 9999, seconds since 1970


class BadRequestError(Exception):
    """The text says what is wrong with the request."""


def wanted_part(query: Mapping[str, str]) -> Wanted:
    """``since``, ``until`` (seconds since 1970), ``across`` (pixels), ``tolerance`` and ``box``.

    A tolerance and a box, ``south,west,north,east``, are in 1e-7 degrees.
    """

    def number(name: str, default: float) -> float:
        if name not in query:
            return default
        value = float(query[name])
        if not 0 <= value <= _LARGEST:
            raise ValueError
        return value

    try:
        box = [int(edge) for edge in query["box"].split(",")] if "box" in query else None
        return Wanted(
            number("since", -math.inf),
            number("until", math.inf),
            min(max(number("across", 1000), 100), 5000),
            max(number("tolerance", 1), 1) if "tolerance" in query else None,
            None if box is None else Box(*box),
        )
    except (ValueError, TypeError):
        raise BadRequestError(
            "since, until, across and tolerance are numbers from 0; box is four whole numbers."
        ) from None


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        value = json.loads(await body_of(request))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequestError("A JSON object is needed.")
    return value


async def body_of(request: Request) -> bytes:
    """The body; it is limited in size and time."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > _LONGEST_BODY_BYTES:
                    raise BadRequestError("The body is too long.")
    except (TimeoutError, ClientDisconnect):
        raise BadRequestError("The body came too slowly, or not whole.") from None
    return body


def row_number(query: Mapping[str, str], name: str, default: str = "") -> int:
    """The number of a row in the queue."""
    text = query.get(name, default)
    if not (text.isascii() and text.isdecimal()) or len(text) > _LARGEST_ROW_DIGITS:
        raise BadRequestError(f"{name} is a row's number.")
    return int(text)
