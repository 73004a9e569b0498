"""Damaged output of real receivers and gpsd: by a noisy line, or by firmware with right checksums.

``survive`` decodes lines with any damage as the daemon does: the decoder must not raise, and every
fix must be storable. ``judge`` and ``judge_reports`` are stricter: each damaged sentence or report
is between two intact ones, and ``oracle`` derives its position by independent rules. The decoder
must return exactly that position, and the intact ones unchanged.
"""

import itertools
import json
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import corpus
import nmea
import oracle

from telemetry_agent.ackqueue.file.rows import encode
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.framing import Framer
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.gnss.sources.gpsd import Reports
from telemetry_agent.lab.drive import Drive
from telemetry_agent.model import Fix

_VALUES = ("", "0", "-1", "nan", "1e5", "9" * 40, "00", "A", "V", "٣", "N", "3.", ".", "-0.0", "+1")
_JSON_VALUES: tuple[Any, ...] = (
    *(None, True, False, math.nan, math.inf, -math.inf, 0, -1, 2, 3, 1e300, 10**400, 90.1, -180.5),
    *("", "3", "NaN", "48.1", "2026-11-23T12:30:00.000Z", "1999-02-30T00:00:00Z", "\ud800", []),
    *({}, [None], [{}], [{"used": True}], [{"used": True, "PRN": "x"}], {"a": [[[]]]}),
)
_SENTENCES_PER_FEED = 20
_ANCHORS = 300  # until their times repeat


def bodies() -> list[str]:
    """Every distinct sentence of the recordings and of a simulated drive."""
    recorded = [recording.data for recording in corpus.recordings()]
    driven = map(Drive(1_795_435_200_000).epoch, range(100))
    return sorted(set(map(str, Framer().feed(b"\n".join([*recorded, *driven])))))


def mutated(bodies: Sequence[str], count: int, seed: int) -> Iterator[bytes]:
    """``count`` damaged lines. Half have a right checksum, so that their fields are read."""
    draw = random.Random(seed)
    for _ in range(count):
        body = draw.choice(bodies)
        if draw.random() < 0.5:
            yield nmea.line(_damaged(body, draw))
        else:
            line = bytearray(nmea.line(body))
            for _ in range(draw.randint(1, 3)):
                place = draw.randrange(len(line))
                line[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
            yield bytes(line)


def _damaged(body: str, draw: random.Random) -> str:
    """Change fields, or characters in them; the caller computes the new checksum."""
    if draw.random() < 0.3:
        characters = list(body)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(characters))
            characters[place : place + draw.randrange(3)] = chr(draw.randrange(32, 127))
        return "".join(characters)
    fields = body.split(",")
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(fields))
        match draw.randrange(4):
            case 0:
                fields[place] = draw.choice(_VALUES)
            case 1:
                del fields[place:]
                fields.append("")
            case 2:
                fields.insert(place, draw.choice(fields))
            case _:
                fields[place] = fields[place][: draw.randrange(4)]
    return ",".join(fields)


def survive(lines: Iterator[bytes]) -> tuple[int, int]:
    """Decode and sample all lines as the daemon does; check that every fix can be stored.

    Returns:
        The number of lines and of fixes.
    """
    decoder = Decoder(fix_rollover=False)
    sampler = Sampler(SamplingPolicy())
    now_s, count, recorded = 0.0, 0, 0
    while group := list(itertools.islice(lines, _SENTENCES_PER_FEED)):
        now_s += 0.3
        count += len(group)
        fixes = [*decoder.feed(b"".join(group), now_s), *decoder.tick(now_s + 0.25)]
        decoder.satellites()
        _ = decoder.diagnosis, decoder.notices, decoder.state
        for fix in fixes:
            for kept in sampler.feed(fix):
                recorded += 1
                encode(recorded, 1, recorded, "fuzz", kept)
                assert abs(kept.lat_e9) <= 90e9
                assert abs(kept.lon_e9) <= 180e9
                assert 0 <= (kept.course_mdeg or 0) < 360_000
    return count, recorded


def judge(bodies: Sequence[str], count: int, seed: int) -> tuple[int, int]:
    """Damage ``count`` sentences, correct their checksums, and compare each with the oracle.

    Returns:
        How many could be judged, and how many of them contain a position.
    """
    draw = random.Random(seed)

    def damage() -> tuple[bytes, oracle.Said | None]:
        body = draw.choice(bodies)
        body = _damaged(body, draw) if draw.random() < 0.9 else body
        return nmea.line(body), oracle.of_sentence(body)

    return _judge(damage, _whole_sentences, lambda data: data, count)


def judge_reports(count: int, seed: int) -> tuple[int, int]:
    """Do the same as ``judge`` for gpsd's reports."""
    draw = random.Random(seed)
    reports = Reports()

    def damage() -> tuple[bytes, oracle.Said | None]:
        line = _damaged_report(draw)
        return line, oracle.of_report(line)

    return _judge(damage, _whole_report, reports.feed, count)


def _whole_sentences(time: str) -> bytes:
    place = "4807.038,N,01131.000,E"
    return b"".join(
        nmea.line(f"GN{rest}")
        for rest in (
            f"RMC,{time},A,{place},022.4,084.4,231126,,,A",
            f"GGA,{time},{place},1,08,0.9,545.4,M,46.9,M,,",
            f"GLL,{place},{time},A,A",
            f"GNS,{time},{place},AN,08,0.9,545.4,46.9,,",
        )
    )


_TPV: dict[str, Any] = {
    "class": "TPV",
    "device": "/dev/ttyACM0",
    "mode": 3,
    "status": 1,
    "lat": 48.1173,
    "lon": 11.516666667,
    "altMSL": 545.4,
    "geoidSep": 46.9,
    "speed": 11.524,
    "track": 84.4,
}
_SKY: dict[str, Any] = {
    "class": "SKY",
    "hdop": 0.9,
    "vdop": 1.1,
    "satellites": [{"PRN": 7, "gnssid": 0, "used": True}, {"PRN": 71, "gnssid": 6, "used": False}],
}
_GST: dict[str, Any] = {"class": "GST", "lat": 3.0, "lon": 4.0, "alt": 6.5}
_DEVICES: dict[str, Any] = {"class": "DEVICES", "devices": [{"path": "/dev/ttyACM0"}]}


def _whole_report(time: str) -> bytes:
    iso = f"2026-11-23T{time[:2]}:{time[2:4]}:{time[4:]}.000Z"
    return json.dumps(_TPV | {"time": iso}).encode() + b"\n"


def _damaged_report(draw: random.Random) -> bytes:
    report = dict(draw.choice((_TPV, _TPV, _TPV, _SKY, _GST, _DEVICES)))
    report["time"] = f"2026-11-23T{draw.randrange(13, 24)}:{draw.randrange(60):02}:07.125Z"
    report["lat"] = draw.uniform(-95, 95)
    for _ in range(draw.randrange(3)):
        name = draw.choice(list(report))
        match draw.randrange(4):
            case 0:
                del report[name]
                if not report:
                    break
            case 1:
                report[name] = draw.choice(list(report.values()))
            case _:
                report[name] = draw.choice(_JSON_VALUES)
    line = json.dumps(report).encode()
    if draw.random() < 0.2:
        damaged = bytearray(line)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(damaged))
            damaged[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(2))
        line = bytes(damaged)
    return line.replace(b"\n", b" ") + b"\n"


def _judge(
    damage: Callable[[], tuple[bytes, oracle.Said | None]],
    whole: Callable[[str], bytes],
    sentences: Callable[[bytes], bytes],
    count: int,
) -> tuple[int, int]:
    decoder = Decoder(fix_rollover=False, eager=False)
    anchors = [f"12{n // 6:02}{n % 6 * 10:02}" for n in range(_ANCHORS)]
    decoder.feed(sentences(whole(anchors[0])), 0.0)
    judged = positions = 0
    last: deque[oracle.Said | None] = deque([oracle.NOTHING], maxlen=3)
    for n in range(count):
        line, said = damage()
        last.append(said)
        before, here, there = (
            oracle.time_of_day_ms(anchors[i % _ANCHORS]) for i in (n - 1, n, n + 1)
        )
        fixes = decoder.feed(sentences(line + whole(anchors[(n + 1) % _ANCHORS])), 0.0)
        # With the time of an intact one, or of the line just before, it is late or belongs to that.
        earlier = [each.time_ms if each else None for each in last]
        clear = all(each and not each.is_near([before, here, there]) for each in last)
        if said is not None and clear and not said.is_near(earlier[:-1]):
            judged += 1
            positions += said.place_e9 is not None
            _hold(fixes, here, said, line)
    return judged, positions


def _hold(fixes: list[Fix], anchor_ms: int, said: oracle.Said, line: bytes) -> None:
    anchor, *rest = [*fixes, None]
    assert anchor is not None, f"{line!r} silenced the whole sentences before it"
    wanted_ms = oracle.DAY_2026_11_23 * oracle.DAY_MS + anchor_ms
    assert (anchor.time_ms, anchor.lat_e9) == (wanted_ms, 48_117_300_000), (line, anchor)
    if said.place_e9 is None:
        assert rest == [None], f"{line!r} holds no position: {rest}"
        return
    assert len(rest) == 2, f"{line!r} holds a position: {said}"
    (fix, _) = rest
    assert fix is not None
    assert fix.time_ms == said.at_ms(wanted_ms), (line, said, fix)
    assert abs(fix.lat_e9 - said.place_e9[0]) <= 1, (line, said, fix)
    assert abs(fix.lon_e9 - said.place_e9[1]) <= 1, (line, said, fix)
    assert fix.alt_mm == said.alt_mm, (line, said, fix)
    assert fix.speed_mm_s == said.speed_mm_s, (line, said, fix)
