"""The pages and data of the device page, as a web application. docs/page.md lists its paths."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from telemetry_agent.errors import AgentError, ConfigError
from telemetry_agent.export import FORMATS, file_name
from telemetry_agent.page.access_policy import AccessPolicy, content_policy, guarded, peer_and_time
from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.event_streams import EventStreams, StreamedAnswer
from telemetry_agent.page.events import EventSource
from telemetry_agent.page.history import History
from telemetry_agent.page.libraries import browser_missing
from telemetry_agent.page.map_file import MapFile, asked_range, open_map
from telemetry_agent.page.metrics import MEDIA_TYPE, metrics
from telemetry_agent.page.static_files import compressed, static_file, static_files
from telemetry_agent.page.threads import in_thread
from telemetry_agent.page.track_index import POINT, Box, Wanted
from telemetry_agent.trouble import Trouble

log = logging.getLogger(__name__)

_DEAD_LETTERS = 200
_AT_ONCE = 4  # requests that wait for the disk
_EXPORTS = 2
_PIECE_BYTES = 64 * 1024
_MONTH_H = 720
_LONGEST_BODY_BYTES = 64 * 1024
_BODY_S = 10.0
_LARGEST_ROW = 2**53
_LARGEST = 253_402_300_799  # the end of the year 9999, seconds since 1970

T = TypeVar("T")


class Site:
    """The application."""

    def __init__(self, agent: AgentView, access: AccessPolicy) -> None:
        self._agent = agent
        self._access = access
        self._event_source = EventSource(agent)
        self.streams = EventStreams(self._event_source)
        self.history = History(agent.history_file)
        self._broken_off = Trouble(log, agent.clock)
        self._map: MapFile | None = None
        if agent.map is not None:
            try:
                self._map = open_map(agent.map)
            except ConfigError as error:
                log.warning("%s; the page shows no map", error)
        static_files()  # an upgrade may replace them while the page runs
        self._missing = browser_missing()
        self._disk = asyncio.Semaphore(_AT_ONCE)
        self._exports = asyncio.Semaphore(_EXPORTS)
        routes = [
            Route("/", self._static),
            Route("/static/{path:path}", self._static),
            Route("/setup", self._setup),
            Route("/map.pmtiles", self._map_part),
            Route("/events", self._events),
            Route("/state", self._state),
            Route("/trail", self._trail),
            Route("/track", self._track),
            Route("/trips", self._trips),
            Route("/fix", self._fix),
            Route("/history", self._history),
            Route("/dead-letters", self._dead_letters),
            Route("/retry", partial(self._act, "queue retry"), methods=["POST"]),
            Route("/discard", partial(self._act, "queue discard"), methods=["POST"]),
            Route("/export/{format}", self._export),
            Route("/metrics", self._metrics),
            Route("/log", self._log),
            Route("/config", self._config),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/check", self._check, methods=["POST"]),
            Route("/network", self._network, methods=["POST"]),
        ]
        self._check_running: asyncio.Task[dict[str, Any]] | None = None
        app = Starlette(routes=routes, exception_handlers={AgentError: _refused})
        # Else "/setup/" is answered with an absolute URL, which is wrong behind a proxy.
        app.router.redirect_slashes = False
        self.app = guarded(app, access, content_policy(agent.tiles))

    def close(self) -> None:
        """Close the map."""
        if self._map is not None:
            self._map.close()

    async def _static(self, request: Request) -> Response:
        return static_file(request.path_params.get("path", "index.html"), request.headers)

    async def _setup(self, request: Request) -> Response:
        agent, found = self._agent, self._map
        setup = {
            "check": agent.doctor is not None,
            "login": bool(self._access.cookies(request.headers)),
            "missing": self._missing,
            "tiles": agent.tiles,
            "credit": agent.tiles_credit,
            "map": found and {"credit": found.credit, "deepest": found.deepest},
        }
        return JSONResponse(setup)

    async def _map_part(self, request: Request) -> Response:
        """A part of the offline map. The whole of it may be gigabytes, and is not served."""
        found = self._map
        if found is None:
            raise HTTPException(404, "There is no map.")
        part = asked_range(request.headers.get("range", ""), found.size)
        if part is None:
            headers = {"Content-Range": f"bytes */{found.size}"}
            raise HTTPException(416, "Ask for a range of up to 8 MiB.", headers)
        begin, end = part
        headers = {
            "Content-Length": str(end - begin),
            "Content-Range": f"bytes {begin}-{end - 1}/{found.size}",
            "ETag": found.tag,
            "Cache-Control": "private, max-age=3600",
        }
        return StreamedAnswer(
            self._map_pieces(found, begin, end),
            self._broken_off,
            status_code=206,
            headers=headers,
            media_type="application/octet-stream",
        )

    async def _map_pieces(self, found: MapFile, begin: int, end: int) -> AsyncIterator[bytes]:
        """A range in pieces: of what a viewer does not read, only one piece is in memory."""
        for at in range(begin, end, _PIECE_BYTES):
            yield await self._from_disk(partial(found.read, at, min(end, at + _PIECE_BYTES)))

    async def _events(self, request: Request) -> Response:
        events = self.streams.follow(request.query_params.get("browser", ""))
        await anext(events)
        # Else nginx would collect events before it passes them on.
        return StreamedAnswer(
            events,
            self._broken_off,
            headers={"X-Accel-Buffering": "no"},
            media_type="text/event-stream",
        )

    async def _state(self, request: Request) -> Response:
        await self.streams.refresh()
        return _json(self._event_source.hello(), request)

    async def _trail(self, request: Request) -> Response:
        after = _row(request.query_params, "after")
        await self.streams.refresh()  # before the first viewer nothing was read yet
        index = self._event_source.index
        return await self._from_disk(lambda: _packed(request, *index.behind(after)))

    async def _track(self, request: Request) -> Response:
        wanted = _wanted_part(request.query_params)
        await self.streams.refresh()
        index = self._event_source.index
        return await self._from_disk(lambda: _packed(request, *index.shown(wanted)))

    async def _from_disk(self, work: Callable[[], T]) -> T:
        async with self._disk:
            return await in_thread(work)

    async def _trips(self, request: Request) -> Response:
        await self.streams.refresh()
        return _json(self._event_source.trips(), request)

    async def _fix(self, request: Request) -> Response:
        row = _row(request.query_params, "row")
        found = await self._from_disk(lambda: self._event_source.fix(row))
        if found is None:
            raise HTTPException(404, "It is gone.")
        return JSONResponse(found)

    async def _history(self, request: Request) -> Response:
        hours = _number(request.query_params, "hours", 1, most=_MONTH_H)
        return _json(self.history.as_json(hours, self._agent.utc_ms() // 1000), request)

    async def _dead_letters(self, _request: Request) -> Response:
        asked = {"state": "ack_failed", "limit": _DEAD_LETTERS}
        return JSONResponse(await self._ask("queue list", asked))

    async def _act(self, command: str, request: Request) -> Response:
        answers = await self._ask(command, await _json_object(request))
        self.streams.nudge()
        return JSONResponse(answers[0])

    async def _ask(self, command: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
        return await self._from_disk(lambda: list(self._agent.ask(command, asked)))

    async def _export(self, request: Request) -> Response:
        name = request.path_params["format"]
        if name not in FORMATS:
            raise HTTPException(404, f"The formats are {', '.join(FORMATS)}.")
        asked: dict[str, Any] = {"format": name}
        wanted = _wanted_part(request.query_params)
        period = {"since_ms": wanted.since_s * 1000, "until_ms": wanted.until_s * 1000 + 1}
        asked |= {end: round(ms) for end, ms in period.items() if math.isfinite(ms)}
        until_ms = asked.get("until_ms") or await self._from_disk(self._agent.queue.newest_ms)
        since_ms = asked.get("since_ms", until_ms and until_ms - 1)
        file = file_name(self._agent.snapshot().device, name, since_ms, until_ms)
        return StreamedAnswer(
            self._pieces(asked),
            self._broken_off,
            headers={"Content-Disposition": f'attachment; filename="{file}"'},
            media_type=FORMATS[name].media_type,
        )

    async def _pieces(self, asked: dict[str, Any]) -> AsyncIterator[str]:
        async with self._exports:  # a third one waits
            answers = self._agent.ask("export", asked)
            while answer := await in_thread(lambda: next(answers, None)):
                yield answer["text"]

    async def _metrics(self, request: Request) -> Response:
        data = metrics(self._agent.snapshot(), self._agent.clock_offset_s())
        return compressed(data, MEDIA_TYPE, request.headers)

    async def _log(self, request: Request) -> Response:
        return _json(json.dumps(self._agent.log_lines()), request)

    async def _config(self, request: Request) -> Response:
        values = {key: value for key, value in self._agent.config().items() if value != ""}
        return _json(json.dumps(values, default=str), request)

    async def _check(self, _request: Request) -> Response:
        """Run one check at a time: a request meanwhile gets the result of the one that runs."""
        if (doctor := self._agent.doctor) is None:
            raise HTTPException(404, "There is no doctor.")
        if self._check_running is None or self._check_running.done():
            self._check_running = asyncio.ensure_future(in_thread(doctor.check))
        return JSONResponse(await asyncio.shield(self._check_running))

    async def _network(self, request: Request) -> Response:
        if (switch := self._agent.switch) is None:
            raise HTTPException(404, "This is not a demo.")
        away = (await _json_object(request)).get("away")
        if not isinstance(away, bool):
            raise HTTPException(400, "away is true or false.")
        await self._from_disk(lambda: switch.set_away(away))
        self.streams.nudge()
        return JSONResponse({"away": away})

    async def _login(self, request: Request) -> Response:
        if request.method != "POST":  # the address is typed, or kept, after a wrong token
            return Response(status_code=303, headers={"Location": "./"})
        form = parse_qs((await _body_of(request)).decode("utf-8", "replace"))
        token = form.get("token", [""])[0].strip()
        return self._access.login(token, request.headers, *peer_and_time(request.scope))

    async def _logout(self, request: Request) -> Response:
        return self._access.logout(request.headers)


def _json(text: str, request: Request) -> Response:
    return compressed(text.encode(), "application/json", request.headers)


def _packed(request: Request, last: int, points: bytes, exact: int | None = None) -> Response:
    """Points; with ``planes`` all first bytes, all second ones …: gzip packs them twice as well."""
    if "planes" in request.query_params:
        points = b"".join(points[i :: POINT.size] for i in range(POINT.size))
    headers = {"X-Last-Row": str(last)}
    if exact is not None:
        headers["X-Tolerance"] = str(exact)
    return compressed(points, "application/octet-stream", request.headers, headers)


async def _refused(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 409)


# What a request asks is checked before it is used; else the answer is a 400.


def _number(query: Mapping[str, str], name: str, default: float, most: float = _LARGEST) -> float:
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


def _row(query: Mapping[str, str], name: str) -> int:
    """The number of a row; 0: before all."""
    return int(_number(query, name, 0, most=_LARGEST_ROW))


def _wanted_part(query: Mapping[str, str]) -> Wanted:
    """``since``, ``until`` (seconds since 1970), ``across`` (pixels), ``tolerance`` and ``box``.

    A tolerance and a box, ``south,west,north,east``, are in 1e-7 degrees.
    """
    try:
        box = Box(*map(int, query["box"].split(","))) if "box" in query else None
    except (ValueError, TypeError):
        raise HTTPException(400, "box is four whole numbers.") from None
    return Wanted(
        _number(query, "since", -math.inf),
        _number(query, "until", math.inf),
        min(max(_number(query, "across", 1000), 100), 5000),
        max(_number(query, "tolerance", 1), 1) if "tolerance" in query else None,
        box,
    )


async def _json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        value = json.loads(await _body_of(request))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HTTPException(400, "A JSON object is needed.")
    return value


async def _body_of(request: Request) -> bytes:
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
