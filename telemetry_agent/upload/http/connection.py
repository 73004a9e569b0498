"""One connection, with or without TLS.

TLS keeps two things from one connection to the next: the session, and what the clocks say of a
certificate whose time is not now (``Handshakes``).
"""

import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from telemetry_agent.clock import Clock
from telemetry_agent.fields import rfc3339
from telemetry_agent.upload.http.attempt import Attempt, BrokenError, NetworkError

_WRONG_TIME = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_CLOCK_IS_RIGHT_MS = 600_000
_RECV_BYTES = 65536

T = TypeVar("T")


class Handshakes:
    """How TLS begins on each connection to one endpoint."""

    def __init__(self, clock: Clock, gnss_ms: Callable[[], int | None]) -> None:
        """``gnss_ms`` tells an expired certificate from a wrong clock; see ``Network``."""
        self._clock = clock
        self._gnss_ms = gnss_ms
        self._session: ssl.SSLSession | None = None

    def start(
        self, context: ssl.SSLContext, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, host: str
    ) -> ssl.SSLObject:
        """TLS that resumes the last session where that was made with the same ``context``.

        A resumed handshake carries no certificates: a quarter of the bytes.
        """
        tls = context.wrap_bio(incoming, outgoing, server_hostname=host)
        if self._session is not None:
            # Of another context, then its certificates may be others: shake hands in full.
            with contextlib.suppress(ValueError):
                tls.session = self._session
        return tls

    def remember(self, tls: ssl.SSLObject) -> None:
        """Note the session of a connection that ends."""
        self._session = tls.session

    def doubt_of_the_clock(self) -> str:
        """To be said beside a certificate whose time is not now."""
        wall_ms, gnss_ms = self._clock.wall_ms(), self._gnss_ms()
        if gnss_ms is None:
            return " (or this machine's clock is wrong)"
        if abs(wall_ms - gnss_ms) < _CLOCK_IS_RIGHT_MS:
            return ""
        return (
            f": this machine's clock is wrong, it says {rfc3339(wall_ms)} and GNSS says "
            f"{rfc3339(gnss_ms)}; please set it"
        )


def _words(error: ssl.SSLError) -> str:
    return (error.reason or "the connection was closed").lower().replace("_", " ")


class Connection:
    """One TCP connection, with TLS on it after ``start_tls``."""

    def __init__(
        self, attempt: Attempt, sock: socket.socket, peer: str, handshakes: Handshakes
    ) -> None:
        self.tls: ssl.SSLObject | None = None
        self.verified = False
        """Whether a certificate proved who the peer is."""
        self._attempt = attempt
        self._sock = sock
        self._peer = peer
        self._handshakes = handshakes
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._closed = False

    def recv(self, max_bytes: int) -> bytes:
        """Some bytes; none when the peer has closed.

        Raises:
            NetworkError: the connection broke, or the deadline has passed.
        """
        if self.tls is None:
            data = self._recv(max_bytes, "no answer")
        else:
            tls = self.tls
            try:
                data = self._through_tls(lambda: tls.read(max_bytes), "no answer")
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            except ssl.SSLError as error:
                raise BrokenError(f"TLS error from {self._peer}: {_words(error)}") from error
        if data:
            self._attempt.answering = True
        return data

    def send(self, data: bytes) -> None:
        """Send all of ``data``.

        Raises:
            NetworkError: the connection broke, or the deadline has passed.
        """
        if self.tls is None:
            self._send(data)
            return
        tls = self.tls
        try:
            self._through_tls(lambda: tls.write(data), "the request was not read")
        except ssl.SSLError as error:
            raise BrokenError(f"TLS error from {self._peer}: {_words(error)}") from error

    def start_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Shake hands as ``context`` demands.

        Raises:
            NetworkError: the certificate is not trusted, the handshake failed or took too long.
        """
        tls = self._handshakes.start(context, self._incoming, self._outgoing, hostname)
        try:
            self._through_tls(tls.do_handshake, f"no TLS handshake with {self._peer}")
        except ssl.SSLCertVerificationError as error:
            wrong_time = error.verify_code in _WRONG_TIME
            doubt = self._handshakes.doubt_of_the_clock() if wrong_time else ""
            raise NetworkError(
                f"certificate not trusted: {error.verify_message.rstrip('.')}{doubt}"
            ) from error
        except ssl.SSLError as error:
            raise NetworkError(
                f"TLS handshake with {self._peer} failed: {_words(error)}"
            ) from error
        self.tls = tls
        self.verified = context.verify_mode == ssl.CERT_REQUIRED

    def readable(self) -> bool:
        """Whether there is something to read: on an idle connection, that it cannot be used."""
        if self._closed or (
            self.tls is not None and (self.tls.pending() or self._incoming.pending)
        ):
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close without a word to the peer. Idempotent."""
        if self.tls is not None and not self._closed:
            self._handshakes.remember(self.tls)
        self._closed = True
        self._attempt.close(self._sock)

    def _through_tls(self, operation: Callable[[], T], what: str) -> T:
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self._send(self._outgoing.read())
                data = self._recv(_RECV_BYTES, what)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                # The alert tells the peer why; it may be gone.
                with contextlib.suppress(NetworkError):
                    self._send(self._outgoing.read())
                raise
            else:
                self._send(self._outgoing.read())
                return result

    def _recv(self, max_bytes: int, what: str) -> bytes:
        while True:
            self._sock.settimeout(self._attempt.left_s(what, self._sock))
            try:
                data = self._sock.recv(max_bytes)
            except TimeoutError:
                continue
            except OSError as error:
                raise self._broken(error) from error
            self._attempt.received_bytes += len(data)
            return data

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(self._attempt.left_s("the request was not read", self._sock))
            try:
                count = self._sock.send(rest)
            except TimeoutError:
                continue
            except OSError as error:
                raise self._broken(error) from error
            self._attempt.sent_bytes += count
            rest = rest[count:]

    def _broken(self, error: OSError) -> BrokenError:
        why = error.strerror or str(error)
        return BrokenError(f"connection to {self._peer} broke: {why.lower()}")
