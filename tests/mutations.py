"""Sentences of real receivers, damaged: by the line, and by firmware that knows its checksums."""

import itertools
import random
from collections.abc import Iterator, Sequence

import corpus
import nmea

from telemetry_agent.ackqueue.file.rows import encode
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.framing import Framer
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.lab.drive import Drive

_VALUES = ("", "0", "-1", "nan", "1e5", "9" * 40, "00", "A", "V", "٣", "N", "3.", ".", "-0.0")
_SENTENCES_PER_FEED = 20


def bodies() -> list[str]:
    """Every different sentence of the recordings, and of a simulated drive."""
    recorded = [recording.data for recording in corpus.recordings()]
    driven = map(Drive(1_795_435_200_000).epoch, range(100))
    return sorted(set(map(str, Framer().feed(b"\n".join([*recorded, *driven])))))


def mutated(bodies: Sequence[str], count: int, seed: int) -> Iterator[bytes]:
    """So many lines. Half of them have a right checksum, so that their fields are read."""
    draw = random.Random(seed)
    for _ in range(count):
        body = draw.choice(bodies)
        if draw.random() < 0.5:
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
            yield nmea.line(",".join(fields))
        else:
            line = bytearray(nmea.line(body))
            for _ in range(draw.randint(1, 3)):
                place = draw.randrange(len(line))
                line[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
            yield bytes(line)


def survive(lines: Iterator[bytes]) -> tuple[int, int]:
    """Decode and sample them all as the daemon would; whatever comes out can be stored.

    Returns:
        How many lines, and how many fixes.
    """
    decoder = Decoder(fix_rollover=False)
    sampler = Sampler(SamplingPolicy())
    now_s, count, recorded = 0.0, 0, 0
    while group := list(itertools.islice(lines, _SENTENCES_PER_FEED)):
        now_s += 0.3
        count += len(group)
        fixes = [*decoder.feed(b"".join(group), now_s), *decoder.tick(now_s + 0.25)]
        decoder.sky()
        for fix in fixes:
            for kept in sampler.feed(fix):
                recorded += 1
                encode(recorded, 1, recorded, "fuzz", kept)
                assert abs(kept.lat_e9) <= 90e9
                assert abs(kept.lon_e9) <= 180e9
                assert 0 <= (kept.course_mdeg or 0) < 360_000
    return count, recorded
