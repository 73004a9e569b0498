from collections.abc import Callable

import pytest
from fakes import FakeClock
from nmea import line, rmc
from scripted import ScriptedReceiver

from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.sources.on_connect import OnConnect, command_bytes
from telemetry_agent.gnss.sources.protocols import ubx_checksum
from telemetry_agent.gnss.sources.serial import SerialSource

RATE = command_bytes("$PMTK220,200")
RATE_UBX = command_bytes("ubx:06 08 06 00 C8 00 01 00 01 00")
EPOCH = rmc("120000")


# ---- the bytes on the line


def test_checksums_are_added() -> None:
    assert RATE == b"$PMTK220,200*2C\r\n"
    assert command_bytes(" $PMTK220,200*2c\n") == RATE
    assert bytes.fromhex("B562 0608 0600 C800 0100 0100 DE6A") == RATE_UBX
    assert command_bytes("ubx:06080600C80001000100") == RATE_UBX


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must be like"),
        ("PMTK220", "must be like"),
        ("$PMTK220\r\n$X", "must be like"),
        ("$PMTK220,200*00", "wrong checksum: leave it out"),
        ("ubx:", "must hold class, id, length"),
        ("ubx:06 0", "must be bytes in hex"),
        ("ubx:06 08 06 00", "its length says 6 bytes of payload, 0 follow"),
        ("ubx:06 08 06", "its length says 6 bytes of payload, 0 follow"),
        ("ubx:06 08 06 00 C8", "its length says 6 bytes of payload, 1 follow"),
        ("ubx:B5 62 06 08 00 00 0E 30", "leave out the sync bytes"),
    ],
)
def test_a_command_that_is_none_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        command_bytes(text)


STARTS = [
    line("GNTXT,01,01,02,u-blox AG - www.u-blox.com"),
    line("GPTXT,01,01,02,u-blox ag - www.u-blox.com"),
    line("PMTK010,001"),
    line("PSRF150,1"),
]


@pytest.mark.parametrize("said", STARTS)
def test_a_start_is_noticed_once_however_it_is_cut(said: bytes) -> None:
    data = EPOCH + said + EPOCH * 20
    for size in (1, 7, len(data)):
        clock = FakeClock()
        commands = OnConnect("gps", [RATE], clock)
        sent: list[bytes] = []
        for i in range(0, len(data), size):
            sent += commands.heard(data[i : i + size])
            clock.advance(60)
        assert sent == [RATE]


def test_a_command_that_restarts_the_receiver_is_not_sent_again_at_once() -> None:
    clock = FakeClock()
    commands = OnConnect("gps", [RATE], clock)
    commands.opened()
    sent: list[bytes] = []
    for _ in range(24):
        clock.advance(1)
        sent += commands.heard(STARTS[2])
    assert sent == [RATE, RATE]


def test_a_start_is_not_logged_where_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert not OnConnect("gps", [], FakeClock()).heard(STARTS[2])
    assert not caplog.messages
    assert OnConnect("gps", [RATE], FakeClock()).heard(STARTS[2])
    assert caplog.messages == ["gps has restarted: sending gps.on_connect again"]


def test_other_sentences_are_no_start() -> None:
    data = EPOCH + line("PMTK010,002") + line("GPTXT,01,01,02,ANTSTATUS=OK") + line("PSRF150,0")
    assert not OnConnect("gps", [RATE], FakeClock()).heard(data)


# ---- a receiver that obeys


def faster(receiver: ScriptedReceiver) -> None:
    receiver.says = rmc("120000.2")


@pytest.mark.parametrize("command", [RATE, RATE_UBX])
def test_commands_are_sent_after_every_open(command: bytes) -> None:
    with ScriptedReceiver(EPOCH, obeys={command: faster}) as receiver:
        source = SerialSource(receiver.device, 9600, commands=[command])
        for times in (1, 2):
            receiver.says = EPOCH
            source.open()
            receiver.wait_for(command, times)
            said = b""
            while rmc("120000.2") not in said:
                said += source.read(1)
            source.close()


def test_commands_are_sent_at_the_speed_that_was_found() -> None:
    with ScriptedReceiver(EPOCH, baud=115200) as receiver:
        source = SerialSource(receiver.device, commands=[RATE])
        source.open()
        receiver.wait_for(RATE)
        assert receiver.speed == 115200
        source.close()


class Later:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.fixture
def read_until() -> Callable[[SerialSource, bytes], None]:
    def read(source: SerialSource, mark: bytes) -> None:
        said = b""
        while mark not in said:
            said += source.read(1)

    return read


def test_a_receiver_that_starts_anew_is_sent_them_again_but_not_in_a_circle(
    read_until: Callable[[SerialSource, bytes], None],
) -> None:
    clock = Later()
    start = STARTS[2]

    def restart(receiver: ScriptedReceiver) -> None:
        receiver.says = start + EPOCH

    with ScriptedReceiver(EPOCH, obeys={RATE: restart}) as receiver:
        source = SerialSource(receiver.device, 9600, commands=[RATE], clock=clock)  # type: ignore[arg-type]
        source.open()
        for _ in range(3):
            read_until(source, start)
        assert receiver.heard.count(RATE) == 1
        clock.now_s += 11
        read_until(source, start)
        receiver.wait_for(RATE, 2)
        source.close()


def test_a_u_blox_that_speaks_only_ubx_is_switched_to_nmea() -> None:
    body = bytes.fromhex("0107 0400 01020304")
    nmea_on = command_bytes("$PUBX,41,1,0007,0003,9600,0")

    def obey(receiver: ScriptedReceiver) -> None:
        receiver.says = EPOCH

    ubx = b"\xb5\x62" + body + ubx_checksum(body)
    with ScriptedReceiver(ubx * 3, obeys={nmea_on: obey}) as receiver:
        source = SerialSource(receiver.device, commands=[nmea_on])
        source.open()
        decoder = Decoder(fix_rollover=False)
        while not decoder.sentences:
            decoder.feed(source.read(1), 0.0)
        source.close()
