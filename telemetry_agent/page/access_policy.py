"""Who may come in. Pure: it sees a request's method, path and headers, and decides.

Four things are looked at, the cheapest lie first:

- *Host*: a web site may let its own name point at this device (DNS rebinding), and its scripts
  would then be of the same origin as the page. So the name that the browser used must be one of
  this device: an address, its host name, or the name in ``page.listen``.
- *Fetch metadata*: other sites may link to the page, and nothing else.
- *Origin*: what changes something must be asked by the page itself.
- *Token*: where there is one, it is needed. Scripts send it as ``Authorization: Bearer``; browsers
  get a cookie for it that no script can read and no other site can use. The cookie is made from
  the token and does not tell it.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from telemetry_agent.addresses import is_literal

COOKIE = "telemetry-agent"
_COOKIE_S = 30 * 86400
_OPEN_PATHS = ("/login", "/static/")


class Refusal(NamedTuple):
    """Why not."""

    status: int
    text: str


class AccessPolicy:
    """The rules of one page.

    Args:
        names: the host names under which it may be asked for, beside all addresses.
        token: what lets a viewer in; ``None``: nothing is needed.
    """

    def __init__(self, names: set[str], token: str | None) -> None:
        self._names = {name.lower() for name in names} | {"localhost"}
        self._token = token
        self._pass = "" if token is None else _pass(token)

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why this request is refused; ``None``: it is let in. Header names are in lower case."""
        if not self._is_ours(headers.get("host", "")):
            return Refusal(
                421,
                "This device does not answer to that name. Ask for it by its address or its host "
                "name, or put the name into page.listen.",
            )
        # A script shows the token itself: no browser was made to send it.
        if self._has_token(headers):
            return None
        if not _from_itself(method, path, headers):
            return Refusal(403, "Another web site may only link to this page.")
        if method not in {"GET", "HEAD"} and not _asked_by_itself(headers):
            return Refusal(403, "Only the page itself may ask for this.")
        if self._token is None or path.startswith(_OPEN_PATHS) or self._has_pass(headers):
            return None
        return Refusal(401, "The token of page.token_file is needed.")

    def cookie(self, token: str) -> str | None:
        """The cookie to set for a viewer who shows this token; ``None``: it is wrong."""
        if self._token is None or not _same(token, self._token):
            return None
        return f"{COOKIE}={self._pass}; Max-Age={_COOKIE_S}; Path=/; HttpOnly; SameSite=Strict"

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name.rstrip(".") in self._names or is_literal(name)

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        return self._token is not None and kind.lower() == "bearer" and _same(token, self._token)

    def _has_pass(self, headers: Mapping[str, str]) -> bool:
        cookies = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return any(name == COOKIE and _same(value, self._pass) for name, _, value in cookies)


def _from_itself(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Browsers say who asks; what is no browser says nothing."""
    if headers.get("sec-fetch-site", "none") in {"same-origin", "none"}:
        return True
    navigates = headers.get("sec-fetch-mode") == "navigate"
    return (
        navigates and headers.get("sec-fetch-dest") == "document" and (method, path) == ("GET", "/")
    )


def _asked_by_itself(headers: Mapping[str, str]) -> bool:
    origin = urlsplit(headers.get("origin", ""))
    return origin.scheme in {"http", "https"} and origin.netloc == headers.get("host")


def _pass(token: str) -> str:
    return hmac.digest(token.encode(), b"telemetry-agent page", hashlib.sha256).hex()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
