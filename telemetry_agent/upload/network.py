"""Connections whose every wait ends: by the deadline of the exchange, or when told to stop.

Theory of operation. A time limit on each socket call bounds nothing: a peer that drips one byte a
second passes all of them, for ever. So the limit belongs to the exchange. ``begin`` sets one
instant, and each blocking call (a look-up, a connect, one ``send``, one ``recv``) is given no more
than what is left until then. TLS runs over memory buffers, so the handshake, too, is made of such
``send`` and ``recv``; there is no other place to block.

``abort`` ends the call that is under way: ``shutdown`` wakes a thread that connects, sends or
receives, and the condition wakes one that waits for a look-up. It lasts until ``rearm``, because
an abort that comes between two calls must end the next one too. Closing takes the same lock as
``abort``, so that a descriptor which the system gave to someone else is never shut down.

Name resolution cannot be interrupted. It runs in daemon threads, of which each name has at most
one: an exchange that finds a look-up pending joins it. Where the name server stays silent, the
addresses that it told last serve: a network without names is still a way.
"""

import contextlib
import errno
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from telemetry_agent.clock import Clock
from telemetry_agent.fixjson import rfc3339
from telemetry_agent.model import UploadState

Resolve = Callable[[str, int], list[Any]]
"""(host, port) -> what ``socket.getaddrinfo`` returns, for TCP."""

_NO_ROUTE = {errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}
_WRONG_TIME = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_CLOCK_IS_RIGHT_MS = 600_000
_RECV_BYTES = 65536
_RST_AT_CLOSE = struct.pack("ii", 1, 0)  # linger: on, for 0 s

T = TypeVar("T")


class NetworkError(Exception):
    """The network did not carry the exchange. The text says why, in words for the user."""

    def __init__(self, reason: str, state: UploadState = "unreachable") -> None:
        super().__init__(reason)
        self.state: UploadState = state


class BrokenError(NetworkError):
    """The connection was there and broke."""


def _words(error: ssl.SSLError) -> str:
    return (error.reason or "the connection was closed").lower().replace("_", " ")


def resolve_tcp(host: str, port: int) -> list[Any]:
    """Ask the system's resolver."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class _Lookup:
    """One name on its way: ``result`` is set when the answer is there."""

    result: list[Any] | Exception | None = None


class Network:
    """Opens connections and keeps the deadline of the one exchange that uses them."""

    def __init__(
        self,
        clock: Clock,
        resolve: Resolve = resolve_tcp,
        connect_timeout_s: float = 5.0,
        look_up_timeout_s: float = 5.0,
        gnss_ms: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            clock: The machine's clocks.
            resolve: Finds the addresses of a name.
            connect_timeout_s: For each address; a name may have several, which share alike.
            look_up_timeout_s: How long a name server may be silent where older addresses serve.
            gnss_ms: UTC now as the receiver has it, in milliseconds since 1970; ``None``: unknown.
                It tells an expired certificate from a wrong clock.
        """
        self.sent_bytes = 0
        """Since the start, at the sockets; so is ``received_bytes``."""
        self.received_bytes = 0
        self.connected = False
        """Whether this exchange opened a connection (or tried)."""
        self.answering = False
        """Whether a byte of the answer of this exchange has come."""
        self._clock = clock
        self._resolve = resolve
        self._connect_timeout_s = connect_timeout_s
        self._gnss_ms = gnss_ms
        self._session: ssl.SSLSession | None = None
        self._look_up_timeout_s = look_up_timeout_s
        self._until_s = 0.0
        self._timeout_s = 0.0
        self._family = socket.AF_UNSPEC  # the one that worked last is tried first
        self._changed = threading.Condition()  # guards what follows
        self._aborted = False
        self._current: socket.socket | None = None
        self._lookups: dict[tuple[str, int], _Lookup] = {}
        self._known: dict[tuple[str, int], list[Any]] = {}

    def begin(self, timeout_s: float) -> None:
        """Start an exchange that must be over in ``timeout_s`` seconds."""
        self._timeout_s = timeout_s
        self._until_s = self._clock.monotonic_s() + timeout_s
        self.connected = self.answering = False

    def abort(self) -> None:
        """End what is under way, and all that is begun before ``rearm``. Any thread may call."""
        with self._changed:
            self._aborted = True
            if self._current is not None:
                # Unconnected, or gone already: then nobody waits for it.
                with contextlib.suppress(OSError):
                    self._current.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()

    def rearm(self) -> None:
        """Allow exchanges again after an abort."""
        with self._changed:
            self._aborted = False

    @property
    def aborted(self) -> bool:
        """Whether ``abort`` was called, and no ``rearm`` since."""
        return self._aborted

    @property
    def over(self) -> bool:
        """Whether nothing more can be done in this exchange: aborted, or its time has passed."""
        return self._aborted or self._clock.monotonic_s() >= self._until_s

    def left_s(self, what: str, sock: socket.socket | None = None) -> float:
        """Seconds that a call on ``sock`` may take; it is what an abort ends from now on.

        Raises:
            NetworkError: aborted, or the deadline has passed: "``what`` within 30 s".
        """
        with self._changed:
            if self._aborted:
                raise NetworkError("stopped")
            self._current = sock
        left_s = self._until_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise NetworkError(f"{what} within {self._timeout_s:g} s")
        return left_s

    def close(self, sock: socket.socket) -> None:
        """Close ``sock``, never while an abort shuts it down."""
        with self._changed:
            if self._current is sock:
                self._current = None
            if self._aborted and sock.fileno() >= 0:
                # With RST: else the kernel says goodbye into a dead network for minutes, and
                # whoever wants to use it when it lives again waits for the answer to that.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_AT_CLOSE)
            sock.close()

    def connect(self, host: str, port: int) -> "Connection":
        """Try the addresses of ``host`` one after another.

        Raises:
            NetworkError: none could be reached.
        """
        self.connected = True
        addresses = self._look_up(host, port)
        addresses.sort(key=lambda address: address[0] != self._family)
        failures: list[str] = []
        states: set[UploadState] = set()
        for left, (family, kind, protocol, _, address) in zip(
            range(len(addresses), 0, -1), addresses, strict=True
        ):
            peer = f"[{address[0]}]:{address[1]}" if ":" in address[0] else "{}:{}".format(*address)
            sock: socket.socket | None = None
            try:
                sock = socket.socket(family, kind, protocol)
                left_s = self.left_s(f"no connection to {peer}", sock)
                # A dead address leaves time for those behind it.
                sock.settimeout(min(left_s / left, self._connect_timeout_s))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                failures.append(self._why_not(error, peer))
                states.add("no-route" if error.errno in _NO_ROUTE else "unreachable")
            else:
                self._family = family
                return Connection(self, sock, peer)
            if sock is not None:
                self.close(sock)
        self.left_s(f"no connection to {host}")  # an abort fails a connect with any error
        raise NetworkError(
            "; ".join(dict.fromkeys(failures)),
            "no-route" if states == {"no-route"} else "unreachable",
        )

    def shake_hands(
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

    def _why_not(self, error: OSError, peer: str) -> str:
        if isinstance(error, TimeoutError):
            return f"no connection to {peer} within {self._connect_timeout_s:g} s"
        if isinstance(error, ConnectionRefusedError):
            return f"connection refused by {peer}"
        if error.errno in _NO_ROUTE:
            return f"no route to {peer}"
        return f"no connection to {peer}: {error.strerror or error}"

    def _look_up(self, host: str, port: int) -> list[Any]:
        with self._changed:
            lookup = self._lookups.get((host, port))
            if lookup is None:
                lookup = self._lookups[host, port] = _Lookup()
                threading.Thread(
                    target=self._run_lookup,
                    args=(host, port, lookup),
                    name=f"resolve {host}",
                    daemon=True,
                ).start()
            known = self._known.get((host, port))
        patient_until_s = self._clock.monotonic_s() + self._look_up_timeout_s
        while True:
            left_s = self.left_s(f"no name server told the address of {host}")
            if known is not None:
                left_s = min(left_s, patient_until_s - self._clock.monotonic_s())
                if left_s <= 0:
                    return list(known)
            with self._changed:
                if lookup.result is None and not self._aborted:
                    self._changed.wait(left_s)
                result = lookup.result
            if isinstance(result, socket.gaierror) and result.errno == socket.EAI_AGAIN:
                if known is not None:
                    return list(known)
                raise NetworkError(f"no name server tells the address of {host}")
            if isinstance(result, Exception):
                raise NetworkError(f"name {host} does not resolve") from result
            if result is not None:
                return list(result)

    def _run_lookup(self, host: str, port: int, lookup: _Lookup) -> None:
        result: list[Any] | Exception
        try:
            result = self._resolve(host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError: no name can be spelled like that
            result = error
        with self._changed:
            lookup.result = result
            if isinstance(result, list):
                self._known[host, port] = result
            del self._lookups[host, port]
            self._changed.notify_all()


class Connection:
    """One TCP connection, with TLS on it after ``start_tls``."""

    def __init__(self, network: Network, sock: socket.socket, peer: str) -> None:
        self.tls: ssl.SSLObject | None = None
        self.verified = False
        """Whether a certificate proved who the peer is."""
        self._network = network
        self._sock = sock
        self._peer = peer
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
            self._network.answering = True
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
        tls = self._network.shake_hands(context, self._incoming, self._outgoing, hostname)
        try:
            self._through_tls(tls.do_handshake, f"no TLS handshake with {self._peer}")
        except ssl.SSLCertVerificationError as error:
            wrong_time = error.verify_code in _WRONG_TIME
            doubt = self._network.doubt_of_the_clock() if wrong_time else ""
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
            self._network.remember(self.tls)
        self._closed = True
        self._network.close(self._sock)

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
            self._sock.settimeout(self._network.left_s(what, self._sock))
            try:
                data = self._sock.recv(max_bytes)
            except TimeoutError:
                continue
            except OSError as error:
                raise self._broken(error) from error
            self._network.received_bytes += len(data)
            return data

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(self._network.left_s("the request was not read", self._sock))
            try:
                count = self._sock.send(rest)
            except TimeoutError:
                continue
            except OSError as error:
                raise self._broken(error) from error
            self._network.sent_bytes += count
            rest = rest[count:]

    def _broken(self, error: OSError) -> BrokenError:
        why = error.strerror or str(error)
        return BrokenError(f"connection to {self._peer} broke: {why.lower()}")
