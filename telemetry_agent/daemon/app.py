"""The agent: a part that records, a part that delivers, and the status, page and socket of both."""

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from telemetry_agent import __version__
from telemetry_agent.ackqueue.committer import Committer
from telemetry_agent.ackqueue.copying import copy_to
from telemetry_agent.ackqueue.file.rows import Row
from telemetry_agent.ackqueue.file.schema import FullError
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery import set_aside_files
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Settings, shown
from telemetry_agent.daemon import queue_place
from telemetry_agent.daemon.client import Answers
from telemetry_agent.daemon.commands import TrackRules, queue_commands
from telemetry_agent.daemon.control import Control
from telemetry_agent.daemon.delivery import Delivery, host_of
from telemetry_agent.daemon.queue_place import RUNTIME_BYTES
from telemetry_agent.daemon.recording import Recording
from telemetry_agent.daemon.status import Completeness, pending, queue_view, report
from telemetry_agent.daemon.supervisor import Supervisor
from telemetry_agent.errors import Advice, StorageError, counted, in_shell
from telemetry_agent.page.agent_view import AgentView, Doctor, LogTail, Switch
from telemetry_agent.page.task import Page
from telemetry_agent.secrecy import credential
from telemetry_agent.snapshot import ConfigView, Snapshot, StorageView, as_json
from telemetry_agent.tasks import Bell, within
from telemetry_agent.upload.interfaces import EncodeReport
from telemetry_agent.upload.reports import AgentReports

log = logging.getLogger(__name__)

# The limits at a stop, of a task and of work on the disk. Few of them are ever reached in one stop;
# the service ends the process in time in any case (``service._STOP_S``). So the last step has none:
# a card may take seconds to sync while the machine shuts down.
_TASK_S = 0.5
_DISK_S = 1.0
_COPY_S = 4.0


class Agent:
    """A running agent.

    Args:
        secrets: every secret that is read is added to it.
        switch: cuts the network of a demo; the page shows it.
        config: why the last good config is in effect.
        waiting: rows that the queue of the previous agent could not write.
        covered: that queue, if another disk was mounted over its folder. It is delivered too.
        doctor: makes the checks that the page shows.

    Raises:
        QueueLockedError: another process holds the queue.
        StorageError: the queue cannot be opened.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        secrets: set[str] | None = None,
        switch: Switch | None = None,
        config: ConfigView | None = None,
        waiting: Collection[Row] = (),
        covered: AckQueue | None = None,
        doctor: Callable[[], Doctor] | None = None,
    ) -> None:
        self.settings = settings
        self.config = config
        """Why the last good config is in effect; ``None`` if it is not."""
        self.secrets = secrets if secrets is not None else set()
        self._switch = switch
        self._doctor = doctor
        self._later_queues: set[str] = set()
        self._log_tail = LogTail(self.secrets)
        self._clock = clock
        self._began_s = clock.monotonic_s()
        self._covered: StorageView | None = None
        self._stays_in_runtime = False  # only to open the queue would show that it is sound again
        placed, self.storage = queue_place.place(settings.queue)
        try:
            self.queue = queue_place.open_queue(placed, clock)
        except StorageError as error:
            if queue_place.runtime_queue() is None:
                raise
            if not self._is_in_runtime():  # there it may work at the second try
                placed, self.storage = queue_place.in_runtime(settings.queue, Advice(error.message))
                self._stays_in_runtime = not isinstance(error, FullError)
            self.queue = queue_place.open_queue(placed, clock)
        try:
            self.queue.adopt(waiting)
            self._build(covered)
        except BaseException:
            self.queue.close()  # without it the next start would miss the end of the queue's log
            raise

    def _build(self, covered: AckQueue | None) -> None:
        if self.storage is not None:
            log.warning("%s", self.storage)
        self._completeness = Completeness(self.queue)
        self.supervisor = Supervisor(self._clock)
        self._committer = self.supervisor.add(
            "committer", lambda: Committer(self.queue), records=True
        )
        parts = self.settings, self.queue, self.supervisor, self._clock
        self.recording = Recording(
            *parts,
            on_change=lambda: self.delivery.wake(),  # noqa: PLW0108 - it is built below
        )
        self.delivery = Delivery(
            *parts,
            self.secrets,
            reports=self._build_reports,
            gnss_ms=self.recording.gnss_ms,
            on_step=lambda: self.page.task.nudge(),  # noqa: PLW0108 - the page that runs now
            held=self._held,
        )
        self._commands = queue_commands(self.queue, self._track_rules) | {
            "status": self._status,
            "drain": self._drain,
            "tap": self.recording.tap,
        }
        self._control = self.supervisor.add(
            "control",
            lambda: Control(self.settings.queue.path, self._commands, self._later_queues),
        )
        self.page = self.supervisor.add("page", self._build_page)
        left = [*([covered] if covered else []), *queue_place.open_others(self.queue.path)]
        self._leftovers = [part for part in map(self._build_leftover, left) if part is not None]
        self.queue.watch(self.delivery.wake)

    def start(self) -> None:
        """Start every thread."""
        logging.getLogger("telemetry_agent").addHandler(self._log_tail)
        self._control.task.listen()  # before READY=1, so that commands can ask a started agent
        self.supervisor.start()

    def stop(self, *, moves: bool = False) -> list[Row]:
        """Stop. The last bytes read are recorded, and one last upload is tried.

        If the agent ``moves``, it returns the rows that could not be written, and a queue that is
        covered stays open, to be delivered.
        """
        self.recording.end()
        within(_DISK_S, self.queue.commit)
        for leftover in self._leftovers:
            leftover.end(last=False)
        if self._committer.task.has_no_place and (elsewhere := queue_place.runtime_queue()):
            within(_COPY_S, lambda: copy_to(self.queue.shared, elsewhere, RUNTIME_BYTES))
        self.delivery.end()
        for task in (self._committer, self._control, self.page):
            task.end(_TASK_S)
        waiting: list[Row] = []
        if moves:
            waiting = self.queue.hand_over()
            if not self.is_covered:
                within(_DISK_S, self.queue.close)
        else:
            within(_COPY_S, lambda: queue_place.keep_in_runtime(self.queue))
            within(None, self.queue.close)
        logging.getLogger("telemetry_agent").removeHandler(self._log_tail)
        return waiting

    @property
    def is_covered(self) -> bool:
        """Whether another disk was mounted over the folder of the queue."""
        return self.queue.shared.is_covered

    def may_move(self) -> bool:
        """Whether ``must_move`` must look at the disk."""
        if self.is_covered:
            return True
        if self._stays_in_runtime or queue_place.runtime_queue() is None:
            return False
        refuses = self.queue.shared.writer.refused or self._committer.task.has_no_place
        return self._is_in_runtime() or refuses

    def must_move(self) -> bool:
        """Whether the queue must change places: its disk refuses files, or accepts them again.

        Or another disk was mounted over it, and accepts files. If it does not, that is reported.
        """
        # Away from a state directory that refuses files; back when it accepts them again.
        refused = queue_place.why_unusable(
            self.settings.queue.path, needs_room=self._is_in_runtime()
        )
        if self.is_covered and self.queue.shared.file.is_covered:  # it can be mounted again by now
            if refused is not None and self._covered is None:
                said = (
                    f"the disk of {self.queue.path.parent} was unmounted or covered, and is still "
                    f"written; what is there now cannot be used: {refused.message}"
                )
                self._covered = StorageView("covered", said, "mount it there again")
                log.warning("%s", self._covered)
            return refused is None
        self._covered = None
        return (refused is not None) != self._is_in_runtime()

    def apply(self, settings: Settings) -> None:
        """Continue with other settings; no fix is lost."""
        before = self.settings
        if settings.queue != before.queue:
            way = (
                f"; until then, ask with TELEMETRY_AGENT_QUEUE__PATH={in_shell(before.queue.path)}"
            )
            if queue_place.runtime_queue() is not None:  # its socket is not beside its queue
                way = ""
            log.warning("[queue] has changed: that takes effect at the next start%s", way)
            self._later_queues.add(str(settings.queue.path))
            settings = replace(settings, queue=before.queue)
        self.settings, self.config = settings, None
        self.recording.apply(settings)
        self.delivery.apply(settings)
        for leftover in self._leftovers:
            leftover.apply(settings)
        self.page.restart(_TASK_S)

    def snapshot(self) -> Snapshot:
        """The state of every part now. Any thread may ask: it waits for no commit or network."""
        return Snapshot(
            version=__version__,
            device=self.settings.device,
            pid=os.getpid(),
            uptime_s=round(self._clock.monotonic_s() - self._began_s, 1),
            receiver=self.recording.view(),
            upload=self.delivery.view(self._completeness.until_ms),
            queue=queue_view(
                self.queue.stats(),
                self.queue.path.parent,
                self.recording.newest_ms(),
                [leftover.queue.stats() for leftover in self._leftovers],
            ),
            page=self.page.task.status(),
            config=self.config,
            storage=(self._covered if self.is_covered else None) or self.storage,
        )

    def pending(self) -> int:
        """The number of fixes that wait to be delivered, in every queue. Looks at no file."""
        queues = self.queue, *(leftover.queue for leftover in self._leftovers)
        return sum(queue.pending(queue.last_row()) for queue in queues)

    def state_words(self) -> tuple[str, ...]:
        """The states whose change is reported to the endpoint at once."""
        receiver = self.recording.receiver()
        return receiver.state, self.delivery.status().state, receiver.antenna or ""

    def status_line(self) -> str:
        """The state in one line for the service manager."""
        receiver, status = self.recording.receiver().state, self.delivery.status()
        untried = status.state == "ok" and not status.requests
        upload = "not tried yet" if untried else status.state
        recording = "no receiver" if receiver == "absent" else f"receiver {receiver}"
        notes = "" if self.config is None else "; the last good config is in effect"
        if self.storage is not None:
            notes += "; a power cut loses everything"
        source = self.settings.gps.source
        return f"{self.settings.device} from {source}: {recording}; uploads {upload}{notes}"

    def _is_in_runtime(self) -> bool:
        return self.storage is not None and self.storage.state == "runtime"

    def _build_leftover(self, queue: AckQueue) -> Delivery | None:
        """Delivers the fixes of a queue that an earlier agent used, if any are left."""
        stats, covered = queue.stats(), queue.shared.is_covered
        count = pending(stats)
        if not (count or stats.carrying_over):
            within(_DISK_S, queue.close)  # a disk that was taken away may refuse it
            # Dead letters can still be read. What others put beside the queue, only they delete.
            elsewhere = queue_place.runtime_queue()
            is_ours = elsewhere is not None and queue.path.parent == elsewhere.parent
            if is_ours and not stats.ack_failed:
                set_aside_files.delete_empty(queue.path)
            return None
        what = "the fixes" if stats.carrying_over else counted(count, "fix")
        log.info("also delivering %s in %s%s", what, queue.path, " beneath it" * covered)
        return Delivery(
            self.settings, queue, self.supervisor, self._clock, self.secrets, held=self._held
        )

    def _build_reports(self, encode: EncodeReport) -> AgentReports:
        return AgentReports(
            (self.queue.stream, self.settings.device),
            self.state_words,
            lambda: report(self.snapshot()) | self._completeness.report(),
            encode,
            self._clock.monotonic_s(),
            heartbeat_s=self.settings.sampling.heartbeat_s,
            on_taken=self._completeness.taken,
        )

    def _held(self) -> str | None:
        if self.config is not None and self.config.state == "wrong":
            return f"the config is wrong: {self.config.last_error}"
        return None

    def _status(self, _asked: Mapping[str, Any], _bell: Bell) -> Answers:
        yield as_json(self.snapshot())

    def _drain(self, asked: Mapping[str, Any], bell: Bell) -> Answers:
        """Send what is in every queue, one after the other."""
        before = delivered = 0
        for part in (self.delivery, *self._leftovers):
            for answer in part.drain(asked, bell):
                delivered = before + answer["delivered"]
                yield answer | {"delivered": delivered}
            before = delivered

    def _track_rules(self) -> TrackRules:
        return TrackRules.of(self.settings.sampling)

    def _build_page(self) -> Page:
        page, rules = self.settings.page, self._track_rules()
        page = replace(page, token_file=page.token_file or credential("page_token"))
        agent = AgentView(
            self.queue,
            snapshot=self.snapshot,
            position=self.recording.position,
            network=self.delivery.network,
            gaps=rules.gaps,
            ask=lambda command, asked: self._commands[command](asked, Bell()),
            gnss_ms=self.recording.gnss_ms,
            clock=self._clock,
            switch=self._switch,
            doctor=self._doctor() if self._doctor and page.listen else None,
            log_lines=self._log_tail.lines,
            config=lambda: shown(self.settings),
            parking=rules.parking,
            secrets=self.secrets,
            history_file=self.settings.queue.path.with_suffix(".history"),
            **asdict(page),
        )
        return Page(agent)

    def __str__(self) -> str:
        """The source, the queue and the endpoint in one line, without secrets."""
        settings = self.settings
        return (
            f"records {settings.device} from {settings.gps.source} into {self.queue.path}, "
            f"for {host_of(settings)}"
        )
