"""The part of the agent that delivers: transport, uploader, connectivity monitor, carry-over.

It needs only a queue, so ``drain`` builds it alone if no agent runs. A secret or a certificate that
cannot be used holds the uploads, and no other part.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import Carrier, carry_over
from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import Settings, UploadSettings
from telemetry_agent.connectivity.monitor import Monitor, Probe
from telemetry_agent.connectivity.routes import route_bell
from telemetry_agent.daemon.client import Answers
from telemetry_agent.daemon.queue_place import open_queue
from telemetry_agent.daemon.status import SlidingSum, ago_s
from telemetry_agent.daemon.supervisor import Supervisor
from telemetry_agent.errors import (
    AgentError,
    ConfigError,
    StorageError,
    UnavailableError,
    counted,
    refused_thread,
)
from telemetry_agent.fields import rfc3339
from telemetry_agent.secrecy import credential, or_credential, secrets_in_url
from telemetry_agent.snapshot import UploadView
from telemetry_agent.tasks import Bell, within
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import EncodeReport, UploadPolicy, WireFormat
from telemetry_agent.upload.reports import AgentReports
from telemetry_agent.upload.upload_status import StatusKeeper, UploadStatus
from telemetry_agent.upload.uploader import Uploader

_MINUTE_S = 60.0
_DAY_S = 86400.0
_TASK_S = 0.5
_REQUEST_S = 3.0
_LAST_UPLOAD_S = 3.0
_LAST_EXCHANGE_S = 2.5  # the rest is for noting that no answer came
_ATTEMPTS = 3
_LONGEST_WAIT_S = 60.0
_AWAY = {"no-route", "unreachable"}

BuildReports = Callable[[EncodeReport], AgentReports]


def host_of(settings: Settings) -> str:
    """The host of the endpoint; the rest of its URL may contain a key."""
    return urlsplit(settings.upload.url).netloc


class Delivery:
    """Sends the fixes of the queue.

    Args:
        secrets: every secret that is read is added to it.
        reports: makes the agent's reports about itself; ``None`` sends no reports.
        gnss_ms: UTC of the receiver: it distinguishes an expired certificate from a wrong clock.
        on_step: called after each step of the uploader; must not raise.
        held: why nothing may be sent, besides secrets; ``None`` if it may.
    """

    def __init__(
        self,
        settings: Settings,
        queue: AckQueue,
        supervisor: Supervisor,
        clock: Clock,
        secrets: set[str],
        *,
        reports: BuildReports | None = None,
        gnss_ms: Callable[[], int | None] = lambda: None,
        on_step: Callable[[], None] = lambda: None,
        held: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._held = held
        self._settings = settings
        self.queue = queue
        self._clock = clock
        self._secrets = secrets
        self._reports = reports
        self._gnss_ms = gnss_ms
        self._on_step = on_step
        self._draining: list[Bell] = []
        self._keeper = StatusKeeper(clock)
        self._counted = self._keeper.status
        self._delivered_lately = SlidingSum(_MINUTE_S, clock.monotonic_s())
        self._sent_lately = SlidingSum(_DAY_S, clock.monotonic_s(), buckets=24)
        self._transport = self._build_transport()
        self._carrier = supervisor.add("carry-over", lambda: Carrier(queue))
        self._monitor = supervisor.add("connectivity", self._build_monitor)
        self._uploader = supervisor.add("uploader", self._build_uploader)

    def status(self) -> UploadStatus:
        """The state of uploads. The next attempt is the earlier of backoff and probe."""
        status = self._keeper.status
        probe_s = self._monitor.task.next_due_s() if status.state in _AWAY else None
        if probe_s is None or status.next_attempt_s is None or probe_s > status.next_attempt_s:
            return status
        return replace(status, next_attempt_s=probe_s)

    def view(self, complete_until_ms: int | None) -> UploadView:
        """Uploads in a snapshot. Any thread may ask."""
        now_s, upload = self._clock.monotonic_s(), self.status()
        next_s = upload.next_attempt_s
        return UploadView(
            host=host_of(self._settings),
            state=upload.state,
            state_s=round(now_s - upload.since_s, 1),
            requests=upload.requests,
            failed_requests=upload.failed_requests,
            delivered=upload.delivered,
            unknown_names=upload.unknown_names,
            rate_hz=round(self._delivered_lately.rate(now_s), 2),
            sent_bytes=upload.sent_bytes,
            sent_bytes_24h=round(self._sent_lately.total(now_s)),
            complete_until=None if complete_until_ms is None else rfc3339(complete_until_ms),
            last_delivery_s=ago_s(upload.last_delivery_s, now_s),
            last_error=upload.last_error,
            last_error_s=ago_s(upload.last_error_s, now_s),
            next_attempt_s=None if next_s is None else round(max(0.0, next_s - now_s), 1),
            backlog_error=upload.backlog_error,
        )

    def network(self) -> dict[str, Any]:
        """The monitor's state of the path to the endpoint, ready for JSON."""
        state = self._monitor.task.state
        since_s = round(self._clock.monotonic_s() - state.since_s, 1)
        return {"word": state.word, "since_s": since_s, "error": state.error}

    def wake(self) -> None:
        """Make the uploader check the queue."""
        self._uploader.task.wake()

    def apply(self, settings: Settings) -> None:
        """Continue with these settings, which may be the same: held uploads are tried at once."""
        before, self._settings = self._settings, settings
        self._monitor.restart(_TASK_S)
        self._uploader.end(_REQUEST_S)
        self._transport.close()
        self._transport = self._build_transport()
        self._keeper.reloaded(changed=settings.upload != before.upload)
        self._uploader.restart(0)

    def drain(self, _asked: Mapping[str, Any], bell: Bell) -> Answers:
        """Send everything that is recorded by now. Each answer reports the progress.

        It ends when nothing is left. It gives up if three attempts in a row delivered nothing, or
        if the next attempt is more than a minute away. ``bell`` is rung after each step of the
        uploader.

        Raises:
            UnavailableError: the endpoint cannot be reached, or accepts nothing now.
            StorageError: the disk refuses what is left, so it cannot be sent.
            AgentError: uploads are held, or fixes of a damaged file are still being carried over.
        """
        self._draining.append(bell)
        try:
            yield from self._drain(bell)
        finally:
            self._draining.remove(bell)

    def _drain(self, bell: Bell) -> Answers:
        last_row = self.queue.last_row()
        start = before = self._keeper.status
        bell.clear()
        self._uploader.task.hurry()
        while True:
            # First, because what is pending was in memory then.
            disk_error = self.queue.disk_error(last_row)
            pending = self.queue.pending(last_row)
            now = self._keeper.status
            delivered = now.delivered - start.delivered
            yield {"pending": pending, "delivered": delivered, "state": now.state}
            if not pending and self.queue.stats().carrying_over:
                raise AgentError(
                    "the queue is sent, but fixes are still being carried over from a damaged file",
                    "drain again later",
                )
            if not pending:
                return
            waiting = counted(pending, "fix waits", "fixes wait")
            if disk_error is not None:
                raise StorageError(
                    f"{waiting} in memory: {disk_error.message}",
                    "`sudo telemetry-agent doctor` shows why",
                )
            if now.delivered != before.delivered:
                before = now  # attempts count from the last one that delivered
            attempts = now.waits - before.waits
            if attempts and now.state == "held":
                raise AgentError(f"uploads are held, {waiting}: {now.last_error}")
            wait_s = (now.next_attempt_s or 0.0) - self._clock.monotonic_s()
            # Until the uploader has noticed the hurry, this is still the wait that the hurry ends.
            is_noticed = now.hurries != start.hurries
            if attempts >= _ATTEMPTS or (is_noticed and wait_s > _LONGEST_WAIT_S):
                raise UnavailableError(f"{waiting}: {now.last_error}")
            bell.wait(None)
            bell.clear()

    def drain_alone(self) -> Answers:
        """The same without the other tasks.

        Raises:
            ResourceError: the system refuses a thread for the uploader.
        """
        answers = self.drain({}, Bell())
        try:
            yield next(answers)  # first, so that everything the uploader delivers is counted
            self._uploader.start()
            if self._uploader.is_refused:
                raise refused_thread("the uploader")
            yield from answers
        finally:
            self._uploader.end(_REQUEST_S)
            self._monitor.task.close()

    def end(self, *, last: bool = True) -> None:
        """Stop, after one last upload if the one before succeeded.

        Not ``last``: stop at once, and close the queue, which only this part uses.
        """
        self._monitor.end(_TASK_S)
        self._uploader.end(_REQUEST_S if last else 0)
        if last:
            last_upload = self._uploader.task.last_upload
            within(_LAST_UPLOAD_S, lambda: last_upload(_LAST_EXCHANGE_S))
        self._carrier.end(_TASK_S)
        if not last:
            within(_TASK_S, self.queue.close)

    def _build_transport(self) -> Transport:
        upload = self._settings.upload
        return Transport(
            upload.url,
            credentials=build_credentials(upload, self._secrets),
            proxy=upload.proxy,
            dialer=Dialer(
                self._clock,
                gnss_ms=self._gnss_ms,
                # Longer than a batch waits to be sent, so that it finds the connection open.
                keepalive_s=3 * upload.flush_every_s,
            ),
        )

    def _build_uploader(self) -> Uploader:
        upload = self._settings.upload
        wire_format = choose(upload.format, upload.url, upload.username)
        encode = wire_format.encode_report
        return Uploader(
            self.queue,
            wire_format,
            self._transport,
            _policy_of(upload, wire_format),
            keeper=self._keeper,
            reachability=lambda: self._monitor.task,
            missing=self._missing,
            reports=None if encode is None or self._reports is None else self._reports(encode),
            resend=self.queue.resend_names if upload.allow_resend else None,
            urgent=lambda: bool(self._draining),
            on_step=self._stepped,
            clock=self._clock,
        )

    def _missing(self) -> str | None:
        """Why nothing can be sent, such as a secret or a certificate that cannot be used."""
        if (held := self._held()) is not None:
            return held
        try:
            self._transport.credentials.prepare()
        except ConfigError as error:
            return str(error)
        return None

    def _build_monitor(self) -> Monitor:
        settings = self._settings
        host, port = settings.connectivity.probe or settings.upload.address
        return Monitor(
            Probe(host, port),
            route_bell(),
            probe_every_s=settings.connectivity.probe_every_s,
            resume_spread_s=settings.upload.resume_spread_s,
            # Not a bound method: the uploader may be built again.
            on_return=lambda spread_s: self._uploader.task.network_returned(spread_s),  # noqa: PLW0108
            on_change=lambda: self._uploader.task.network_changed(),  # noqa: PLW0108 - as above
            clock=self._clock,
        )

    def _stepped(self) -> None:
        now_s, before, upload = self._clock.monotonic_s(), self._counted, self._keeper.status
        self._counted = upload
        self._delivered_lately.add(now_s, upload.delivered - before.delivered)
        self._sent_lately.add(now_s, upload.sent_bytes - before.sent_bytes)
        self._on_step()
        for bell in list(self._draining):
            bell.ring()


def drain_at_rest(settings: Settings, clock: Clock) -> Answers:
    """Send everything that is recorded, if no agent runs; see ``Delivery.drain``.

    Raises:
        QueueLockedError: another process holds the queue.
        StorageError: the queue cannot be opened.
    """
    with open_queue(settings.queue, clock) as queue:
        carry_over(queue)
        yield from Delivery(settings, queue, Supervisor(clock), clock, set()).drain_alone()


def _policy_of(upload: UploadSettings, wire_format: WireFormat) -> UploadPolicy:
    """The policy of uploads; with ``order = "auto"`` the format chooses the order."""
    return UploadPolicy(
        max_batch=upload.max_batch,
        flush_every_s=upload.flush_every_s,
        timeout_s=upload.timeout_s,
        live_first=upload.order == "live-first"
        or (upload.order == "auto" and not wire_format.oldest_first),
        compression=upload.compression,
        backoff_initial_s=upload.backoff_initial_s,
        backoff_max_s=upload.backoff_max_s,
    )


def build_credentials(upload: UploadSettings, secrets: set[str]) -> Credentials:
    """The secrets that the config names, or else systemd's credentials of the same names.

    ``Credentials.prepare`` reads them. It also raises if the settings and the credentials
    contradict each other, or if a secret would be sent without encryption.

    Args:
        upload: the settings.
        secrets: every secret that is read is added to it, now and later.
    """
    token = upload.token_file or credential("token")
    password = upload.password_file or credential("password") if upload.username else None
    fault = None
    if upload.username and token is not None:
        fault = f"upload.username is set, and there is a token {token}: keep one"
    elif upload.username and password is None:
        to_do = f"set upload.password_file{or_credential('password')}"
        fault = f"upload.username is set without a password: {to_do}"
    elif token is not None:
        fault = upload.secret_in_the_clear()
    secrets |= secrets_in_url(upload.url)
    # InfluxDB 2 calls a bearer token ``Token``.
    influx_2 = upload.format == "influx" and urlsplit(upload.url).path.endswith("/api/v2/write")
    return Credentials(
        upload.headers,
        token=token,
        scheme="Token" if influx_2 else "Bearer",
        username=upload.username,
        password=password,
        ca_file=upload.ca_file,
        client_cert=upload.client_cert,
        client_key=(upload.client_key or credential("client_key")) if upload.client_cert else None,
        proxy_username=urlsplit(upload.proxy).username or "",
        proxy_password=upload.proxy_password_file,
        secrets=secrets,
        fault=fault,
    )
