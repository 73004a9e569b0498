"""The state of the agent over the last month: a sample each 5 s, each minute and each 10 minutes.

Theory of operation. A sample is taken each 5 s. Those of a minute are means of them, and those of
ten minutes are means of minutes. Each series is limited: an hour, a day, 30 days. Minutes are kept
in a file, so that they survive a restart. They are appended once in a quarter of an hour, because
each write costs a card about 8 kB whatever it holds: 0.8 MB a day. When the file has grown to half
a megabyte it is replaced, and what is older than a day is kept as means of ten minutes.

Memory holds the samples as the file does, as records of 48 bytes. The file begins with a line that
names its format. Each record has a checksum; after the first wrong one, nothing is used. That loses
only a part of a chart, so no more is done about it.

Time is UTC: GNSS time if it is known, else the system's. If GNSS time goes back, the samples that
are "later" are dropped; with the system's time the series continues after its newest sample.
"""

import asyncio
import contextlib
import json
import math
import struct
import threading
import zlib
from collections import deque
from collections.abc import Mapping
from heapq import nlargest
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.threads import in_thread
from telemetry_agent.snapshot import Snapshot

COLUMNS = (
    "speed",  # m/s
    "sats",
    "hdop",
    "signal",  # dB-Hz: of the four satellites that are heard best
    "pending",
    "delivered_per_min",
    "sent_bytes_per_min",
    "disk_free_bytes",
    "temperature",  # °C
)
SHORT_S, MINUTE_S, LONG_S = 5, 60, 600
_HOUR, _DAY, _MONTH = 720, 1440, 4320  # samples

_HEAD = b"telemetry-agent history 1\n"
_RECORD = struct.Struct(f"<II{len(COLUMNS)}f")  # time, step, values
_RECORD_BYTES = _RECORD.size + 4  # the checksum
_LARGEST_BYTES = 512 * 1024
_APPEND_AT = 15  # minutes
_STRONGEST = 4
_THERMAL_ZONE = Path("/sys/class/thermal/thermal_zone0/temp")


class Sample(NamedTuple):
    """One moment, or the mean of a time; an unknown value is NaN."""

    time_s: int
    step_s: int
    values: tuple[float, ...]


class History:
    """The three series. One thread at a time.

    Args:
        file: where minutes are kept; ``None``: only in memory.
    """

    def __init__(self, file: Path | None) -> None:
        limits = {SHORT_S: _HOUR, MINUTE_S: _DAY, LONG_S: _MONTH}
        self._series = {step_s: deque[bytes](maxlen=limit) for step_s, limit in limits.items()}
        self._coarser = {SHORT_S: MINUTE_S, MINUTE_S: LONG_S}
        self._file = file
        self._unsaved = deque[bytes](maxlen=_DAY)
        self._sound_bytes = 0  # of the file
        self._saving = threading.Lock()
        if file is not None:
            found = read(file)
            for sample in found:
                self._forget_after(sample.time_s)
                self._keep(sample)
            self._unsaved.clear()
            self._sound_bytes = len(_HEAD) + len(found) * _RECORD_BYTES

    @property
    def is_due(self) -> bool:
        """Whether there are enough new minutes to save."""
        return len(self._unsaved) >= _APPEND_AT

    def add(self, time_s: int, values: Mapping[str, float | None], *, sure: bool = True) -> None:
        """Add one moment. If its time is not ``sure``, no other is dropped for it."""
        if not sure:  # until its first fix, a device without a battery clock is behind
            ends = (
                _time_s(series[-1]) + step_s for step_s, series in self._series.items() if series
            )
            time_s = max(time_s, *ends, 0)
        self._forget_after(time_s)
        row = (values.get(name) for name in COLUMNS)
        known = tuple(math.nan if value is None else float(value) for value in row)
        self._keep(Sample(time_s, SHORT_S, known))

    def last(self, seconds: float, now_s: int) -> list[Sample]:
        """The samples of that time: of the finest series that covers it, and coarser before."""
        short, minutes, long = self._series.values()
        series = [long, minutes] if seconds > _HOUR * SHORT_S else [minutes, short]
        if seconds > _DAY * MINUTE_S and long:
            series = [long]
        found: list[Sample] = []
        for records in series:
            chosen = [one for one in map(_unpacked, records) if one.time_s >= now_s - seconds]
            if chosen:
                found = [sample for sample in found if sample.time_s < chosen[0].time_s] + chosen
        return found

    def as_json(self, hours: float, now_s: int) -> str:
        """The last hours as ``time`` in seconds since 1970, ``step_s``, and a list per column."""
        samples = self.last(hours * 3600, now_s)
        columns: dict[str, list[float | None]] = {
            "step_s": [sample.step_s for sample in samples],
            "time": [sample.time_s for sample in samples],
        }
        for i, name in enumerate(COLUMNS):
            values = [sample.values[i] for sample in samples]
            columns[name] = [
                None if math.isnan(value) else float(f"{value:.6g}") for value in values
            ]
        return json.dumps(columns, separators=(",", ":"))

    def save(self) -> None:
        """Append what is new; replace the file when it has grown large.

        If the disk refuses, the next call tries again. Other threads may read meanwhile. The lock
        is for the page's end: its save waits for one that is still under way.
        """
        with self._saving, contextlib.suppress(OSError):
            if self._file is None or not self._unsaved:
                return
            data = b"".join(self._unsaved)
            size = self._file.stat().st_size if self._file.exists() else 0
            if size != self._sound_bytes or size + len(data) > _LARGEST_BYTES:
                self._replace(self._file)
            else:
                with self._file.open("ab") as file:
                    file.write(data)
                self._sound_bytes += len(data)
            self._unsaved.clear()

    def _replace(self, target: Path) -> None:
        beside = target.with_name(target.name + ".new")
        _, minutes, long = self._series.values()
        oldest_s = _time_s(minutes[0]) if minutes else 0
        records = [*(record for record in long if _time_s(record) < oldest_s), *minutes]
        with beside.open("wb") as file:
            self._sound_bytes = file.write(_HEAD + b"".join(records))
        beside.chmod(0o600)
        beside.replace(target)

    def _keep(self, sample: Sample) -> None:
        """Add it to its series. If a minute or ten minutes end before it, add their mean."""
        series, step_s = self._series[sample.step_s], self._coarser.get(sample.step_s)
        if step_s is not None and series:
            ended = _time_s(series[-1]) // step_s
            if sample.time_s // step_s != ended:
                part = takewhile(lambda one: _time_s(one) // step_s == ended, reversed(series))
                self._keep(_mean([*map(_unpacked, part)], ended * step_s, step_s))
        series.append(_packed(sample))
        if sample.step_s == MINUTE_S:
            self._unsaved.append(series[-1])

    def _forget_after(self, time_s: int) -> None:
        """Drop samples after this time, and means that end after it: the clock went back."""
        for step_s, series in self._series.items():
            newest_s = time_s if step_s == SHORT_S else time_s - step_s
            while series and _time_s(series[-1]) > newest_s:
                series.pop()


async def take_samples(agent: AgentView, history: History) -> None:
    """Add a sample each 5 s, and save them, until the page ends."""
    maker = SampleMaker()
    while True:
        now_s = agent.clock.monotonic_s()
        values = maker.values(agent.snapshot(), agent.position(), now_s)
        history.add(agent.utc_ms() // 1000, values, sure=agent.gnss_ms() is not None)
        if history.is_due:
            await in_thread(history.save)
        await asyncio.sleep(SHORT_S)


def read(file: Path) -> list[Sample]:
    """The samples in the file, up to the first damage; none if it has another format."""
    try:
        with file.open("rb") as opened:
            data = opened.read(2 * _LARGEST_BYTES)
    except OSError:
        return []
    found: list[Sample] = []
    if not data.startswith(_HEAD):
        return found
    for at in range(len(_HEAD), len(data) - _RECORD_BYTES + 1, _RECORD_BYTES):
        record = data[at : at + _RECORD_BYTES]
        sample = _unpacked(record)
        if _packed(sample) != record or sample.step_s not in {MINUTE_S, LONG_S}:
            break
        found.append(sample)
    return found


class SampleMaker:
    """Makes samples of the agent's snapshots."""

    def __init__(self) -> None:
        # When, delivered, bytes: of the last minute.
        self._counters: deque[tuple[float, int, int]] = deque(maxlen=round(60 / SHORT_S) + 1)

    def values(
        self, state: Snapshot, position: Mapping[str, Any] | None, now_s: float
    ) -> dict[str, float | None]:
        """The values of a sample at the monotonic ``now_s``.

        Rates are over the last minute: deliveries come in batches, and over a shorter time a
        steady rate would look like a square wave.
        """
        receiver, upload, queue = state.receiver, state.upload, state.queue
        self._counters.append((now_s, upload.delivered, upload.sent_bytes))
        then_s, delivered, sent = self._counters[0]
        minutes = max(now_s - then_s, 1.0) / 60
        has_fix = receiver.has_position
        signals = [one.snr_db for one in receiver.satellites if one.snr_db is not None]
        heard = nlargest(_STRONGEST, signals)
        return {
            "speed": position.get("speed") if has_fix and position else None,
            "sats": (receiver.sats or 0) if has_fix else 0,
            "hdop": receiver.hdop if has_fix else None,
            "signal": sum(heard) / len(heard) if heard else None,
            "pending": queue.pending,
            "delivered_per_min": (upload.delivered - delivered) / minutes,
            "sent_bytes_per_min": (upload.sent_bytes - sent) / minutes,
            "disk_free_bytes": queue.disk_free_bytes,
            "temperature": temperature(),
        }


def temperature() -> float | None:
    """Of the processor in °C; ``None``: the kernel does not report it."""
    with contextlib.suppress(OSError, ValueError):
        return int(_THERMAL_ZONE.read_text()) / 1000
    return None


def _packed(sample: Sample) -> bytes:
    record = _RECORD.pack(sample.time_s, sample.step_s, *sample.values)
    return record + zlib.crc32(record).to_bytes(4, "little")


def _unpacked(record: bytes) -> Sample:
    time_s, step_s, *values = _RECORD.unpack_from(record)
    return Sample(time_s, step_s, tuple(values))


def _time_s(record: bytes) -> int:
    return int.from_bytes(record[:4], "little")


def _mean(samples: list[Sample], time_s: int, step_s: int) -> Sample:
    columns = []
    for values in zip(*(sample.values for sample in samples), strict=True):
        known = [value for value in values if not math.isnan(value)]
        columns.append(sum(known) / len(known) if known else math.nan)
    return Sample(time_s, step_s, tuple(columns))
