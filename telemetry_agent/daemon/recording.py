"""The part of the agent that records: reader, sampler, and the user's attributes.

It needs only the queue: a fault of the network, a secret or the page cannot keep it from recording.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import GpsSettings, Settings
from telemetry_agent.daemon.client import Answers
from telemetry_agent.daemon.commands import is_seconds, value
from telemetry_agent.daemon.extras import Extras
from telemetry_agent.daemon.status import SlidingSum, ago_s
from telemetry_agent.daemon.supervisor import Supervisor
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import fix_fields, rfc3339
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader, ReceiverStatus
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.gnss.sources import Source, gpsd
from telemetry_agent.gnss.sources.auto import AutoSource
from telemetry_agent.gnss.sources.gpsd import GpsdSource
from telemetry_agent.gnss.sources.on_connect import command_bytes
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.gnss.sources.sockets import TcpSource, UdpOptions, UdpSource
from telemetry_agent.model import Fix
from telemetry_agent.snapshot import NO_PERMISSION, ReceiverView
from telemetry_agent.tasks import Bell

log = logging.getLogger(__name__)

_MINUTE_S = 60.0
_READER_S = 1.0
_TAP_PIECES = 256  # each is what one read brought: 64 KiB at most
_ROWS_TO_RESUME = 1000  # at 1 Hz this is longer than parking takes to be recognised


class Recording:
    """Reads the receiver and puts fixes into the queue.

    Args:
        on_change: called when the state of the receiver or of its antenna changes.
    """

    def __init__(
        self,
        settings: Settings,
        queue: AckQueue,
        supervisor: Supervisor,
        clock: Clock,
        *,
        on_change: Callable[[], object],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._clock = clock
        now_s = clock.monotonic_s()
        self._last_fix: tuple[float, Fix] | None = None  # recorded or not, and when it came
        self._sure_time: tuple[float, int] | None = None
        self._fixes_lately = SlidingSum(_MINUTE_S, now_s)
        self._on_change = on_change
        self._sampler = Sampler(SamplingPolicy(**asdict(settings.sampling)), self._recent())
        self._extras = Extras(settings.extra)
        self._taps: list[Callable[[bytes], object]] = []
        self._reader = supervisor.add("reader", self._build_reader, records=True)

    def receiver(self) -> ReceiverStatus:
        """The state of the receiver."""
        return self._reader.task.status

    def view(self) -> ReceiverView:
        """The receiver in a snapshot. Any thread may ask."""
        now_s = self._clock.monotonic_s()
        receiver = self.receiver()
        diagnosis = receiver.diagnosis
        why = diagnosis or receiver.trouble
        forbidden = NO_PERMISSION if receiver.is_forbidden else None
        view = ReceiverView(
            source=receiver.source,
            state=receiver.state,
            state_s=round(now_s - receiver.since_s, 1),
            fixes=receiver.fixes,
            rate_hz=round(self._fixes_lately.rate(now_s), 2),
            rejected=dict(receiver.counts),
            not_recorded=dict(self._sampler.dropped),
            satellites=self._reader.task.satellites(),
            reason=diagnosis.reason if diagnosis else forbidden,
            message=why and why.message,
            remedy=why and why.remedy,
            notice="; ".join(receiver.notices) or None,
            antenna=receiver.antenna,
        )
        if (last := self._last_fix) is None:
            return view
        came_s, fix = last
        return replace(
            view,
            fix_age_s=ago_s(came_s, now_s),
            time=rfc3339(fix.time_ms),
            mode=fix.mode,
            quality=fix.quality,
            sats=fix.sats,
            hdop=None if fix.hdop_e2 is None else fix.hdop_e2 / 100,
        )

    def position(self) -> dict[str, Any] | None:
        """The last fix, ready for JSON, and its ``age_s``; ``None`` before the first.

        It is not part of the snapshot, which every user of the machine may see.
        """
        if (last := self._last_fix) is None:
            return None
        came_s, fix = last
        return fix_fields(fix) | {"age_s": ago_s(came_s, self._clock.monotonic_s())}

    def newest_ms(self) -> int | None:
        """The time of the last fix whose time is not in doubt; ``None`` before the first."""
        return self._sure_time and self._sure_time[1]

    def gnss_ms(self) -> int | None:
        """UTC now, by that fix."""
        if (sure := self._sure_time) is None:
            return None
        came_s, time_ms = sure
        return time_ms + round((self._clock.monotonic_s() - came_s) * 1000)

    def tap(self, asked: Mapping[str, Any], bell: Bell) -> Answers:
        """The bytes of the receiver: ``{"raw": …}``, one character for each byte.

        The first answer has the ``source`` and its ``state``. If the client reads too slowly, bytes
        are dropped, and ``{"dropped_bytes": …}`` is sent in their place.
        """
        for_s = value(asked, "for_s", is_seconds, "seconds, 50 years at most", None)
        end_s = None if for_s is None else self._clock.monotonic_s() + for_s
        # Pieces, and how many bytes came before each. A full deque drops the oldest one.
        waiting: deque[tuple[int, bytes]] = deque(maxlen=_TAP_PIECES)
        came = went = 0

        def take(data: bytes) -> None:
            nonlocal came
            waiting.append((came, data))
            came += len(data)
            bell.ring()

        receiver = self.receiver()
        self._taps.append(take)
        try:
            yield {"source": receiver.source, "state": receiver.state}
            while True:
                bell.clear()
                if waiting:
                    before, data = waiting.popleft()
                    if before > went:
                        yield {"dropped_bytes": before - went}
                    yield {"raw": data.decode("latin-1")}
                    went = before + len(data)
                left_s = None if end_s is None else end_s - self._clock.monotonic_s()
                if left_s is not None and left_s <= 0:
                    return
                bell.wait(0 if waiting else left_s)
        finally:
            self._taps.remove(take)

    def apply(self, settings: Settings) -> None:
        """Continue with other settings; no fix is lost."""
        before, self._settings = self._settings, settings
        self._sampler.use(SamplingPolicy(**asdict(settings.sampling)))
        if settings.extra != before.extra:
            self._extras = Extras(settings.extra)
        if settings.gps != before.gps:
            self._reader.restart(_READER_S)

    def end(self) -> None:
        """Stop reading. The queue then has the last bytes that were read."""
        self._reader.end(_READER_S)

    def _build_reader(self) -> Reader:
        source = source_of(self._settings.gps, self._queue.path.with_suffix(".baud"))

        def decoder() -> Decoder:
            return Decoder(
                wall_clock=lambda: self._clock.wall_ms() if self._clock.synchronised() else None,
                # The week number of a live receiver may have rolled over, and its fixes must not
                # wait. A recording is as it was, and gives the fixes of `decode`.
                fix_rollover=source.live,
                eager=source.live,
                baud=source.baud,
            )

        return Reader(
            source,
            decoder,
            record=self._record,
            clock=self._clock,
            heard=self._pass_to_taps,
            changed=self._on_change,
            room=lambda: source.live or self._queue.takes_more(self._reader.task.wake),
        )

    def _pass_to_taps(self, data: bytes) -> None:
        for take in list(self._taps):
            take(data)

    def _record(self, fix: Fix) -> None:
        now_s = self._clock.monotonic_s()
        self._last_fix = now_s, fix
        if fix.time_is_sure:
            self._sure_time = now_s, fix.time_ms
        self._fixes_lately.add(now_s, 1)
        for chosen in self._sampler.feed(fix):
            self._queue.put(self._extras.added_to(chosen), self._settings.device)

    def _recent(self) -> list[Fix]:
        try:
            return [record.fix for record in self._queue.newest(_ROWS_TO_RESUME)]
        except StorageError as error:
            log.error("%s; the odometer starts at 0", error)  # noqa: TRY400 - the user's disk
            return []


def source_of(gps: GpsSettings, baud_file: Path | None) -> Source:
    """The source of bytes. ``baud_file`` keeps the speed that a serial line was found to have."""
    commands = [command_bytes(text) for text in gps.on_connect]
    baud = None if gps.baud == "auto" else gps.baud

    def port(path: Path) -> Source:
        return SerialSource(path, baud, commands=commands, baud_file=baud_file)

    if gps.source == "auto":
        return AutoSource(port)
    if gps.source.startswith("/"):
        return port(Path(gps.source))
    parts = urlsplit(gps.source)
    host, number = parts.hostname or "", parts.port or 0
    if parts.scheme == "gpsd":
        return GpsdSource(host, number or gpsd.PORT)
    if parts.scheme == "tcp":
        return TcpSource(host, number, commands=commands)
    if parts.scheme == "udp":
        return UdpSource(host, number, UdpOptions.read(parts.query))
    return ReplaySource(Path(gps.source.removeprefix("file://")))
