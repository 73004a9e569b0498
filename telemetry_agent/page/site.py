"""The pages and data of the device page, as a web application.

=======================  ==========================================================================
``GET /``                the page; the login where a token is needed and was not shown
``GET /map.pmtiles``     a range of the offline map
``GET /events``          server-sent events: see ``news``; after four of one ``browser`` it says
                         ``poll``
``GET /state``           what ``hello`` would be now, for who polls
``GET /trail?after=R``   the positions behind row R, packed: see ``trail``
``GET /track``           what is to be drawn of the track, thinned: see ``_wanted``
``GET /trips``           see ``EventSource.trips``
``GET /fix?row=R``       one stored fix with all its fields
``GET /history``         ``?hours=24``, up to 720: see ``EventSource.history``
``GET /dead-letters``    at most 200 of them, with reasons
``POST /retry``          ``{"all": true}``, or ``{"names": [[stream, seq], …]}``
``POST /discard``        likewise
``GET /export/F``        the stored track, or a time of it (``since``, ``until``), in format F
``GET /metrics``         for Prometheus
``GET /log``             the newest lines of the log, secrets masked
``GET /config``          the effective config, secrets masked
``POST /check``          everything is checked, as ``doctor --json`` reports it
``POST /network``        ``{"away": true}``: a demo's network
``POST /login``          a form with ``token``
=======================  ==========================================================================
"""

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telemetry_agent.errors import AgentError, ConfigError
from telemetry_agent.export import FORMATS, file_name
from telemetry_agent.page.access_policy import AccessPolicy, WrongTokens
from telemetry_agent.page.events import AgentView, Doctor, EventSource
from telemetry_agent.page.files import Files, compressed
from telemetry_agent.page.libraries import browser_missing
from telemetry_agent.page.map_file import MapFile, asked_range, open_map
from telemetry_agent.page.metrics import MEDIA_TYPE, metrics
from telemetry_agent.page.options import PageOptions
from telemetry_agent.page.overview import Box
from telemetry_agent.page.streams import Streams
from telemetry_agent.page.threads import each_in_thread, in_thread
from telemetry_agent.page.track_index import Wanted

log = logging.getLogger(__name__)

_LONGEST_BODY_BYTES = 64 * 1024
_BODY_S = 10.0
_DEAD_LETTERS = 200
_AT_ONCE = 4  # requests that wait for the disk
_EXPORTS = 2
_EXPORT_WAIT_S = 60.0
_MONTH_H = 720


class _BadRequestError(Exception):
    pass


class Site:
    """The application.

    Args:
        sight: the agent.
        door: who may come in.
        event_source: makes the events.
        streams: gives them to the viewers.
        options: what the user has set.
    """

    def __init__(
        self,
        sight: AgentView,
        door: AccessPolicy,
        event_source: EventSource,
        streams: Streams,
        options: PageOptions,
    ) -> None:
        self._sight = sight
        self._door = door
        self._event_source = event_source
        self._streams = streams
        self._options = options
        self._files = Files()
        self._map = _opened(options.map_file)
        self._disk = asyncio.Semaphore(_AT_ONCE)
        self._exports = asyncio.Semaphore(_EXPORTS)
        routes = [
            Route("/", self._index),
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
            Route("/retry", self._retry, methods=["POST"]),
            Route("/discard", self._discard, methods=["POST"]),
            Route("/export/{format}", self._export),
            Route("/metrics", self._metrics),
            Route("/log", self._log),
            Route("/config", self._config),
            Route("/login", self._login, methods=["POST"]),
        ]
        self._check_running: asyncio.Task[dict[str, Any]] | None = None
        if sight.doctor is not None:
            check = partial(self._check, sight.doctor)
            routes.append(Route("/check", check, methods=["POST"]))
        if sight.switch is not None:
            routes.append(Route("/network", self._network, methods=["POST"]))
        app = Starlette(
            routes=routes, exception_handlers={_BadRequestError: _told, AgentError: _told}
        )
        self._wrong_tokens = WrongTokens()
        login = partial(self._files.text, "login.html")
        self.app: ASGIApp = _Guard(app, door, _policy(options.tiles), self._wrong_tokens, login)

    def close(self) -> None:
        """Let go of the map."""
        if self._map is not None:
            self._map.close()
            self._map = None

    async def _index(self, request: Request) -> Response:
        return self._file("index.html", request)

    async def _static(self, request: Request) -> Response:
        return self._file(request.path_params["path"], request)

    def _file(self, name: str, request: Request) -> Response:
        answer = self._files.answer(name, request.headers)
        return answer or PlainTextResponse("There is no such file.", 404)

    async def _setup(self, _request: Request) -> Response:
        options = self._options
        setup: dict[str, Any] = {"check": self._sight.doctor is not None}
        if missing := browser_missing():
            setup["missing"] = missing
        if options.tiles:
            setup |= {"tiles": options.tiles, "credit": options.tiles_credit}
        if (found := self._map) is not None:
            setup["map"] = {"credit": found.credit, "deepest": found.deepest, "box": found.box}
        return JSONResponse(setup)

    async def _map_part(self, request: Request) -> Response:
        """A part of the offline map. The whole of it may be gigabytes, and is not served."""
        found = self._map
        if found is None:
            return PlainTextResponse("There is no map.", 404)
        part = asked_range(request.headers.get("range", ""), found.size)
        if part is None:
            rules = {"Content-Range": f"bytes */{found.size}"}
            return PlainTextResponse("Ask for a range of up to 8 MiB.", 416, rules)
        begin, end = part
        try:
            async with self._disk:
                data = await in_thread(found.read, begin, end)
        except OSError as error:
            return PlainTextResponse(f"The map cannot be read: {error.strerror}", 503)
        rules = {
            "Content-Range": f"bytes {begin}-{end - 1}/{found.size}",
            "ETag": found.tag,
            "Cache-Control": "private, max-age=3600",
        }
        return Response(data, 206, rules, "application/octet-stream")

    async def _events(self, request: Request) -> Response:
        if self._streams.full:
            return PlainTextResponse("Too many look at once: close another window.", 503)
        # A proxy that collects an answer before it passes it on would hold events back.
        return _Stream(
            self._streams.follow(request.query_params.get("browser", "")),
            headers={"X-Accel-Buffering": "no"},
            media_type="text/event-stream",
        )

    async def _state(self, request: Request) -> Response:
        await self._streams.refresh()
        hello = self._event_source.hello().encode()
        return compressed(hello, "application/json", request.headers)

    async def _trail(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not after.isdecimal() or len(after) > 18:
            return PlainTextResponse("after is a row's number.", 400)

        def made() -> Response:
            last, packed = self._event_source.packed(int(after))
            kind = "application/octet-stream"
            return compressed(packed, kind, request.headers, **{"X-Last-Row": str(last)})

        async with self._disk:
            return await in_thread(made)

    async def _track(self, request: Request) -> Response:
        wanted = _wanted(request.query_params)
        self._streams.look_back()

        def made() -> Response:
            last, packed, exact = self._event_source.shown(wanted)
            told = {"X-Last-Row": str(last), "X-Tolerance": str(exact)}
            return compressed(packed, "application/octet-stream", request.headers, **told)

        async with self._disk:
            return await in_thread(made)

    async def _trips(self, request: Request) -> Response:
        self._streams.look_back()
        data = self._event_source.trips().encode()
        return compressed(data, "application/json", request.headers)

    async def _fix(self, request: Request) -> Response:
        row = request.query_params.get("row", "")
        if not row.isdecimal() or len(row) > 18:
            return PlainTextResponse("row is a row's number.", 400)
        async with self._disk:
            found = await in_thread(self._event_source.fix, int(row))
        return JSONResponse(found) if found else PlainTextResponse("It is gone.", 404)

    async def _history(self, request: Request) -> Response:
        try:
            hours = float(request.query_params.get("hours", "1"))
        except ValueError:
            hours = -1.0
        if not 0 < hours <= _MONTH_H:
            return PlainTextResponse("hours is a number up to 720.", 400)
        data = self._event_source.history(hours).encode()
        return compressed(data, "application/json", request.headers)

    async def _dead_letters(self, _request: Request) -> Response:
        asked = {"state": "ack_failed", "limit": _DEAD_LETTERS}
        return JSONResponse(await self._ask("queue list", asked))

    async def _retry(self, request: Request) -> Response:
        return await self._act("queue retry", request)

    async def _discard(self, request: Request) -> Response:
        return await self._act("queue discard", request)

    async def _act(self, command: str, request: Request) -> Response:
        answers = await self._ask(command, await _json(request))
        self._streams.nudge()
        return JSONResponse(answers[0])

    async def _ask(self, command: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
        async with self._disk:
            return await in_thread(lambda: list(self._sight.ask(command, asked)))

    async def _export(self, request: Request) -> Response:
        name = request.path_params["format"]
        if name not in FORMATS:
            return PlainTextResponse(f"The formats are {', '.join(FORMATS)}.", 404)
        moving_s, standing_s = self._sight.gaps
        asked: dict[str, Any] = {
            "format": name,
            "gap_s": moving_s,
            "standing_gap_s": standing_s,
        }
        wanted = _wanted(request.query_params)
        if math.isfinite(wanted.since_s):
            asked["since_ms"] = round(wanted.since_s * 1000)
        if math.isfinite(wanted.until_s):
            asked["until_ms"] = round(wanted.until_s * 1000) + 1
        # A third one waits: a browser shows nobody why a download was refused.
        try:
            async with asyncio.timeout(_EXPORT_WAIT_S):
                await self._exports.acquire()
        except TimeoutError:
            return PlainTextResponse("Two others export already: try again later.", 503)
        device = self._sight.snapshot().device
        until_ms = asked.get("until_ms", self._sight.queue.newest_ms())
        since_ms = asked.get("since_ms", until_ms and until_ms - 1)
        file = file_name(device, name, since_ms, until_ms)
        return _Stream(
            self._pieces(asked),
            headers={"Content-Disposition": f'attachment; filename="{file}"'},
            media_type=FORMATS[name].media_type,
        )

    async def _pieces(self, asked: dict[str, Any]) -> AsyncGenerator[str, None]:
        try:
            async with aclosing(each_in_thread(self._sight.ask("export", asked))) as answers:
                async for answer in answers:
                    yield answer["text"]
        finally:
            self._exports.release()

    async def _metrics(self, request: Request) -> Response:
        data = metrics(self._sight.snapshot(), self._event_source.clock_offset_s())
        return compressed(data, MEDIA_TYPE, request.headers)

    async def _log(self, request: Request) -> Response:
        data = json.dumps(self._sight.log_lines()).encode()
        return compressed(data, "application/json", request.headers)

    async def _config(self, request: Request) -> Response:
        values = {key: value for key, value in self._sight.config().items() if value is not None}
        data = json.dumps(values, default=str).encode()
        return compressed(data, "application/json", request.headers)

    async def _check(self, doctor: Doctor, _request: Request) -> Response:
        """One check at a time: who asks meanwhile gets the result of the one that runs."""
        if self._check_running is None or self._check_running.done():
            self._check_running = asyncio.ensure_future(in_thread(doctor.check))
        return JSONResponse(await asyncio.shield(self._check_running))

    async def _network(self, request: Request) -> Response:
        switch = self._sight.switch
        away = (await _json(request)).get("away")
        if switch is None or not isinstance(away, bool):
            return PlainTextResponse("away is true or false.", 400)
        async with self._disk:
            await in_thread(switch.set_away, away)
        self._streams.nudge()
        return JSONResponse({"away": away})

    async def _login(self, request: Request) -> Response:
        form = parse_qs((await _body(request)).decode("utf-8", "replace"))
        peer, now_s = _peer(request.scope), asyncio.get_running_loop().time()
        if (wait_s := self._wrong_tokens.wait_s(peer, now_s)) > 0:
            return _too_many_tokens(wait_s)
        cookie = self._door.cookie(form.get("token", [""])[0].strip(), request.headers)
        if cookie is None:
            self._wrong_tokens.count(peer, now_s)
            return _login(self._files.text("login.html"), wrong=True)
        # Relative: behind a proxy only the browser knows what this folder is called.
        return Response(status_code=303, headers={"Location": "./", "Set-Cookie": cookie})


class _Guard:
    """Lets in whom the door lets in, and puts the page's rules on every answer."""

    def __init__(
        self,
        app: ASGIApp,
        door: AccessPolicy,
        policy: str,
        wrong_tokens: WrongTokens,
        login_text: Callable[[], str],
    ) -> None:
        self._app = app
        self._login_text = login_text
        self._door = door
        self._wrong_tokens = wrong_tokens
        self._rules = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            # Not no-referrer: with that a browser does not tell the origin of a form.
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def ruled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._rules)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        path, headers = scope["path"], dict(Headers(scope=scope))
        peer, now_s = _peer(scope), asyncio.get_running_loop().time()
        if self._door.shows_token(headers):
            if (wait_s := self._wrong_tokens.wait_s(peer, now_s)) > 0:
                await _too_many_tokens(wait_s)(scope, receive, ruled)
                return
            if self._door.shows_wrong_token(headers):
                self._wrong_tokens.count(peer, now_s)
        refusal = self._door.refusal(scope["method"], path, headers)
        if refusal is None:
            await self._app(scope, receive, ruled)
        elif refusal.status == 401 and path == "/":
            await _login(self._login_text())(scope, receive, ruled)
        else:
            answer = PlainTextResponse(refusal.text, refusal.status)
            await answer(scope, receive, ruled)


class _Stream(StreamingResponse):
    """An answer whose length nobody knows. It ends when the viewer leaves, and then at once."""

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        speaking = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(_until_gone(receive))
        await asyncio.wait({speaking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (speaking, leaving):
            task.cancel()
        await asyncio.wait({speaking, leaving})
        if not speaking.cancelled() and (error := speaking.exception()):
            if not isinstance(error, AgentError):
                raise error
            # What is not ended tells the viewer that it is not whole.
            log.warning("the page broke off what it sent: %s", error)


def _opened(file: Path | None) -> MapFile | None:
    """A map that cannot be used costs the map alone."""
    if file is None:
        return None
    try:
        return open_map(file)
    except ConfigError as error:
        log.warning("%s; the page shows no map", error)
        return None


def _wanted(query: Mapping[str, str]) -> Wanted:
    """``since``, ``until`` (seconds since 1970), ``across`` (pixels), ``tolerance`` and ``box``.

    A tolerance and a box, ``south,west,north,east``, are in 1e-7 degrees.
    """

    def number(name: str, default: float) -> float:
        value = float(query.get(name, default))
        if math.isnan(value):
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
        raise _BadRequestError(
            "since, until, across and tolerance are numbers; box is four whole numbers."
        ) from None


async def _told(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400 if isinstance(error, _BadRequestError) else 409)


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _too_many_tokens(wait_s: float) -> Response:
    return PlainTextResponse(
        f"Too many wrong tokens: wait {wait_s:.0f} s.", 429, {"Retry-After": f"{wait_s + 1:.0f}"}
    )


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _login(text: str, *, wrong: bool = False) -> Response:
    return HTMLResponse(text.replace(" hidden", "", 1) if wrong else text, 401)


async def _json(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(await _body(request))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _BadRequestError("A JSON object is needed.")
    return value


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > _LONGEST_BODY_BYTES:
                    raise _BadRequestError("That is too long.")
    except TimeoutError:
        raise _BadRequestError("It came too slowly.") from None
    return body


def _policy(tiles: str) -> str:
    """What the browser may load: ours alone, and tiles where the user named a server."""
    # A tile that is no longer needed is replaced by an empty picture of Leaflet's own.
    servers = ""
    if tiles:
        parts = urlsplit(tiles)
        hosts = {parts.netloc.replace("{s}", letter) for letter in "abc"}
        servers = " data: " + " ".join(f"{parts.scheme}://{host}" for host in sorted(hosts))
    rules = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "manifest-src": "'self'",
        "img-src": f"'self'{servers}",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{rule} {value}" for rule, value in rules.items())
