import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from fakes import FakeClock
from nmea import gga, line, rmc
from ports import free_port

from telemetry_agent.addresses import Address
from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.framing import Framer
from telemetry_agent.gnss.sources.sockets import SocketSource, TcpSource, UdpOptions, UdpSource

LIMIT_S = 60.0
SENTENCE = rmc("120000")
VOID = b"$GPGLL,,,,,120000,V*04\r\n"


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
    assert source.read(LIMIT_S) == b""  # the sentence is incomplete
    send(source, SENTENCE[20:])
    assert source.read(LIMIT_S) == SENTENCE
    assert source.read(0.01) == b""
    source.close()
    source.close()


def test_udp_at_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(host: str, port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("telemetry_agent.gnss.sources.sockets._own_addresses", none)
    with pytest.raises(SourceError, match=r"cannot listen at .* \(name boat does not resolve\)"):
        UdpSource("boat", 10110).open()


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
        with pytest.raises(SourceError, match=r"cannot be reached \(stopped\)"):
            source.open()
        timer.join()
        for client in held:
            client.close()


def test_remedies(tcp: TcpSource) -> None:
    source: SocketSource = tcp
    assert "check that its sender runs" in source.advice("silent", b"").remedy
    assert "is not NMEA: check what its sender sends" in str(source.advice("wrong-baud", b""))
    answer = b'{"class":"VERSION","release":"3.22"}\r\n'
    assert source.advice("silent", answer).remedy == f'set gps.source = "gpsd{source.name[3:]}"'


def test_a_silent_name_server_holds_the_reader_for_5_s_and_a_cancel_ends_it() -> None:
    go_on = threading.Event()

    def silent(_host: str, _port: int) -> list[Address]:
        go_on.wait()
        return []

    source = TcpSource("receiver.example", 10110, resolve=silent)
    threading.Timer(0.05, source.cancel).start()
    with pytest.raises(SourceError, match=r"cannot be reached \(stopped\)"):
        source.open()
    with pytest.raises(SourceError, match=r"no name server answered for .* within 5 s"):
        source.open()
    go_on.set()


# ---- several senders of datagrams


@contextmanager
def listening(
    options: UdpOptions | None = None, clock: FakeClock | None = None
) -> Iterator[UdpSource]:
    source = UdpSource(
        "127.0.0.1", free_port(), options or UdpOptions(), clock=clock or FakeClock()
    )
    with closing(source):
        source.open()
        yield source


def sent_from(source: UdpSource, sender: str, data: bytes) -> bytes:
    """Send a datagram from an address of this machine; return what the source reads."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((sender, 0))
        sock.sendto(data, ("127.0.0.1", int(source.name.rpartition(":")[2])))
    return source.read(LIMIT_S)


def test_each_sender_has_a_buffer_of_its_own() -> None:
    first, second = rmc("120000"), rmc("120001")
    with listening() as source:
        assert sent_from(source, "127.0.0.1", first[:30]) == b""
        assert sent_from(source, "127.0.0.2", second[:40]) == b""
        assert sent_from(source, "127.0.0.1", first[30:]) == first
        assert sent_from(source, "127.0.0.2", second[40:]) == b"", "another than the one followed"


@pytest.mark.parametrize(
    "end", [b"\r\n", b"\n", b"\r", b"", b"\0", b" ", b",,,", b"\\r\\n", b",1795437319000", b'"}']
)
def test_a_datagram_may_end_in_many_ways(end: bytes) -> None:
    sent = rmc("120000").strip() + end
    with listening() as source:
        framer = Framer()
        for _ in range(3):
            assert len(framer.feed(sent_from(source, "127.0.0.1", sent))) == 1


def test_a_sender_without_checksums_and_line_ends_is_no_silent_one() -> None:
    """For example a sketch. The next datagram shows where the sentence ends."""
    bare = [rmc(f"12000{n}").partition(b"*")[0] for n in range(4)]
    with listening() as source:
        framer = Framer()
        for sentence in bare:
            assert framer.feed(sent_from(source, "127.0.0.1", sentence)) == []
        assert framer.unchecked == {"no-checksum": 3}
        assert framer.feed(sent_from(source, "127.0.0.1", rmc("120005"))) != []


def test_the_first_with_a_position_is_followed_until_it_falls_silent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "telemetry_agent")
    clock = FakeClock()
    with listening(clock=clock) as source:
        assert sent_from(source, "127.0.0.2", VOID) == VOID, "nobody has a position yet"
        assert sent_from(source, "127.0.0.1", rmc("120000")) == rmc("120000")
        assert sent_from(source, "127.0.0.2", VOID) == b""
        for second in range(3):
            clock.advance(1)
            assert sent_from(source, "127.0.0.2", rmc(f"12000{second}")) == b""
            assert sent_from(source, "127.0.0.1", VOID) == VOID, "its voids count"
        clock.advance(3)
        assert sent_from(source, "127.0.0.2", rmc("120009")) == rmc("120009")
        assert sent_from(source, "127.0.0.1", rmc("120010")) == b""
    said = [record.getMessage() for record in caplog.records]
    assert sum("positions come from 127.0.0.1" in line for line in said) == 1
    assert (
        sum("127.0.0.2 sends positions" in line and "?from=127.0.0.2" in line for line in said) == 1
    )
    assert sum("positions come from 127.0.0.2" in line for line in said) == 1


@pytest.mark.parametrize(("quality", "is_position"), [("5", True), ("05", True), ("00", False)])
def test_a_sender_is_followed_by_the_quality_of_its_gga(quality: str, is_position: bool) -> None:
    sent = gga("120000", quality=quality)
    with listening() as source:
        assert sent_from(source, "127.0.0.1", sent) == sent
        other = rmc("120000")
        assert sent_from(source, "127.0.0.2", other) == (b"" if is_position else other)


def test_only_who_may_send_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    with listening(UdpOptions.read("from=127.0.0.3")) as source:
        for _ in range(3):
            assert sent_from(source, "127.0.0.2", rmc("120000")) == b""
        assert sent_from(source, "127.0.0.3", rmc("120000")) == rmc("120000")
    (record,) = caplog.records
    assert "127.0.0.2 sends to" in record.getMessage()
    assert "only 127.0.0.3 may" in record.getMessage()


def test_memory_does_not_grow_with_the_senders() -> None:
    with listening() as source:
        for number in range(1, 60):
            sent_from(source, f"127.0.1.{number}", b"$GP" + b"x" * 5000)
        assert len(source._tails) <= 16
        assert all(len(tail) <= 4096 for tail in source._tails.values())


def test_a_multicast_group_is_joined() -> None:
    port = free_port()
    source = UdpSource("239.192.0.4", port, UdpOptions(interface="lo"))
    with closing(source), socket.socket(type=socket.SOCK_DGRAM) as sender:
        source.open()
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.sendto(rmc("120000"), ("239.192.0.4", port))
        assert source.read(LIMIT_S) == rmc("120000")
        again = UdpSource("239.192.0.4", port, UdpOptions(interface="lo"))
        with closing(again):
            again.open()  # several programs may listen on one machine


def test_an_interface_that_is_not_there_is_named() -> None:
    source = UdpSource("239.192.0.4", 60004, UdpOptions(interface="nope0"))
    with pytest.raises(SourceError, match=r"cannot listen at udp://239.192.0.4:60004 .*ip address"):
        source.open()


def test_an_address_with_an_interface_is_compared_without_it() -> None:
    assert UdpOptions.read("from=FE80::0001%eth0&interface=eth0") == ("fe80::1", "eth0")


def test_an_ipv4_address_in_the_spelling_of_ipv6_may_send() -> None:
    with listening(UdpOptions.read("from=::ffff:127.0.0.3")) as source:
        assert sent_from(source, "127.0.0.3", rmc("120000")) == rmc("120000")


@pytest.mark.parametrize(
    "query", ["form=192.0.2.7", "from=", "from=boat", "from=%eth0", "interface", "a=1&b=2"]
)
def test_options_that_make_no_sense(query: str) -> None:
    with pytest.raises(ValueError, match=r"from=ADDRESS|boat|eth0"):
        UdpOptions.read(query)
