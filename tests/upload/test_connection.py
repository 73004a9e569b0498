"""A connection to the endpoint: TLS, what closed it, and writes."""

import socket
import threading
from contextlib import closing

from misbehaving import Server, answer, drips, hang_up, tls_server_context, trusting
from upload.upload_parts import PAYLOAD, answered, transport_to, unanswered

from telemetry_agent import addresses
from telemetry_agent.clock import Clock
from telemetry_agent.model import Payload
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport


def test_an_idle_connection_that_the_server_closed_is_not_used() -> None:
    with Server() as server, transport_to(server.url) as transport:
        answered(transport.exchange(PAYLOAD, 60))
        server.close_idle()
        answered(transport.exchange(PAYLOAD, 60))
        assert server.connections == 2


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
        assert transport.sent_bytes > 1_000_000


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


def test_a_plain_server_behind_an_https_url_is_named() -> None:
    with Server(drips(b"", first=b"HTTP/1.1 400 Bad Request\r\n\r\n", at_once=True)) as server:
        url = server.url.replace("http:", "https:")
        with transport_to(url, credentials=trusting()) as transport:
            reason = unanswered(transport.exchange(PAYLOAD, 60))
    assert reason == f"TLS handshake with 127.0.0.1:{server.port} failed: wrong version number"


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
