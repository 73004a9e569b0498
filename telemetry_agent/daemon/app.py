"""The only place where real parts are put together."""

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import urlsplit

from telemetry_agent.ackqueue.committer import Committer
from telemetry_agent.ackqueue.recovery.carry_over import Carrier, carry_over
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Settings
from telemetry_agent.config.settings import Upload as UploadSettings
from telemetry_agent.connectivity.monitor import Monitor
from telemetry_agent.connectivity.probe import Probe
from telemetry_agent.connectivity.routes import KernelBell
from telemetry_agent.daemon.access import build_access, build_page_token
from telemetry_agent.daemon.builders import extras_of, open_queue, policy_of, source_of
from telemetry_agent.daemon.client import Answers
from telemetry_agent.daemon.commands import Listeners, drain, queue_commands, tap
from telemetry_agent.daemon.control import Command, Control
from telemetry_agent.daemon.status import Status
from telemetry_agent.daemon.supervisor import Supervised, Supervisor
from telemetry_agent.errors import StorageError
from telemetry_agent.export.track import Gaps
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader
from telemetry_agent.gnss.sampling import Sampler, SamplingPolicy
from telemetry_agent.gnss.sources.hotplug import Hotplug
from telemetry_agent.model import Fix, UploadState
from telemetry_agent.page.events import AgentView, Doctor, Switch
from telemetry_agent.page.options import PageOptions
from telemetry_agent.page.task import Page
from telemetry_agent.page.trips import Parking
from telemetry_agent.tasks import Bell
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import EncodeReport
from telemetry_agent.upload.reports import Reports
from telemetry_agent.upload.upload_status import Account
from telemetry_agent.upload.uploader import Uploader

log = logging.getLogger(__name__)

# What each part may take when the agent stops: together under the 10 s that are promised.
_READER_S = 1.0
_HOTPLUG_S = 0.5
_MONITOR_S = 0.5
_REQUEST_S = 3.0
_LAST_UPLOAD_S = 3.0
_COMMITTER_S = 0.5
_CARRIER_S = 0.5
_CONTROL_S = 0.5
_PAGE_S = 0.5
_QUEUE_S = 1.0

_ROWS_TO_RESUME = 1000  # at 1 Hz more than parking takes


class Agent:
    """The parts of a running agent: reader, queue with its committer, uploader, monitor, control.

    Args:
        settings: the config.
        clock: the machine's clocks.
        reports: whether it reports about itself.
        secrets: every secret that is read is added to it.
        switch: cuts the network of a demo; the page shows it.
        doctor: says what is wrong; the page shows it.

    Raises:
        ConfigError: a secret or a certificate cannot be used.
        QueueLockedError: another process holds the queue.
        StorageError: the queue cannot be opened.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        reports: bool = True,
        secrets: set[str] | None = None,
        switch: Switch | None = None,
        doctor: Doctor | None = None,
    ) -> None:
        self.settings = settings
        self._doctor = doctor
        self._switch = switch
        self._reports = reports
        self.secrets = secrets if secrets is not None else set()
        self._clock = clock
        credentials = build_access(settings.upload, self.secrets)
        self.queue = open_queue(settings.queue, clock)
        self.sampler = Sampler(SamplingPolicy(**asdict(settings.sampling)), self._recent())
        self._extras = extras_of(settings.extra)
        self._hearing: Listeners[[bytes]] = Listeners()
        self._draining: Listeners[[]] = Listeners()
        self.status = Status(
            lambda: (self.settings.device, _host(self.settings)),
            self.queue.stats,
            lambda: self.reader.task.status,
            lambda: self._account.status,
            settings.queue.path,
            clock,
            not_recorded=lambda: self.sampler.dropped,
            sky=lambda: self.reader.task.sky(),  # noqa: PLW0108 - the reader of then, not of now
        )
        self._transport = self._build_transport(settings.upload, credentials)
        self._account = Account(clock.monotonic_s())
        self.supervisor = Supervisor(clock)
        self._committer = self.supervisor.add("committer", lambda: Committer(self.queue))
        self._carrier = self.supervisor.add("salvage", lambda: Carrier(self.queue))
        self.monitor = self.supervisor.add("connectivity", self._build_monitor)
        self.uploader = self.supervisor.add("uploader", self._build_uploader)
        self._hotplug = self.supervisor.add("hotplug", self._build_hotplug)
        self.reader = self.supervisor.add("reader", self._build_reader)
        self._commands = self._build_commands()
        self._control = self.supervisor.add(
            "control", lambda: Control(self.queue.path, self._commands, self._clock)
        )
        self.page = self.supervisor.add("page", self._build_page, vital=False)
        self.queue.watch(self.uploader.wake)

    def start(self) -> None:
        """Start every thread."""
        self._control.task.listen()  # whoever knows that the agent runs can ask it
        self.supervisor.start()

    def stop(self) -> None:
        """End within 10 s. The last bytes read are recorded, and one last upload is tried."""
        self.reader.end(_READER_S)
        try:
            self.queue.commit()
        except StorageError as error:
            log.error("%s", error)  # noqa: TRY400 - the user's disk, no fault of the code
        self._hotplug.end(_HOTPLUG_S)
        self.monitor.end(_MONITOR_S)
        self.uploader.end(_REQUEST_S)
        last_upload = self.uploader.task.last_upload
        _within(_LAST_UPLOAD_S, lambda: last_upload(_LAST_UPLOAD_S))
        self._committer.end(_COMMITTER_S)
        self._carrier.end(_CARRIER_S)
        self._control.end(_CONTROL_S)
        self.page.end(_PAGE_S)
        _within(_QUEUE_S, self.queue.close)

    def apply(self, settings: Settings) -> None:
        """Go on with other settings; no fix is lost.

        The uploader starts afresh in any case, so that what was held goes on at once.

        Raises:
            ConfigError: a secret or a certificate cannot be used. Nothing has changed.
        """
        credentials = build_access(settings.upload, self.secrets)
        before = self.settings
        if settings.queue != before.queue:
            log.warning("[queue] has changed: that takes effect at the next start")
            settings = replace(settings, queue=before.queue)
        self.settings = settings
        self.sampler.policy = SamplingPolicy(**asdict(settings.sampling))
        if settings.extra != before.extra:
            self._extras = extras_of(settings.extra)
        if settings.gps != before.gps:
            self.reader.restart(_READER_S)
        self.monitor.restart(_MONITOR_S)
        self.uploader.end(_REQUEST_S)
        self._transport.close()
        self._transport = self._build_transport(settings.upload, credentials)
        self._account.set_up_anew(otherwise=settings.upload != before.upload)
        self.uploader.restart(0)
        self.page.restart(_PAGE_S)

    def _build_transport(self, upload: UploadSettings, credentials: Credentials) -> Transport:
        return Transport(
            upload.url,
            credentials=credentials,
            proxy=upload.proxy,
            # Longer than a batch gathers, so that the next one finds the connection open.
            keepalive_expiry_s=3 * upload.flush_every_s,
            dialer=Dialer(self._clock, gnss_ms=self.status.gnss_ms),
        )

    def _build_uploader(self) -> Uploader:
        upload = self.settings.upload
        wire_format = choose(upload.format, upload.url, upload.username)
        return Uploader(
            self.queue,
            wire_format,
            self._transport,
            policy_of(upload, wire_format),
            account=self._account,
            way=_Way(self.monitor),
            reports=self._build_reports(wire_format.encode_report),
            in_haste=lambda: bool(self._draining),
            on_step=self._uploader_stepped,
            clock=self._clock,
        )

    def _build_reports(self, encode: EncodeReport | None) -> Reports | None:
        if encode is None or not self._reports:
            return None
        return Reports(
            (self.queue.stream, self.settings.device),
            self.status.words,
            self.status.report,
            encode,
            self._clock.monotonic_s(),
            heartbeat_s=self.settings.sampling.heartbeat_s,
        )

    def _build_monitor(self) -> Monitor:
        settings = self.settings
        host, port = settings.connectivity.probe or settings.upload.address
        bell = KernelBell()
        return Monitor(
            Probe(host, port),
            bell,
            probe_every_s=settings.connectivity.probe_every_s,
            resume_spread_s=settings.upload.resume_spread_s,
            on_return=self._network_returned,
            on_change=self._network_changed,
            clock=self._clock,
        )

    def _network_returned(self, spread_s: float) -> None:
        self.uploader.task.network_returned(spread_s)

    def _network_changed(self) -> None:
        self.uploader.task.network_changed()

    def _uploader_stepped(self) -> None:
        self.status.step_ended()
        self._draining()
        self.page.task.nudge()

    def _build_commands(self) -> dict[str, Command]:
        return queue_commands(self.queue) | {
            "status": Command(lambda _asked, _bell: self._tell_status(), public=True),
            "drain": Command(lambda _asked, bell: self.drain(bell)),
            "tap": Command(
                lambda asked, bell: tap(
                    asked, self._hearing, self.reader.task.status, self._clock, bell
                )
            ),
        }

    def _build_page(self) -> Page:
        page, sampling = self.settings.page, self.settings.sampling
        sight = AgentView(
            self.queue,
            snapshot=self.status.snapshot,
            position=self.status.position,
            network=self._network,
            gaps=Gaps.of_sampling(sampling.interval_s, sampling.heartbeat_s),
            ask=lambda command, asked: self._commands[command].run(asked, Bell()),
            clock=self._clock,
            switch=self._switch,
            doctor=self._doctor,
            parking=Parking(sampling.parked_radius_m or 25, sampling.parked_after_s),
        )
        return Page(
            page.listen,
            sight,
            lambda: build_page_token(page, self.secrets),
            PageOptions(
                names=page.names,
                tiles=page.tiles,
                tiles_credit=page.tiles_credit,
                map_file=page.map,
                history_file=self.settings.queue.path.with_suffix(".history"),
            ),
        )

    def _network(self) -> dict[str, Any]:
        state = self.monitor.task.state
        since_s = round(self._clock.monotonic_s() - state.since_s, 1)
        return {"word": state.word, "since_s": since_s, "error": state.error}

    def _tell_status(self) -> Answers:
        yield self.status.snapshot()

    def drain(self, bell: Bell) -> Answers:
        """Have everything sent that is recorded by now; see ``commands.drain``."""
        with self._draining.joined(bell.ring):
            yield from drain(
                self.queue,
                lambda: self._account.status,
                self.uploader.task.hurry,
                self._clock,
                bell,
            )

    def _build_hotplug(self) -> Hotplug:
        return Hotplug(self._wake_reader)

    def _wake_reader(self) -> None:
        self.reader.wake()

    def _build_reader(self) -> Reader:
        gps = self.settings.gps
        source = source_of(gps, self.settings.queue.path.with_suffix(".baud"))

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
            changed=self.uploader.wake,
            arrivals=lambda: self._hotplug.task.arrivals,
            room=lambda: source.live or self.queue.takes_more(self._wake_reader),
        )

    def _record(self, fix: Fix) -> None:
        self.status.fix_came(fix)
        for chosen in self.sampler.feed(fix):
            self.queue.put(chosen._replace(extra=self._extras.json()), self.settings.device)

    def _recent(self) -> list[Fix]:
        try:
            return [record.fix for record in self.queue.newest(_ROWS_TO_RESUME)]
        except StorageError as error:
            log.error("%s; the odometer starts at 0", error)  # noqa: TRY400 - the user's disk
            return []

    def __str__(self) -> str:
        """What it does, in one line; no secret."""
        settings = self.settings
        return (
            f"records {settings.device} from {settings.gps.source} into {settings.queue.path}, "
            f"for {_host(settings)}"
        )


class _Way:
    """The way to the endpoint as the monitor that runs now sees it."""

    def __init__(self, monitor: Supervised[Monitor]) -> None:
        self._monitor = monitor

    def closed(self) -> tuple[UploadState, str] | None:
        return self._monitor.task.closed()

    def doubt(self) -> None:
        self._monitor.task.doubt()

    def answered(self) -> None:
        self._monitor.task.answered()


def drain_alone(settings: Settings, clock: Clock) -> Answers:
    """Send everything that is recorded, where no agent runs; see ``commands.drain``.

    Raises:
        QueueLockedError: another process holds the queue.
        StorageError: the queue cannot be opened.
    """
    agent = Agent(settings, clock, reports=False)
    carry_over(agent.queue)
    agent.uploader.start()
    try:
        yield from agent.drain(Bell())
    finally:
        agent.uploader.end(_REQUEST_S)
        agent.monitor.task.close()
        agent.queue.close()


def _within(timeout_s: float, act: Callable[[], object]) -> None:
    """Do it in a thread that is left behind where it takes too long."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(timeout_s)


def _host(settings: Settings) -> str:
    """Where fixes go; the rest of a URL may hold a key."""
    return urlsplit(settings.upload.url).netloc
