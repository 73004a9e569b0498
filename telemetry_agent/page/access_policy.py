"""Who is admitted: decided by a request's method, path and headers.

Four things are checked, in this order:

- *Host*: a web site may let its own name point at this device (DNS rebinding), and its scripts
  would then have the same origin as the page. So the name that the browser used must be one of
  this device: an address, its host name, the name in ``page.listen``, or one of ``page.names``.
- *Fetch metadata*: other sites may only link to the page.
- *Origin*: only the page itself may change something. A reverse proxy may send another ``Host``
  than the browser did, so an origin in ``page.names`` counts as the page's own.
- *Token*: if one is set, it is needed. Scripts send it as ``Authorization: Bearer``, and then only
  *Host* is checked too. Browsers get a cookie for it that no script can read and another site can
  use for a link only. It is derived from the token and does not reveal it. It is ``Secure`` if the
  form came from an https origin, as the browser itself reports.

The headers in which a proxy names its client (``X-Forwarded-*``, ``Forwarded``) are not read:
every client can send them.
"""

import asyncio
import hashlib
import hmac
import ipaddress
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telemetry_agent.addresses import is_literal
from telemetry_agent.page.static_files import static_text

_COOKIE = "telemetry-agent"
_COOKIE_S = 30 * 86400
_OPEN_PATHS = ("/login", "/static/")
_WRONG_TOKENS = 10
_WITHIN_S = 60.0
_PEERS = 1000
_DEFAULT_PORTS = {"http": 80, "https": 443}

Headers = Mapping[str, str]


class WrongTokens:
    """Slows down guessing: after ten wrong tokens in a minute no token of that peer is looked at.

    A peer is an IPv4 address or a 64-bit IPv6 network. A browser that has its cookie is not
    affected.
    """

    def __init__(self) -> None:
        self._peers: dict[str, deque[float]] = {}

    def wait_s(self, peer: str, now_s: float) -> float:
        """For how long no token of that peer is looked at; 0: the next one is."""
        times = self._peers.get(_network_of(peer)) or deque()
        return max(0.0, times[0] + _WITHIN_S - now_s) if len(times) == _WRONG_TOKENS else 0.0

    def count(self, peer: str, now_s: float) -> None:
        """Count a wrong token of that peer."""
        times = self._peers.pop(_network_of(peer), None) or deque(maxlen=_WRONG_TOKENS)
        times.append(now_s)
        self._peers[_network_of(peer)] = times  # the newest peer is last
        if len(self._peers) > _PEERS:
            del self._peers[next(iter(self._peers))]


class AccessPolicy:
    """The rules of one page.

    Args:
        names: the host names of this device; its addresses are always valid.
        token: what admits a viewer; ``None``: none is needed.
        proxied: names, or names with ports, of a reverse proxy that serves it; in lower case.
    """

    def __init__(self, names: set[str], token: str | None, proxied: Collection[str] = ()) -> None:
        hosts = {name.rpartition(":")[0] or name for name in proxied}
        self._names = {name.lower() for name in names | hosts} | {"localhost"}
        self._proxied = proxied
        self._token = token
        self._pass = "" if token is None else _pass(token)
        self._wrong = WrongTokens()

    def denial(
        self, method: str, path: str, headers: Headers, peer: str = "", now_s: float = 0.0
    ) -> Response | None:
        """The answer to a request that is not admitted; ``None``: it is.

        Header names are in lower case; ``peer`` is the client's address, ``now_s`` monotonic.
        """
        if not self._is_ours(headers.get("host", "")):
            return PlainTextResponse(
                "This device does not answer to that name. Use its address or its host name, or "
                "add the name to page.names.",
                421,
            )
        kind, _, token = headers.get("authorization", "").partition(" ")
        if self._token is not None and kind.lower() == "bearer":
            # A browser never sends this header for another site, so no other check is needed.
            sent = token.strip().encode("latin-1").decode("utf-8", "replace")
            return self._check(sent, peer, now_s)
        if not _from_itself(method, path, headers):
            return PlainTextResponse("Another web site may only link to this page.", 403)
        if method not in {"GET", "HEAD"} and not self._asked_by_itself(headers):
            return PlainTextResponse(
                "Only the page itself may ask for this. If a reverse proxy serves it, add its name "
                "to page.names.",
                403,
            )
        if self._token is None or path.startswith(_OPEN_PATHS) or self.cookies(headers):
            return None
        needed = "The token of page.token_file is needed."
        return _login_page() if path == "/" else PlainTextResponse(needed, 401)

    def login(self, token: str, headers: Headers, peer: str = "", now_s: float = 0.0) -> Response:
        """The answer to a viewer who typed this token: the page with a cookie, or why not."""
        if refused := self._check(token, peer, now_s):
            return _login_page(refused)
        # Relative, because behind a proxy the page may have any path.
        answer = Response(status_code=303, headers={"Location": "./"})
        # Each token has a cookie of its own: a browser sends those of one host to all its ports,
        # and several devices may be at ports of this machine (ssh -L).
        _set_cookie(answer, headers, f"{_COOKIE}-{self._pass[:8]}", self._pass, _COOKIE_S)
        return answer

    def logout(self, headers: Headers) -> Response:
        """The answer to a viewer who leaves: it removes the cookie."""
        answer = JSONResponse({})
        for name in self.cookies(headers):
            _set_cookie(answer, headers, name, "", 0)
        return answer

    def cookies(self, headers: Headers) -> list[str]:
        """The names of the cookies that admit this browser."""
        return [
            name
            for name, value in cookie_parser(headers.get("cookie", "")).items()
            if self._pass and name.startswith(_COOKIE) and _same(value, self._pass)
        ]

    def _check(self, token: str, peer: str, now_s: float) -> Response | None:
        """The answer if this token does not admit."""
        if (wait_s := self._wrong.wait_s(peer, now_s)) > 0:
            says = f"Too many wrong tokens: wait {wait_s:.0f} s."
            return PlainTextResponse(says, 429, {"Retry-After": f"{wait_s + 1:.0f}"})
        if self._token is not None and _same(token, self._token):
            return None
        self._wrong.count(peer, now_s)
        return PlainTextResponse("Wrong token.", 401)

    def _asked_by_itself(self, headers: Headers) -> bool:
        origin = _origin(headers)
        if origin.scheme not in _DEFAULT_PORTS:
            return False
        if origin.netloc == headers.get("host"):
            return True
        return origin.netloc.removesuffix(f":{_DEFAULT_PORTS[origin.scheme]}") in self._proxied

    def _is_ours(self, host: str) -> bool:
        parts = _split(f"//{host}")
        if parts.netloc != host or "@" in host:
            return False
        name = parts.hostname or ""
        return name.rstrip(".") in self._names or is_literal(name)


def _set_cookie(answer: Response, asked: Headers, name: str, value: str, age_s: int) -> None:
    # Without a path the browser uses it for the folder of the page, whatever a proxy calls that.
    # Not Strict: the browser would show the form again to a viewer who follows a link.
    secure = _origin(asked).scheme == "https"
    answer.set_cookie(name, value, age_s, path=None, secure=secure, httponly=True, samesite="lax")


def guarded(app: ASGIApp, access: AccessPolicy, policy: str) -> ASGIApp:
    """The application behind the access policy; every answer has the page's security headers."""
    security = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        # Not no-referrer: then a browser does not send the origin of a form.
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(security)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = dict(MutableHeaders(scope=scope))
        denied: Response | None
        if {"content-length", "transfer-encoding"} <= headers.keys():
            # RFC 9112, 6.3: a part of what a proxy takes for the body may be a request here.
            denied = PlainTextResponse("One length is enough.", 400, {"Connection": "close"})
        else:
            denied = access.denial(scope["method"], scope["path"], headers, *peer_and_time(scope))
        with suppress(asyncio.CancelledError):  # the page ends
            await (denied or app)(scope, receive, secured)

    return answered


def peer_and_time(scope: Scope) -> tuple[str, float]:
    """The address of the client, and the time."""
    client = scope.get("client")
    return str(client[0]) if client else "", asyncio.get_running_loop().time()


def _login_page(refused: Response | None = None) -> Response:
    """The login form; with the reason if a token was refused."""
    text = static_text("login.html")
    if refused is None:
        return HTMLResponse(text, 401)
    text = text.replace(" hidden></p>", f">{bytes(refused.body).decode()}</p>")
    wait = {name: value for name, value in refused.headers.items() if name == "retry-after"}
    return HTMLResponse(text, refused.status_code, wait)


def content_policy(tiles: str) -> str:
    """What the browser may load: the page's own files, and tiles of the user's tile server."""
    # Leaflet replaces a tile that is no longer needed by an empty picture, which is a data: URL.
    servers = ""
    if tiles:
        parts = urlsplit(tiles)
        hosts = {parts.netloc.replace("{s}", letter) for letter in "abc"}
        servers = " data: " + " ".join(f"{parts.scheme}://{host}" for host in sorted(hosts))
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        f"manifest-src 'self'; img-src 'self'{servers}; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )


def _network_of(peer: str) -> str:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if address.version == 4 or address.ipv4_mapped:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _from_itself(method: str, path: str, headers: Headers) -> bool:
    """Whether no other site sent the request. Only browsers report which site did."""
    asked = method, path, headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    is_link = asked == ("GET", "/", "navigate", "document")
    return is_link or headers.get("sec-fetch-site", "none") in {"same-origin", "none"}


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # such as a bracket that is not closed
        return urlsplit("")


def _origin(headers: Headers) -> SplitResult:
    return _split(headers.get("origin", ""))


def _pass(token: str) -> str:
    return hmac.digest(token.encode(), b"telemetry-agent page", hashlib.sha256).hex()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
