"""Sentences per second: our decoder against pynmea2, pynmeagps and a plain split.

    python benchmarks/decode_speed.py [RUNS]

All read the same recordings, which lie where ``tests/corpus.py`` looks for them. The libraries
get clean lines and have their checksum tested and the fields of a position read, each alone: no
framing, no dates, no epochs. The plain split is the least that somebody could write: XOR, split,
``float``, nothing checked. Ours gets bytes in pieces of 512, as a serial port hands them out, and
makes whole fixes. Contenders take turns; medians and their ratios are printed.
"""

import statistics
import sys
import time
from functools import reduce
from operator import xor
from pathlib import Path

import pynmea2
import pynmeagps

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import corpus

from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.framing import Framer

_FIELDS = {
    "RMC": ("timestamp", "status", "latitude", "longitude", "spd_over_grnd", "true_course"),
    "GGA": ("timestamp", "latitude", "longitude", "gps_qual", "num_sats", "altitude", "geo_sep"),
    "GLL": ("timestamp", "status", "latitude", "longitude"),
    "GSA": ("mode_fix_type", "pdop", "hdop", "vdop"),
    "VTG": ("true_track", "spd_over_grnd_kts"),
}
_FIELDS_OF_PYNMEAGPS = {
    "RMC": ("time", "status", "lat", "lon", "spd", "cog"),
    "GGA": ("time", "lat", "lon", "quality", "numSV", "alt", "sep"),
    "GLL": ("time", "status", "lat", "lon"),
    "GSA": ("navMode", "PDOP", "HDOP", "VDOP"),
    "VTG": ("cogt", "sogn"),
}
_NUMBERS = {
    "RMC": (1, 3, 5, 7, 8),
    "GGA": (1, 2, 4, 7, 9, 11),
    "GLL": (1, 3, 5),
    "GSA": (15, 16, 17),
    "VTG": (1, 5),
}


def _lines(data: bytes) -> list[str]:
    return [f"${sentence}*{reduce(xor, sentence.encode()):02X}" for sentence in Framer().feed(data)]


def _ours(data: bytes, _: list[str]) -> int:
    decoder = Decoder(fix_rollover=False)
    fixes = 0
    for start in range(0, len(data), 512):
        fixes += len(decoder.feed(data[start : start + 512], 0.0))
    return fixes + len(decoder.finish())


def _plain(_: bytes, lines: list[str]) -> int:
    values = 0
    for line in lines:
        body, _star, checksum = line[1:].partition("*")
        if reduce(xor, body.encode(), 0) != int(checksum, 16):
            continue
        fields = body.split(",")
        for number in _NUMBERS.get(fields[0][2:], ()):
            if fields[number]:
                float(fields[number])
                values += 1
    return values


def _pynmea2(_: bytes, lines: list[str]) -> int:
    values = 0
    for line in lines:
        try:
            message = pynmea2.parse(line, check=True)
        except pynmea2.ParseError:
            continue
        for name in _FIELDS.get(getattr(message, "sentence_type", ""), ()):
            try:
                getattr(message, name)
            except (ValueError, TypeError):
                continue
            values += 1
    return values


def _pynmeagps(_: bytes, lines: list[str]) -> int:
    values = 0
    for line in lines:
        try:
            message = pynmeagps.NMEAReader.parse(line)
        except (
            pynmeagps.NMEAMessageError,
            pynmeagps.NMEAParseError,
            pynmeagps.NMEATypeError,
            ValueError,
        ):
            continue
        for name in _FIELDS_OF_PYNMEAGPS.get(message.msgID, ()):
            getattr(message, name)
            values += 1
    return values


def main() -> None:
    """Race, then print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    recordings = [recording for recording in corpus.recordings() if recording.role == "oracle"]
    if not recordings:
        sys.exit(f"no recordings in {corpus.FOLDER}")
    data = b"".join(recording.data for recording in recordings)
    lines = _lines(data)
    epochs = _ours(data, lines)
    contenders = {
        "ours": _ours,
        "plain split": _plain,
        "pynmea2": _pynmea2,
        "pynmeagps": _pynmeagps,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in range(runs):
        order = list(contenders.items())
        for name, contender in order if run % 2 else reversed(order):
            start = time.process_time()
            contender(data, lines)
            seconds[name].append(time.process_time() - start)
    ours = statistics.median(seconds["ours"])
    print(f"{len(recordings)} recordings, {len(lines)} sentences, {epochs} fixes, {runs} runs")
    print(f"{'':12}{'sentences/s':>12}{'us/fix':>8}{'time, ours = 1':>16}")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(
            f"{name:12}{len(lines) / median:12,.0f}{median / epochs * 1e6:8.1f}"
            f"{median / ours:16.2f}"
        )


if __name__ == "__main__":
    main()
