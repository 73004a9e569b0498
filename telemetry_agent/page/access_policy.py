"""Who is admitted: decided by a request's method, path and headers.

Four things are checked, in this order:

- *Host*: a web site may let its own name point at this device (DNS rebinding), and its scripts
  would then have the same origin as the page. So the name that the browser used must be one of
  this device: an address, its host name, the name in ``page.listen``, or one of ``page.names``.
- *Fetch metadata*: other sites may only link to the page.
- *Origin*: only the page itself may change something. A reverse proxy may send another ``Host``
  than the browser did, so an origin in ``page.names`` counts as the page's own.
- *Token*: if one is set, it is needed. Scripts send it as ``Authorization: Bearer``. Browsers get
  a cookie for it that no script can read and no other site can use. The cookie is derived from
  the token and does not reveal it. It is ``Secure`` if the form came from an https origin, as the
  browser itself reports.

The headers in which a proxy names its client (``X-Forwarded-*``, ``Forwarded``) are not read:
every client can send them.
"""

import asyncio
import hashlib
import hmac
import ipaddress
from collections import deque
from collections.abc import Collection, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telemetry_agent.addresses import is_literal
from telemetry_agent.page.files import static_text

COOKIE = "telemetry-agent"
_COOKIE_S = 30 * 86400
_OPEN_PATHS = ("/login", "/static/")
_WRONG_TOKENS = 10
_WRONG_TOKENS_WITHIN_S = 60.0
_PEERS = 1000
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Refusal(NamedTuple):
    """The answer to a request that is not admitted."""

    status: int
    text: str


class AccessPolicy:
    """The rules of one page.

    Args:
        names: the host names of this device; its addresses are always valid.
        token: what admits a viewer; ``None``: none is needed.
        proxied: names, or names with ports, under which a reverse proxy serves the page.
    """

    def __init__(self, names: set[str], token: str | None, proxied: Collection[str] = ()) -> None:
        hosts = {name.rpartition(":")[0] or name for name in proxied}
        self._names = {name.lower() for name in names | hosts} | {"localhost"}
        self._proxied = {name.lower() for name in proxied}
        self._token = token
        self._pass = "" if token is None else _pass(token)

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why this request is refused; ``None``: it is admitted. Header names in lower case."""
        if not self._is_ours(headers.get("host", "")):
            return Refusal(
                421,
                "This device does not answer to that name. Use its address or its host name, or "
                "add the name to page.names.",
            )
        # A browser never sends this header for another site, so the next two checks are not needed.
        if self._has_token(headers):
            return None
        if not _from_itself(method, path, headers):
            return Refusal(403, "Another web site may only link to this page.")
        if method not in {"GET", "HEAD"} and not self._asked_by_itself(headers):
            return Refusal(403, "Only the page itself may ask for this.")
        if self._token is None or path.startswith(_OPEN_PATHS) or self._has_pass(headers):
            return None
        return Refusal(401, "The token of page.token_file is needed.")

    def shows_token(self, headers: Mapping[str, str]) -> bool:
        """Whether the request has a token, right or wrong, and the page needs one."""
        return self._token is not None and "authorization" in headers

    def shows_wrong_token(self, headers: Mapping[str, str]) -> bool:
        """Whether the request has a wrong token."""
        return self.shows_token(headers) and not self._has_token(headers)

    def cookie(self, token: str, headers: Mapping[str, str]) -> str | None:
        """The cookie for a viewer with this token; ``None``: the token is wrong.

        It has no path: the browser then uses it for the folder of the form, which may have any
        name behind a proxy.
        """
        if self._token is None or not _same(token, self._token):
            return None
        secure = "; Secure" if _origin(headers).scheme == "https" else ""
        return f"{COOKIE}={self._pass}; Max-Age={_COOKIE_S}; HttpOnly; SameSite=Strict{secure}"

    def _asked_by_itself(self, headers: Mapping[str, str]) -> bool:
        origin = _origin(headers)
        if origin.scheme not in _DEFAULT_PORTS:
            return False
        if origin.netloc == headers.get("host"):
            return True
        name = origin.netloc.lower()
        return (name.removesuffix(f":{_DEFAULT_PORTS[origin.scheme]}")) in self._proxied

    def _is_ours(self, host: str) -> bool:
        parts = _split(f"//{host}")
        if parts.netloc != host or "@" in host:
            return False
        name = parts.hostname or ""
        return name.rstrip(".") in self._names or is_literal(name)

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        return self._token is not None and kind.lower() == "bearer" and _same(token, self._token)

    def _has_pass(self, headers: Mapping[str, str]) -> bool:
        cookies = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return any(name == COOKIE and _same(value, self._pass) for name, _, value in cookies)


class WrongTokens:
    """Slows down guessing: after ten wrong tokens in a minute no token of that peer is looked at.

    A peer is an IPv4 address or a 64-bit IPv6 network. A browser that has its cookie is not
    affected.
    """

    def __init__(self) -> None:
        self._peers: dict[str, deque[float]] = {}

    def wait_s(self, peer: str, now_s: float) -> float:
        """For how long no token of that peer is looked at; 0: the next one is."""
        times = self._peers.get(_network_of(peer))
        if times is None or len(times) < _WRONG_TOKENS:
            return 0.0
        return max(0.0, times[0] + _WRONG_TOKENS_WITHIN_S - now_s)

    def count(self, peer: str, now_s: float) -> None:
        """Count a wrong token of that peer."""
        times = self._peers.pop(_network_of(peer), None) or deque(maxlen=_WRONG_TOKENS)
        times.append(now_s)
        self._peers[_network_of(peer)] = times  # the newest peer is last
        if len(self._peers) > _PEERS:
            del self._peers[next(iter(self._peers))]


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


def _network_of(peer: str) -> str:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _from_itself(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Browsers report which site a request comes from; other clients report nothing."""
    if headers.get("sec-fetch-site", "none") in {"same-origin", "none"}:
        return True
    navigates = headers.get("sec-fetch-mode") == "navigate"
    return (
        navigates and headers.get("sec-fetch-dest") == "document" and (method, path) == ("GET", "/")
    )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # such as a bracket that is not closed
        return urlsplit("")


def _origin(headers: Mapping[str, str]) -> SplitResult:
    return _split(headers.get("origin", ""))


def _pass(token: str) -> str:
    return hmac.digest(token.encode(), b"telemetry-agent page", hashlib.sha256).hex()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
