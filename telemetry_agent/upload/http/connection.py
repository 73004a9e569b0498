"""One connection to the endpoint, with or without TLS.

TLS runs over memory buffers, so that the socket is read and written in one place. There each wait
ends as ``dialer`` says, and the bytes on the wire are counted.
"""

import contextlib
import errno
import math
import select
import socket
import ssl
import struct
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from telemetry_agent.addresses import Address
from telemetry_agent.upload.http.dialer import BrokenError, Dialer, NetworkError
from telemetry_agent.upload.quoting import quoted

WRONG_TIME = {9: "certificate is not yet valid", 10: "certificate has expired"}
"""By OpenSSL's X509_V_ERR_…. Its own words suspect the clock, also where that is right."""
_RECV_BYTES = 65536
_RST_AT_CLOSE = struct.pack("ii", 1, 0)  # linger: on, for 0 s

_IDLE_S = 1.0  # a connection that was idle for less is as good as new
_USER_TIMEOUT_SHARE = 1 / 6  # of the time for the whole exchange
_AGE_MAX_S = 600.0

T = TypeVar("T")


class Connection:
    """One TCP connection, with TLS on it after ``start_tls``.

    To receive, to send and the handshake raise a ``NetworkError`` if the connection broke, the
    exchange was aborted, or its time has passed.
    """

    def __init__(self, dialer: Dialer, sock: socket.socket) -> None:
        """``sock`` is connected, and does not block."""
        self.tls: ssl.SSLObject | None = None
        """A certificate has proved who the peer is."""
        self._dialer = dialer
        self._sock = sock
        self._peer = _name_of_peer(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._closed = False
        self._heard = b""  # the first bytes that came
        self._opened_s = self._used_s = self._dialer.now_s
        self._idle_s = 0.0  # before the request under way, until a byte of its answer has come
        self._unanswered = False  # nothing was received since something was sent

    def recv(self, max_bytes: int) -> bytes:
        """Return some bytes; none when the peer has closed."""
        tls = self.tls
        if tls is None:
            data = self._recv(max_bytes, "no answer")
        else:
            try:
                data = self._through_tls(lambda: tls.read(max_bytes), "no answer")
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                # Many servers end TLS without close_notify, Python's own http.server for one. To
                # insist on it would mean that an answer without a length never arrives from them.
                data = b""
            except ssl.SSLError as error:
                raise self._tls_error(error) from error
        if data:
            self._dialer.note_answer()
            self._used_s = self._dialer.now_s
            self._unanswered = False
            if self._idle_s:
                self._idle_s = 0.0
                self._set_user_timeout(0)
        return data

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        self._unanswered = True
        idle_s = self._dialer.now_s - self._used_s
        if idle_s > _IDLE_S:
            self._idle_s = idle_s
            self._set_user_timeout(self._dialer.timeout_s * _USER_TIMEOUT_SHARE)
        tls = self.tls
        if tls is None:
            self._send(data)
            return
        try:
            self._through_tls(lambda: tls.write(data), "the request was not read")
        except ssl.SSLError as error:
            raise self._tls_error(error) from error

    def start_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Do the TLS handshake that ``context`` requires."""
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        if self._dialer.tls_session is not None:
            # A resumed handshake carries no certificates, and needs a quarter of the bytes. A
            # session of another context, perhaps with other certificates, is refused here.
            with contextlib.suppress(ValueError):
                tls.session = self._dialer.tls_session
        try:
            self._through_tls(tls.do_handshake, f"no TLS handshake with {self._peer}")
        except ssl.SSLCertVerificationError as error:
            said = error.verify_message.rstrip(".")
            if error.verify_code in WRONG_TIME:
                said = WRONG_TIME[error.verify_code] + self._dialer.doubt_of_the_clock()
            raise NetworkError(f"certificate not trusted: {said}") from error
        except ssl.SSLError as error:
            if self._heard and not is_tls(self._heard):
                # "<": Python's http.server answers with a page alone to what is not HTTP.
                http = self._heard.startswith((b"HTTP/", b"<"))
                said = "answers in plain http" if http else f"says {quoted(self._heard)}"
                raise NetworkError(
                    f"no TLS handshake with {self._peer}: it {said}",
                    speaks="http" if http else "other",
                ) from error
            raise NetworkError(
                f"TLS handshake with {self._peer} failed: {tls_words(error)}",
                refuses_certificate=refuses_certificate(error),
            ) from error
        self.tls = tls

    def _set_user_timeout(self, seconds: float) -> None:
        # How long the kernel waits for its bytes to be acknowledged before it gives up. A server
        # that takes its time to answer has acknowledged them at once.
        timeout_ms = math.ceil(seconds * 1000)
        with contextlib.suppress(OSError):  # it is broken already, which the next call reports
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)

    def stale(self) -> bool:
        """Whether an idle connection is not to be used any more."""
        now_s = self._dialer.now_s
        return (
            self._closed
            or now_s - self._used_s > self._dialer.idle_max_s
            # The name may lead elsewhere by now, while the old address still answers.
            or now_s - self._opened_s > _AGE_MAX_S
            or self._readable()
        )

    def close(self) -> None:
        """Close without notice to the peer. Idempotent."""
        if self._closed:
            return
        if self.tls is not None:
            self._dialer.note_tls_session(self.tls.session)
        if self._dialer.aborted or self._unanswered:
            # With RST: else the kernel goes on sending what waits in its buffer, and its FIN, for
            # minutes. The next try would have to share a slow link with that.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_AT_CLOSE)
        self._closed = True
        self._sock.close()

    def _readable(self) -> bool:
        """Whether the peer has sent something unasked, or has closed."""
        if self.tls is not None and (self.tls.pending() or self._incoming.pending):
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def _through_tls(self, operation: Callable[[], T], what: str) -> T:
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self._send(self._outgoing.read())
                data = self._recv(_RECV_BYTES, what)
                self._heard = self._heard or data
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                # The peer learns why from the alert, if it is still there.
                with contextlib.suppress(NetworkError):
                    self._send(self._outgoing.read())
                raise
            else:
                self._send(self._outgoing.read())
                return result

    def _recv(self, max_bytes: int, doing: str) -> bytes:
        data = self._when_ready(doing, select.POLLIN, lambda: self._sock.recv(max_bytes))
        self._dialer.count(received_bytes=len(data))
        return data

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            send = partial(self._sock.send, rest)
            count = self._when_ready("the request was not read", select.POLLOUT, send)
            self._dialer.count(sent_bytes=count)
            rest = rest[count:]

    def _when_ready(self, doing: str, event: int, operation: Callable[[], T]) -> T:
        while True:
            self._dialer.left_s(doing)
            try:
                return operation()
            except BlockingIOError:
                self._dialer.wait(doing, [(self._sock.fileno(), event)])
            except OSError as error:
                if error.errno == errno.ETIMEDOUT and self._idle_s:
                    self._dialer.note_died_idle(self._idle_s)
                why = (error.strerror or str(error)).lower()
                raise BrokenError(f"connection to {self._peer} broke: {why}") from error

    def _tls_error(self, error: ssl.SSLError) -> BrokenError:
        return BrokenError(
            f"TLS error from {self._peer}: {tls_words(error)}",
            refuses_certificate=refuses_certificate(error),
        )


def _name_of_peer(sock: socket.socket) -> str:
    try:
        return str(Address(sock.family, sock.getpeername()))
    except OSError:  # it is gone already
        return "the server"


def is_tls(data: bytes) -> bool:
    """Whether it begins with an alert or a handshake of TLS."""
    return data.startswith((b"\x15\x03", b"\x16\x03"))


def tls_words(error: ssl.SSLError) -> str:
    """What failed."""
    if error.reason is None or isinstance(error, ssl.SSLEOFError):
        return "the connection was closed"
    said = error.reason.lower().replace("_", " ")
    if refuses_certificate(error):
        about = said.rpartition(" alert ")[2]
        return f"the endpoint refuses this device's certificate (upload.client_cert): {about}"
    return said


def refuses_certificate(error: ssl.SSLError) -> bool:
    """Whether the peer sent an alert that names a certificate: it means this device's."""
    _, _, about = (error.reason or "").lower().partition("_alert_")
    return "certificate" in about or about == "unknown_ca"
