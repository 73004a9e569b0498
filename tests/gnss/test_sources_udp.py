"""Datagrams from several senders, multicast, and who may send; on loopback and in a namespace."""

import logging
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from fakes import FakeClock
from nmea import rmc

from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.framing import Framer
from telemetry_agent.gnss.sources.udp import UdpOptions, UdpSource

LIMIT_S = 20.0
VOID = b"$GPGLL,,,,,120000,V*04\r\n"


@contextmanager
def listening(
    options: UdpOptions | None = None, clock: FakeClock | None = None
) -> Iterator[UdpSource]:
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = UdpSource("127.0.0.1", port, options or UdpOptions(), clock=clock or FakeClock())
    with closing(source):
        source.open()
        yield source


def send(source: UdpSource, sender: str, data: bytes) -> bytes:
    """What the source makes of a datagram from that address of this machine."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((sender, 0))
        sock.sendto(data, ("127.0.0.1", int(source.name.rpartition(":")[2])))
    return source.read(LIMIT_S)


def test_each_sender_has_a_buffer_of_its_own() -> None:
    first, second = rmc("120000"), rmc("120001")
    with listening() as source:
        assert send(source, "127.0.0.1", first[:30]) == b""
        assert send(source, "127.0.0.2", second[:40]) == b""
        assert send(source, "127.0.0.1", first[30:]) == first
        assert send(source, "127.0.0.2", second[40:]) == b"", "another than the one followed"


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b"", b"\0", b" "])
def test_a_datagram_may_end_in_many_ways(end: bytes) -> None:
    sent = rmc("120000").strip() + end
    with listening() as source:
        framer = Framer()
        for _ in range(3):
            assert len(framer.feed(send(source, "127.0.0.1", sent))) == 1


def test_the_first_with_a_position_is_followed_until_it_falls_silent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "telemetry_agent")
    clock = FakeClock()
    with listening(clock=clock) as source:
        assert send(source, "127.0.0.2", VOID) == VOID, "nobody has a position yet"
        assert send(source, "127.0.0.1", rmc("120000")) == rmc("120000")
        assert send(source, "127.0.0.2", VOID) == b""
        for second in range(3):
            clock.advance(1)
            assert send(source, "127.0.0.2", rmc(f"12000{second}")) == b""
            assert send(source, "127.0.0.1", VOID) == VOID, "its voids count"
        clock.advance(3)
        assert send(source, "127.0.0.2", rmc("120009")) == rmc("120009")
        assert send(source, "127.0.0.1", rmc("120010")) == b""
    said = [record.getMessage() for record in caplog.records]
    assert sum("positions come from 127.0.0.1" in line for line in said) == 1
    assert (
        sum("127.0.0.2 sends positions" in line and "?from=127.0.0.2" in line for line in said) == 1
    )
    assert sum("positions come from 127.0.0.2" in line for line in said) == 1


def test_only_who_may_send_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    with listening(UdpOptions.read("from=127.0.0.3")) as source:
        for _ in range(3):
            assert send(source, "127.0.0.2", rmc("120000")) == b""
        assert send(source, "127.0.0.3", rmc("120000")) == rmc("120000")
    (record,) = caplog.records
    assert "127.0.0.2 sends to" in record.getMessage()
    assert "only 127.0.0.3 may" in record.getMessage()


def test_memory_does_not_grow_with_the_senders() -> None:
    with listening() as source:
        for number in range(1, 60):
            send(source, f"127.0.1.{number}", b"$GP" + b"x" * 5000)
        assert len(source._tails) <= 16
        assert all(len(tail) <= 4096 for tail in source._tails.values())


def test_a_multicast_group_is_joined() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = UdpSource("239.192.0.4", port, UdpOptions(interface="lo"))
    with closing(source), socket.socket(type=socket.SOCK_DGRAM) as sender:
        source.open()
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.sendto(rmc("120000"), ("239.192.0.4", port))
        assert source.read(LIMIT_S) == rmc("120000")
        again = UdpSource("239.192.0.4", port, UdpOptions(interface="lo"))
        with closing(again):
            again.open()  # another program on this machine may listen too


def test_an_interface_that_is_not_there_is_named() -> None:
    source = UdpSource("239.192.0.4", 60004, UdpOptions(interface="nope0"))
    with pytest.raises(SourceError, match=r"cannot listen at udp://239.192.0.4:60004 .*ip address"):
        source.open()


@pytest.mark.parametrize("query", ["form=192.0.2.7", "from=", "from=boat", "interface", "a=1&b=2"])
def test_options_that_make_no_sense(query: str) -> None:
    with pytest.raises(ValueError, match=r"from=ADDRESS|boat"):
        UdpOptions.read(query)
