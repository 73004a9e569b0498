"""Checks each request by the access policy, and adds the page's headers to every answer."""

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telemetry_agent.page.access_policy import AccessPolicy, WrongTokens
from telemetry_agent.page.files import static_text


class Guard:
    """The application behind the access policy.

    Args:
        app: the application.
        access: decides who is admitted.
        policy: the ``Content-Security-Policy``.
        wrong_tokens: counts them, also for the login form.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: AccessPolicy,
        policy: str,
        wrong_tokens: WrongTokens,
    ) -> None:
        self._app = app
        self._access = access
        self._wrong_tokens = wrong_tokens
        self._rules = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            # Not no-referrer: then a browser does not send the origin of a form.
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def ruled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._rules)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        path, headers = scope["path"], dict(Headers(scope=scope))
        if {"content-length", "transfer-encoding"} <= headers.keys():
            # RFC 9112, 6.3: a part of what a proxy takes for the body may be a request here.
            answer = PlainTextResponse("One length is enough.", 400, {"Connection": "close"})
            await answer(scope, receive, ruled)
            return
        peer, now_s = peer_of(scope), asyncio.get_running_loop().time()
        if self._access.shows_token(headers):
            if (wait_s := self._wrong_tokens.wait_s(peer, now_s)) > 0:
                await too_many_tokens(wait_s)(scope, receive, ruled)
                return
            if self._access.shows_wrong_token(headers):
                self._wrong_tokens.count(peer, now_s)
        refusal = self._access.refusal(scope["method"], path, headers)
        if refusal is None:
            await self._app(scope, receive, ruled)
        elif refusal.status == 401 and path == "/":
            await login_page()(scope, receive, ruled)
        else:
            answer = PlainTextResponse(refusal.text, refusal.status)
            await answer(scope, receive, ruled)


def peer_of(scope: Scope) -> str:
    """The address of the client."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def too_many_tokens(wait_s: float) -> Response:
    """The answer to a further token of a peer that sent too many wrong ones."""
    return PlainTextResponse(
        f"Too many wrong tokens: wait {wait_s:.0f} s.", 429, {"Retry-After": f"{wait_s + 1:.0f}"}
    )


def login_page(*, wrong: bool = False) -> Response:
    """The login form; after a wrong token it says so."""
    text = static_text("login.html")
    return HTMLResponse(text.replace(" hidden", "", 1) if wrong else text, 401)


def content_policy(tiles: str) -> str:
    """What the browser may load: the page's own files, and tiles of the user's tile server."""
    # Leaflet replaces a tile that is no longer needed by an empty picture, which is a data: URL.
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
