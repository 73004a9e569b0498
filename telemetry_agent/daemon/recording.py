"""The part of the agent that records: reader, sampler, and what is added to each fix.

It needs the queue and nothing else: no network, no secret and no page can keep it from recording.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon.builders import extras_of, source_of
from telemetry_agent.daemon.client import Answers
from telemetry_agent.daemon.commands import Listeners, tap
from telemetry_agent.daemon.supervisor import Supervisor
from telemetry_agent.errors import StorageError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader, ReceiverStatus
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.model import Fix, Sky
from telemetry_agent.tasks import Bell

log = logging.getLogger(__name__)

_READER_S = 1.0
_ROWS_TO_RESUME = 1000  # at 1 Hz more than parking takes


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
        self._extras = extras_of(settings.extra)
        self._hearing: Listeners[[bytes]] = Listeners()
        self._reader = supervisor.add("reader", self._build_reader, records=True)

    def receiver(self) -> ReceiverStatus:
        """How the receiver does."""
        return self._reader.task.status

    def sky(self) -> Sky:
        """What the receiver last said of its sky."""
        return self._reader.task.sky()

    def not_recorded(self) -> Mapping[str, int]:
        """The fixes that sampling left out, by reason."""
        return self._sampler.dropped

    def tap(self, asked: Mapping[str, Any], bell: Bell) -> Answers:
        """What the receiver says; see ``commands.tap``."""
        return tap(asked, self._hearing, self.receiver(), self._clock, bell)

    def apply(self, settings: Settings) -> None:
        """Go on with other settings; no fix is lost."""
        before, self._settings = self._settings, settings
        self._sampler.follow(SamplingPolicy(**asdict(settings.sampling)))
        if settings.extra != before.extra:
            self._extras = extras_of(settings.extra)
        if settings.gps != before.gps:
            self._reader.restart(_READER_S)

    def end(self) -> None:
        """Stop reading. The last bytes that were read are in the queue then."""
        self._reader.end(_READER_S)

    def _build_reader(self) -> Reader:
        source = source_of(self._settings.gps, self._queue.path.with_suffix(".baud"))

        def decoder() -> Decoder:
            return Decoder(
                wall_clock=lambda: self._clock.wall_ms() if self._clock.synchronised() else None,
                # The dates of a recording are what they are; a receiver's may have rolled over.
                fix_rollover=source.live,
                baud=source.baud,
            )

        return Reader(
            source,
            decoder,
            record=self._record,
            clock=self._clock,
            heard=self._hearing,
            changed=self._on_change,
            room=lambda: source.live or self._queue.takes_more(self._wake_reader),
        )

    def _wake_reader(self) -> None:
        self._reader.wake()

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
