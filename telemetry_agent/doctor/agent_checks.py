"""The running agent, if there is one: it holds the receiver and the queue, so it is asked.

Its answers come over the control socket. Every user may ask for ``status``; only root and the
agent's own user and group may listen to the receiver.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from telemetry_agent import __version__, addresses
from telemetry_agent.ackqueue.file.lock import check_at_rest
from telemetry_agent.clock import Clock, span
from telemetry_agent.config.files import DEFAULT_PATHS
from telemetry_agent.daemon import client
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.permissions import HIDDEN, SERVICE_USER, SystemUser, owner_of
from telemetry_agent.doctor.reception import Patience
from telemetry_agent.doctor.unit import is_unit_of, starts_at_boot, switch_on, unit_file
from telemetry_agent.errors import Advice, AgentError, QueueLockedError, counted, in_shell
from telemetry_agent.secrecy import credential
from telemetry_agent.snapshot import QueueView, Snapshot, read

Ask = Callable[[Path, Mapping[str, Any]], Iterator[dict[str, Any]]]

RELOAD = "`sudo systemctl reload telemetry-agent`"
RESTART = (
    "`sudo systemctl restart telemetry-agent`; `sudo journalctl -u telemetry-agent` shows its log"
)
_REFUSED = (
    "nothing is lost, the agent tries again by itself; make the server accept these positions, for "
    "example add the earlier name of a device that was renamed"
)
_BY_THE_DISK = {"damaged": "damaged on the disk", "memory": "while the disk refused them"}
"""The reasons for a loss by a fault of the disk, not by a setting or a command; in words."""


@dataclass(frozen=True)
class Machine:
    """What the checks look at that is not in the config."""

    clock: Clock = field(default_factory=Clock)
    root: Path = Path("/")
    """Where /dev, /proc and /sys are."""
    resolve: addresses.Resolve = addresses.resolve
    ask: Ask = client.ask
    """Asks the agent that has a queue."""
    user: str = SERVICE_USER
    """Who runs the service."""
    hidden: tuple[Path, ...] = HIDDEN
    """What the service does not see."""
    patience: Patience = field(default_factory=Patience)


class AgentChecks:
    """The agent that has this queue.

    Args:
        planned: the service is not set up yet.
        config_path: the config that was named to ``doctor``.
    """

    def __init__(
        self,
        queue_path: Path,
        machine: Machine | None = None,
        *,
        planned: bool = False,
        config_path: Path | None = None,
    ) -> None:
        self.machine = machine or Machine()
        self.status: Snapshot | None = None
        """What it reports; ``None`` if none runs. Known after ``examine``."""
        self.is_mute = False
        """Whether it runs and does not answer. Known after ``note``."""
        self._queue_path = queue_path
        self._planned = planned
        self._config_path = config_path

    @property
    def account(self) -> SystemUser:
        """Who runs it, or would as a service; without such a user, the user of this process."""
        return SystemUser.running(self.status.pid if self.status else None, self.machine.user)

    @property
    def is_service(self) -> bool:
        """Whether the service's user runs it, or would."""
        return self.account.name == self.machine.user

    def hides(self, path: Path) -> Path | None:
        """The folder, hidden from the service, that this path is in; ``None``: none."""
        if not (self.is_service or self._planned):
            return None
        resolved = path.resolve()
        return next((each for each in self.machine.hidden if resolved.is_relative_to(each)), None)

    def is_other_user(self) -> bool:
        """Whether this user is neither root nor the one whose rights count."""
        return os.geteuid() not in {0, self.account.uid}

    def unreadable(self, key: str, path: Path) -> Advice | None:
        """Why the agent cannot read the file that ``key`` names, and the remedy.

        ``None`` also if that is not known, as for a missing file: reading it reports the error.
        """
        name = self.machine.user if self._planned else self.account.name
        copy = (
            f"`sudo install -D -o {name} -m 600 {in_shell(path)} /etc/telemetry-agent/"
            f'{in_shell(path.name)}`, and set {key} = "/etc/telemetry-agent/{path.name}"'
        )
        if (hidden := self.hides(path)) is not None:
            said = f"the service does not see {key}: {path} ({hidden} is hidden from it)"
            return Advice(said, copy)
        try:
            blocked = self.account.blocked_at(path)
            if blocked is None:
                return None
            owner = owner_of(blocked)
        except OSError:
            return None
        if blocked != path:
            return Advice(f"{name} may not look into {blocked} ({owner}), for {key}: {path}", copy)
        return Advice(
            f"{name} may not read {key}: {path} ({owner})",
            f"`sudo chown {name}: {in_shell(path)}`",
        )

    def answers(self, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Ask it."""
        return self.machine.ask(self._queue_path, question)

    def examine(self) -> Finding:
        """``agent``: does it run, and does it answer."""
        try:
            self.status = read(Snapshot, next(self.answers({"ask": "status"})))
        except client.NoAgentError:
            return self._absent()
        except AgentError as error:
            if isinstance(error.__cause__, PermissionError):
                return warned(error.message, "use sudo")
            return failed(error.message, error.remedy or self.again(RESTART))
        return self._running(self.status)

    def note(self, examined: Finding) -> None:
        """Note the result of ``examine``, which may be that it took too long."""
        self.is_mute = examined.verdict == "fail" and self.status is None

    def _running(self, status: Snapshot) -> Finding:
        version, config, storage, page = status.version, status.config, status.storage, status.page
        said = f"runs for {span(status.uptime_s)} (pid {status.pid}, version {version})"
        if config is not None:
            said += f", with the last good config: {config.last_error}"
            return failed(said, f"correct the config, then {RELOAD}")
        if storage is not None and storage.state != "forgets":
            remedy = "see the checks of the state directory, the file system and the disk space"
            return warned(f"{said}; {storage.last_error}", remedy)
        if version != __version__:
            said += f", but version {__version__} is installed"
            return warned(said, self.again("`sudo systemctl restart telemetry-agent`"))
        if page is not None and page.state == "held":
            said += f"; the device page is held: {page.last_error or 'use sudo to see the reason'}"
            return warned(said, f"correct [page], then {self.again()}, or free its address")
        root = self.machine.root
        if is_unit_of(status.pid, root) and not starts_at_boot(root):
            return warned(f"{said}, but does not start at the next boot", switch_on(root))
        return passed(said)

    def delivery(self) -> Finding:
        """``delivery``: the state of its uploads."""
        if self.status is None:
            return skipped("needs agent" if self.is_mute else "no agent runs")
        return delivery(self.status, self.again(read_again()))

    def again(self, command: str = RELOAD) -> str:
        """How it is reloaded or restarted: by this command if it is the service."""
        return command if self.is_service else "restart the agent"

    def _absent(self) -> Finding:
        try:
            check_at_rest(self._queue_path)
        except QueueLockedError as error:
            return failed(f"{error.message}, and does not answer", self.again(RESTART))
        root = self.machine.root
        config = f" --config {in_shell(self._config_path)}" if self._config_path else ""
        remedy = f"`telemetry-agent run{config}` starts it"
        if self._config_path in {None, DEFAULT_PATHS[0]} and unit_file(root) is not None:
            remedy = f"{switch_on(root)}; `sudo journalctl -u telemetry-agent` shows why it stopped"
        return warned("does not run: nothing is recorded now", remedy)


def queue(queue: QueueView) -> Finding:
    """``queue``, which the running agent checks itself: each position when it sends it."""
    kept = counted(queue.delivered, "delivered one is kept", "delivered ones are kept")
    said = f"{_waiting(queue)}, {kept}"
    if queue.disk_error is not None:
        waiting = counted(queue.uncommitted, "fix waits", "fixes wait")
        return failed(
            f"{queue.disk_error}; {waiting} in memory, where a power cut loses them",
            "free space on the disk of the queue; if it has space, replace that disk",
        )
    lost = ", ".join(
        f"{queue.lost[reason]:,} {words}"
        for reason, words in _BY_THE_DISK.items()
        if reason in queue.lost
    )
    if lost:
        return warned(f"{said}; lost: {lost}", "the disk loses or refuses data: replace it")
    if queue.full:
        return warned(
            f"{said}; it is full: queue.when_full decides what is discarded",
            "restore the connection to the endpoint, set a larger queue.max_size, or free disk "
            "space",
        )
    if dead := sum(queue.dead_letters.values()):
        return warned(
            f"{said}; the endpoint refused {dead:,}",
            "`sudo telemetry-agent queue list --state ack_failed` shows the reasons; "
            "`sudo telemetry-agent queue retry --all` sends them again",
        )
    return passed(said)


def _waiting(queue: QueueView) -> str:
    return counted(queue.pending, "position waits", "positions wait")


def read_again() -> str:
    """How the service reads what it sends: systemd passes credentials only at a start."""
    return RESTART if any(map(credential, ("token", "password", "client_key"))) else RELOAD


def delivery(state: Snapshot, again: str) -> Finding:
    """``delivery``: the state of its uploads. ``again``: how it reads a corrected config."""
    upload, waiting = state.upload, _waiting(state.queue)
    if upload.state == "held":
        if upload.last_error is None:  # hidden from a user without rights
            return failed(f"held; {waiting}", "use sudo to see the reason")
        remedy = f"correct it here or at the server; to try at once: {again}"
        return failed(f"held: {upload.last_error}; {waiting}", remedy)
    ago_s = upload.last_delivery_s
    last = "nothing delivered yet" if ago_s is None else f"last delivery {span(ago_s)} ago"
    said = f"{upload.state}: {last}, {waiting}"
    if upload.complete_until is not None:
        said += f", complete at the endpoint until {upload.complete_until}"
    if upload.state == "ok" and upload.backlog_error is not None:
        said += f"; the endpoint refuses the backlog: {upload.backlog_error}"
        return warned(said, _REFUSED)
    if upload.state == "ok":
        return passed(said)
    if upload.last_error:
        said += f"; {upload.last_error}"
    return warned(said, "nothing is lost; the agent tries again by itself")
