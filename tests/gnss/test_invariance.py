"""Changes to a recording that must not change the times and positions of its fixes."""

import io
import random
import re
from collections.abc import Callable

import corpus
import nmea
import pytest

from telemetry_agent.lab.simulator import replay

Change = Callable[[list[str], random.Random], bytes]

_SENTENCE = re.compile(rb"\$([^$*\r\n]+)\*([0-9A-F]{2})", re.IGNORECASE)
_LINE_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b"\r\n\r\n")
_OF_OTHERS = (
    b"!AIVDM,1,1,,A,15RTgt0PAso;90TKcjM8h6g208CQ,0*4A\r\n",
    nmea.line("SDDBT,7.8,f,2.4,M,1.3,F"),
    nmea.line("WIMWV,214.8,R,0.1,K,A"),
    nmea.line("HEHDT,84.4,T"),
    nmea.line("PGRME,15.0,M,45.0,M,25.0,M"),
    nmea.line("PTNL,GGK,123519.00,112326,4807.99,N,01131.99,E,3,10,1.9,EHT592.3,M"),
)
_PLACE_E9 = 2_000  # sentence types round minutes differently
_BYTES = 20_000  # of each recording
_RECORDINGS = [r for r in corpus.recordings() if r.role == "oracle" and not r.ambiguous]


def _shuffled(epoch: list[str], draw: random.Random) -> bytes:
    return b"".join(map(nmea.line, draw.sample(epoch, len(epoch))))


def _repeated(epoch: list[str], draw: random.Random) -> bytes:
    return b"".join(nmea.line(body) * draw.choice((1, 1, 2)) for body in epoch)


def _of_one_talker(talker: str) -> Change:
    def change(epoch: list[str], _: random.Random) -> bytes:
        return b"".join(nmea.line(body if body[0] == "P" else talker + body[2:]) for body in epoch)

    return change


def _ended_otherwise(epoch: list[str], draw: random.Random) -> bytes:
    return b"".join(nmea.line(body).strip() + draw.choice(_LINE_ENDS) for body in epoch)


def _amid_garbage(epoch: list[str], draw: random.Random) -> bytes:
    return b"".join(draw.randbytes(draw.randrange(30)) + nmea.line(body) for body in epoch)


def _amid_others(epoch: list[str], draw: random.Random) -> bytes:
    return b"".join(nmea.line(body) + draw.choice(_OF_OTHERS) for body in epoch)


def _torn_copies(epoch: list[str], draw: random.Random) -> bytes:
    lines = map(nmea.line, epoch)
    return b"".join(line[: draw.randrange(1, len(line) - 4)] + line for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        _shuffled,
        _repeated,
        _of_one_talker("GN"),
        _of_one_talker("GQ"),
        _of_one_talker("II"),
        _ended_otherwise,
        _amid_garbage,
        _amid_others,
        _torn_copies,
    ],
)
def test_it_changes_no_fix(change: Change) -> None:
    for recording in _RECORDINGS:
        epochs = [
            [found[1].decode() for found in _SENTENCE.finditer(epoch)]
            for epoch in replay(io.BytesIO(recording.data[:_BYTES]))
        ]
        draw = random.Random(recording.name)
        before = corpus.decode(b"".join(nmea.line(body) for epoch in epochs for body in epoch))
        after = corpus.decode(b"".join(change(epoch, draw) for epoch in epochs))
        assert [fix.time_ms for fix in after] == [fix.time_ms for fix in before], recording.name
        for fix, same in zip(before, after, strict=True):
            assert abs(fix.lat_e9 - same.lat_e9) < _PLACE_E9, recording.name
            assert abs(fix.lon_e9 - same.lon_e9) < _PLACE_E9, recording.name
