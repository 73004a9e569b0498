"""The part of the agent that records: reader, sampler, and the user's attributes.

It needs only the queue: a fault of the network, a secret or the page cannot keep it from recording.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import ExtraSettings, Settings
from telemetry_agent.daemon.builders import source_of
from telemetry_agent.daemon.client import Answers
from telemetry_agent.daemon.commands import Listeners, tap
from telemetry_agent.daemon.extras import Attribute, Extras
from telemetry_agent.daemon.supervisor import Supervisor
from telemetry_agent.errors import StorageError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader, ReceiverStatus
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.model import Fix, Sky
from telemetry_agent.tasks import Bell

log = logging.getLogger(__name__)

_READER_S = 1.0
_ROWS_TO_RESUME = 1000  # at 1 Hz this is longer than parking takes to be recognised


class Recording:
    """Reads the receiver and puts fixes into the queue.

    Args:
        settings: the config.
        queue: takes the fixes.
        supervisor: runs the tasks.
        clock: the machine's clocks.
        on_fix: called with each fix of the receiver, recorded or not.
        on_change: called when the state of the receiver or of its antenna changes.
    """

    def __init__(
        self,
        settings: Settings,
        queue: AckQueue,
        supervisor: Supervisor,
        clock: Clock,
        *,
        on_fix: Callable[[Fix], object],
        on_change: Callable[[], object],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._clock = clock
        self._on_fix = on_fix
        self._on_change = on_change
        self._sampler = Sampler(SamplingPolicy(**asdict(settings.sampling)), self._recent())
        self._extras = _build_extras(settings.extra)
        self._listeners: Listeners[[bytes]] = Listeners()
        self._reader = supervisor.add("reader", self._build_reader, records=True)

    def receiver(self) -> ReceiverStatus:
        """The state of the receiver."""
        return self._reader.task.status

    def sky(self) -> Sky:
        """The satellites in view, as the receiver last reported them."""
        return self._reader.task.sky()

    def not_recorded(self) -> Mapping[str, int]:
        """The fixes that sampling left out, by reason."""
        return self._sampler.dropped

    def tap(self, asked: Mapping[str, Any], bell: Bell) -> Answers:
        """The receiver's bytes; see ``commands.tap``."""
        return tap(asked, self._listeners, self.receiver(), self._clock, bell)

    def apply(self, settings: Settings) -> None:
        """Continue with other settings; no fix is lost."""
        before, self._settings = self._settings, settings
        self._sampler.follow(SamplingPolicy(**asdict(settings.sampling)))
        if settings.extra != before.extra:
            self._extras = _build_extras(settings.extra)
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
                # The week number of a live receiver may have rolled over; a recording is as it was.
                fix_rollover=source.live,
                baud=source.baud,
            )

        return Reader(
            source,
            decoder,
            record=self._record,
            clock=self._clock,
            heard=self._listeners,
            changed=self._on_change,
            room=lambda: source.live or self._queue.takes_more(self._wake_reader),
        )

    def _wake_reader(self) -> None:
        self._reader.task.wake()

    def _record(self, fix: Fix) -> None:
        self._on_fix(fix)
        for chosen in self._sampler.feed(fix):
            self._queue.put(self._extras.added_to(chosen), self._settings.device)

    def _recent(self) -> list[Fix]:
        try:
            return [record.fix for record in self._queue.newest(_ROWS_TO_RESUME)]
        except StorageError as error:
            log.error("%s; the odometer starts at 0", error)  # noqa: TRY400 - the user's disk
            return []


def _build_extras(extra: ExtraSettings) -> Extras:
    attributes = [Attribute(name, one.file, one.scale) for name, one in extra.files.items()]
    return Extras(attributes, power=extra.power)
