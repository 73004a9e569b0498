"""CPU for decoding: ours against gpsd's, pynmea2, pynmeagps and a plain split.

    python benchmarks/decode_speed.py [--runs RUNS]

All read the same two inputs: the recordings in the folder that ``tests/corpus.py`` names, and ten
minutes of a modern receiver with five systems on two signals at 10 Hz (made up: 39 sentences in
each epoch). The libraries get clean lines, check the sum of each, and read the fields of a position
from it, without framing, dates and epochs. The plain split is the least that a program can do: XOR,
split, ``float``, no checks. Ours gets bytes in pieces of 512, as a serial port delivers them, and
makes whole fixes. The programs take turns; medians and their ratios are printed. The command
``decode`` and gpsd's ``gpsdecode`` (if Debian's gpsd-clients is installed) run as processes,
including their start and the JSON.
"""

import argparse
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from functools import reduce
from operator import xor
from pathlib import Path

import pynmea2
import pynmeagps

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import corpus
import nmea

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


def _modern(epochs: int) -> bytes:
    """RMC, VTG, GGA, five GSA, 28 GSV for two signals of each system, GLL, GST and ZDA."""
    draw = random.Random(1)
    systems = (
        ("GP", "18", 12),
        ("GL", "13", 9),
        ("GA", "72", 11),
        ("GB", "15", 13),
        ("GQ", "18", 3),
    )
    log = []
    for epoch in range(epochs):
        seconds, tenth = divmod(epoch, 10)
        time_ = f"{10 + seconds // 3600:02}{seconds // 60 % 60:02}{seconds % 60:02}.{tenth}0"
        place = f"{4807.03812 + epoch * 1e-4:.5f},N,{1131.00012 + epoch * 1.3e-4:010.5f},E"
        bodies = [
            f"GNRMC,{time_},A,{place},22.412,84.41,231126,,,D,V",
            "GNVTG,84.41,T,,M,22.412,N,41.507,K,D",
            f"GNGGA,{time_},{place},2,12,0.52,545.4,M,46.9,M,,0000",
        ]
        for number, (_, _, count) in enumerate(systems, 1):
            used = ",".join([f"{prn:02}" for prn in range(1, count)][:12] + [""] * (13 - count))
            bodies.append(f"GNGSA,A,3,{used},0.98,0.52,0.83,{number}")
        for talker, signals, count in systems:
            for signal in signals:
                seen = [
                    f"{n + 1:02},{7 * n % 90:02},{29 * n % 360:03},{draw.randrange(20, 50)}"
                    for n in range(count)
                ]
                pages = [seen[n : n + 4] for n in range(0, count, 4)]
                bodies += [
                    f"{talker}GSV,{len(pages)},{n},{count:02},{','.join(page)},{signal}"
                    for n, page in enumerate(pages, 1)
                ]
        bodies += [
            f"GNGLL,{place},{time_},A,D",
            f"GNGST,{time_},12,0.41,0.33,84.0,0.41,0.33,0.87",
            f"GNZDA,{time_},23,11,2026,00,00",
        ]
        log += bodies
    return b"".join(map(nmea.line, log))


def _process(command: list[str], data: bytes) -> float:
    """The CPU seconds of a process that reads this."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, input=data, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _race(title: str, data: bytes, runs: int) -> None:
    lines = _lines(data)
    epochs = _ours(data, lines)
    contenders = {
        "ours": _ours,
        "plain split": _plain,
        "pynmea2": _pynmea2,
        "pynmeagps": _pynmeagps,
    }
    processes = {"decode": [sys.executable, "-m", "telemetry_agent", "decode"]}
    if shutil.which("gpsdecode"):
        processes["gpsdecode"] = ["gpsdecode"]
    seconds: dict[str, list[float]] = {name: [] for name in [*contenders, *processes]}
    for run in range(runs):
        order = list(contenders.items())
        for name, contender in order if run % 2 else reversed(order):
            start = time.process_time()
            contender(data, lines)
            seconds[name].append(time.process_time() - start)
        for name, command in processes.items():
            seconds[name].append(_process(command, data))
    ours = statistics.median(seconds["ours"])
    print(f"{title}: {len(lines):,} sentences, {epochs:,} fixes, {runs} runs")
    print(f"{'':12}{'sentences/s':>12}{'us/fix':>8}{'time, ours = 1':>16}")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(
            f"{name:12}{len(lines) / median:12,.0f}{median / epochs * 1e6:8.1f}"
            f"{median / ours:16.2f}"
        )


def main() -> None:
    """Run all in turns, and print."""
    parser = argparse.ArgumentParser(description="What decoding costs, beside other decoders.")
    parser.add_argument("--runs", type=int, default=7)
    runs: int = parser.parse_args().runs
    recordings = [recording for recording in corpus.recordings() if recording.role == "oracle"]
    if not recordings:
        sys.exit(f"no recordings in {corpus.FOLDER}")
    data = b"".join(recording.data for recording in recordings)
    _race(f"{len(recordings)} recordings", data, runs)
    _race("a modern receiver, 10 min at 10 Hz", _modern(6000), runs)


if __name__ == "__main__":
    main()
