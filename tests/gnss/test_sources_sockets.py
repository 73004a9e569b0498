import socket
import threading
from collections.abc import Iterator

import pytest
from fakes import FakeClock
from nmea import line, rmc

from telemetry_agent.addresses import Address
from telemetry_agent.clock import Clock
from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.sources.sockets import SocketSource, TcpSource
from telemetry_agent.gnss.sources.udp import UdpSource

LIMIT_S = 5.0
SENTENCE = rmc("120000")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_S)
        yield listener


@pytest.fixture
def tcp(listener: socket.socket) -> Iterator[TcpSource]:
    source = TcpSource("127.0.0.1", listener.getsockname()[1], commands=[b"$PMTK220,200*2C\r\n"])
    yield source
    source.close()


def udp() -> UdpSource:
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return UdpSource("127.0.0.1", free.getsockname()[1])


def send(source: UdpSource, data: bytes) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(data, ("127.0.0.1", int(source.name.rpartition(":")[2])))


def test_tcp_sends_the_commands_and_reads(tcp: TcpSource, listener: socket.socket) -> None:
    for _ in range(2):
        tcp.open()
        with listener.accept()[0] as sender:
            sender.settimeout(LIMIT_S)
            assert sender.recv(100) == b"$PMTK220,200*2C\r\n"
            sender.sendall(SENTENCE)
            assert tcp.read(LIMIT_S) == SENTENCE
            assert tcp.read(0.01) == b""
        with pytest.raises(SourceError, match=r"tcp://127.0.0.1:\d+ closed the connection"):
            tcp.read(LIMIT_S)
        tcp.close()


def test_tcp_sends_the_commands_again_to_a_receiver_that_has_started(
    listener: socket.socket,
) -> None:
    clock = FakeClock()
    port = listener.getsockname()[1]
    tcp = TcpSource("127.0.0.1", port, commands=[b"$PMTK220,200*2C\r\n"], clock=clock)
    tcp.open()
    with listener.accept()[0] as sender:
        sender.settimeout(LIMIT_S)
        assert sender.recv(100) == b"$PMTK220,200*2C\r\n"
        for sent_again in (False, True):
            sender.sendall(line("PMTK010,001"))
            assert tcp.read(LIMIT_S)
            clock.advance(11)
            if sent_again:
                assert sender.recv(100) == b"$PMTK220,200*2C\r\n"
    tcp.close()


def test_tcp_without_a_server(tcp: TcpSource, listener: socket.socket) -> None:
    listener.close()
    with pytest.raises(SourceError, match=r"cannot be reached \(connection refused by .*\): check"):
        tcp.open()
    with pytest.raises(SourceError, match="is not open"):
        tcp.read(0)


def test_tcp_to_a_name_that_is_none() -> None:
    with pytest.raises(SourceError, match=r"tcp://receiver\.invalid:1 cannot be reached"):
        TcpSource("receiver.invalid", 1).open()


def test_udp_takes_datagrams_with_and_without_a_line_end() -> None:
    source = udp()
    source.open()
    send(source, SENTENCE)
    assert source.read(LIMIT_S) == SENTENCE
    send(source, SENTENCE.rstrip())
    assert source.read(LIMIT_S) == SENTENCE.rstrip() + b"\n"
    send(source, SENTENCE[:20])
    assert source.read(LIMIT_S) == b""  # until the rest comes
    send(source, SENTENCE[20:])
    assert source.read(LIMIT_S) == SENTENCE
    assert source.read(0.01) == b""
    source.close()
    source.close()


def test_a_udp_port_in_use_is_told() -> None:
    source = udp()
    source.open()
    port = source.name.rpartition(":")[2]
    with pytest.raises(
        SourceError, match=rf"cannot listen at udp://.*`sudo ss -ulpn sport = :{port}`"
    ):
        UdpSource("127.0.0.1", int(port)).open()
    source.close()


def test_an_empty_datagram_is_no_end() -> None:
    source = udp()
    source.open()
    send(source, b"")
    assert source.read(LIMIT_S) == b""
    send(source, SENTENCE)
    assert source.read(LIMIT_S) == SENTENCE
    source.close()


def test_udp_on_every_address() -> None:
    assert UdpSource("", 10110).name == "udp://:10110"
    assert UdpSource("::1", 10110).name == "udp://[::1]:10110"


@pytest.mark.parametrize("before", [True, False])
def test_a_cancel_ends_the_read(before: bool) -> None:
    source = udp()
    source.open()
    if before:
        source.cancel()
        assert source.read(60) == b""
    else:
        timer = threading.Timer(0.05, source.cancel)
        timer.start()
        assert source.read(60) == b""
        timer.join()
    send(source, SENTENCE)
    assert source.read(LIMIT_S) == SENTENCE
    source.close()


def test_a_cancel_ends_the_connecting(tcp: TcpSource) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        held = [socket.socket() for _ in range(3)]
        for client in held:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        source = TcpSource("127.0.0.1", port)
        timer = threading.Timer(0.05, source.cancel)
        timer.start()
        started_s = Clock().monotonic_s()
        with pytest.raises(SourceError, match=r"cannot be reached \(stopped\)"):
            source.open()
        assert Clock().monotonic_s() - started_s < 2
        timer.join()
        for client in held:
            client.close()


def test_remedies(tcp: TcpSource) -> None:
    source: SocketSource = tcp
    assert "check that its sender runs" in source.advice("silent", b"").remedy
    assert "is not NMEA: check what its sender sends" in str(source.advice("wrong-baud", b""))


def test_a_silent_name_server_holds_the_reader_for_5_s_and_a_cancel_ends_it() -> None:
    go_on = threading.Event()

    def silent(_host: str, _port: int) -> list[Address]:
        go_on.wait()
        return []

    clock = Clock()
    source = TcpSource("receiver.example", 10110, resolve=silent)
    threading.Timer(0.05, source.cancel).start()
    began_s = clock.monotonic_s()
    with pytest.raises(SourceError, match=r"cannot be reached \(stopped\)"):
        source.open()
    assert clock.monotonic_s() - began_s < 2
    with pytest.raises(SourceError, match=r"no name server answered for .* within 5 s"):
        source.open()
    assert clock.monotonic_s() - began_s < 9
    go_on.set()
