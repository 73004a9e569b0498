"""A connection to the endpoint: TLS, writes and reuse, also behind a NAT."""

import contextlib
import socket
import statistics
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from misbehaving import Server, answer, drips, hang_up, tls_server_context, trusting
from netns import Namespace, network
from upload.upload_parts import PAYLOAD, answered, transport_to, unanswered

from telemetry_agent import addresses
from telemetry_agent.clock import Clock
from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport


def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    with Server() as server, transport_to(server.url) as transport:
        answered(transport.exchange(PAYLOAD, 60))
        server.close_idle()
        answered(transport.exchange(PAYLOAD, 60))
        assert server.connections == 2


def test_what_got_no_answer_is_not_sent_any_further() -> None:
    """Otherwise the next try shares a slow link with the bytes left in the kernel's send buffer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        payload = Payload(bytes(10_000_000), {})
        with transport_to(url) as transport:
            unanswered(transport.exchange(payload, 1.0))
            with listening.accept()[0] as server:
                server.settimeout(60)
                with pytest.raises(ConnectionResetError):
                    list(iter(lambda: server.recv(1 << 20), b""))


def test_tls_is_verified_and_says_so() -> None:
    with (
        Server(tls=tls_server_context()) as server,
        transport_to(server.url, credentials=trusting()) as transport,
    ):
        big = Payload(b"x" * 1_000_000, {})
        assert answered(transport.exchange(big, 60)).verified_tls
        assert answered(transport.exchange(PAYLOAD, 60)).verified_tls
        assert server.connections == 1
        assert [len(request.body) for request in server.requests] == [1_000_000, 12]
        assert transport.dialer.sent_bytes > 1_000_000


def test_a_tls_server_that_hangs_up_is_noticed_at_once() -> None:
    with (
        Server(answer(), hang_up(), hang_up(), tls=tls_server_context()) as server,
        transport_to(server.url, credentials=trusting()) as transport,
    ):
        answered(transport.exchange(PAYLOAD, 60))
        reason = unanswered(transport.exchange(PAYLOAD, 60))
        assert reason == "the server closed the connection without an answer"


def test_a_certificate_that_nobody_trusts_is_the_network() -> None:
    with Server(tls=tls_server_context()) as server, transport_to(server.url) as transport:
        reason = unanswered(transport.exchange(PAYLOAD, 60))
        assert reason == "certificate not trusted: self-signed certificate"
        assert server.requests == []


def test_a_certificate_for_another_name_is_not_trusted() -> None:
    dialer = Dialer(Clock(), lambda host, port: addresses.resolve("127.0.0.1", port))
    with Server(tls=tls_server_context()) as server:
        url = f"https://other.example:{server.port}/"
        credentials = trusting()
        with transport_to(url, credentials=credentials, dialer=dialer) as transport:
            reason = unanswered(transport.exchange(PAYLOAD, 60))
    assert reason.startswith("certificate not trusted: Hostname mismatch")


@pytest.mark.parametrize(
    "first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"<!DOCTYPE HTML>\n<h1>Error response</h1>"]
)
def test_a_plain_server_behind_an_https_url_is_named(first: bytes) -> None:
    with Server(drips(b"", first=first, at_once=True)) as server:
        url = server.url.replace("http:", "https:")
        with transport_to(url, credentials=trusting()) as transport:
            reason = unanswered(transport.exchange(PAYLOAD, 60))
    assert reason == f"no TLS handshake with 127.0.0.1:{server.port}: it answers in plain http"


def test_head_and_body_leave_in_one_write() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        first: list[bytes] = []

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                first.append(sock.recv(65536))
                sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with closing(Transport(f"http://127.0.0.1:{port}/")) as transport:
            transport.exchange(Payload(b"x" * 500, {}), 60)
        thread.join(60)
    assert first[0].endswith(b"x" * 500)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.ports.append(self.client_address[1])  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class LaterClock(Clock):
    """A clock that a test can move forward at once."""

    passed_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.passed_s


@contextlib.contextmanager
def way() -> Iterator[tuple[Namespace, Namespace]]:
    with network() as net:
        device, far = net.namespace("device"), net.namespace("far")
        net.cable(device, "eth0", far, "eth0")
        device.ip("addr add 10.9.0.11/24 dev eth0")
        far.ip("addr add 10.9.0.2/24 dev eth0")
        server = far.inside(lambda: ThreadingHTTPServer(("10.9.0.2", 8080), Handler))
        server.ports = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield device, far
        finally:
            server.shutdown()
            server.server_close()
            thread.join(60)


def forget(device: Namespace, far: Namespace, number: int) -> None:
    """Act as a NAT that drops its state: the device's connections carry nothing; new ones work.

    New connections use another source address.
    """
    far.ip(f"route add blackhole 10.9.0.{number}/32")
    device.ip(f"addr add 10.9.0.{number + 1}/24 dev eth0")
    device.ip(f"route replace 10.9.0.0/24 dev eth0 src 10.9.0.{number + 1}")


def test_after_one_lesson_no_request_waits_for_a_connection_that_a_nat_forgot() -> None:
    with way() as (device, far):
        clock = LaterClock()
        transport = Transport("http://10.9.0.2:8080/", dialer=Dialer(clock))
        took_s: list[float] = []

        def post() -> None:
            began_s = Clock().monotonic_s()
            answer = device.inside(lambda: transport.exchange(Payload(b"fix", {}), 36.0))
            assert isinstance(answer, Answer)
            took_s.append(Clock().monotonic_s() - began_s)

        for number in range(11, 18):
            post()
            forget(device, far, number)
            clock.passed_s += 10
        assert took_s[1] < 30  # learning costs a sixth of the deadline, then a fresh connection
        assert statistics.median(took_s[2:]) < 4  # learning takes 6 s
        transport.close()


@contextlib.contextmanager
def near(keepalive_s: float) -> Iterator[tuple[Transport, LaterClock, list[int]]]:
    """A server on this machine, and the source ports of its clients."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ports = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        clock = LaterClock()
        url = f"http://127.0.0.1:{server.server_port}/"
        with contextlib.closing(
            Transport(url, dialer=Dialer(clock, keepalive_s=keepalive_s))
        ) as transport:
            yield transport, clock, server.ports  # type: ignore[attr-defined]
        server.shutdown()
        thread.join(60)


def test_a_connection_is_used_for_ten_minutes_at_most() -> None:
    with near(keepalive_s=3600) as (transport, clock, ports):
        for _ in range(25):
            transport.exchange(Payload(b"fix", {}), 10)
            clock.passed_s += 60
    assert len(set(ports)) == 3


@pytest.mark.parametrize("pipelined", [False, True])
def test_an_idle_connection_is_used_as_long_as_it_is_kept(pipelined: bool) -> None:
    with near(keepalive_s=30) as (transport, clock, ports):
        for idle_s in (0, 29, 31, 29):
            clock.passed_s += idle_s
            failure, _ = transport.series(
                [Payload(b"fix", {})], 10, lambda _: True, pipelined=pipelined
            )
            assert failure is None
    assert ports[0] == ports[1] != ports[2] == ports[3]
