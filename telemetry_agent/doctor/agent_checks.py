"""The running agent, if there is one: it has the receiver and the queue, so it is asked.

Its answers come over the control socket. ``status`` is for everybody; listening to the receiver
is for root and the agent's own user and group.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from telemetry_agent import __version__
from telemetry_agent.ackqueue.file.lock import check_at_rest
from telemetry_agent.clock import span
from telemetry_agent.config.settings import GpsSettings
from telemetry_agent.daemon import client
from telemetry_agent.doctor import now
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.permissions import (
    HIDDEN,
    SERVICE_USER,
    SystemUser,
    agents_account,
    owner_of,
)
from telemetry_agent.errors import Advice, AgentError, QueueLockedError, SourceError
from telemetry_agent.gnss.sources import EndOfSourceError
from telemetry_agent.model import ReceiverState
from telemetry_agent.snapshot import Snapshot, read

Ask = Callable[[Path, Mapping[str, Any]], Iterator[dict[str, Any]]]

RESTART = "`sudo systemctl restart telemetry-agent`; `sudo journalctl -u telemetry-agent` says more"


class AgentChecks:
    """The agent that has this queue.

    Args:
        queue_path: the queue.
        ask: puts a question to the agent.
        user: who runs it as a service.
        hidden: what the service does not see.
        planned: the service is yet to be set up.
    """

    def __init__(
        self,
        queue_path: Path,
        ask: Ask = client.ask,
        user: str = SERVICE_USER,
        hidden: tuple[Path, ...] = HIDDEN,
        *,
        planned: bool = False,
    ) -> None:
        self._hidden = hidden
        self.status: Snapshot | None = None
        """What it reports of itself; ``None`` where none runs. Known once ``examine`` was."""
        self._queue_path = queue_path
        self._ask = ask
        self._user = user
        self._planned = planned

    @property
    def pid(self) -> int | None:
        """Of the agent that runs."""
        return None if self.status is None else self.status.pid

    @property
    def account(self) -> SystemUser:
        """Who runs it, or would."""
        return agents_account(self.pid, self._user)

    @property
    def user(self) -> str:
        """The name of who runs it, or will."""
        return self._user if self._planned else self.account.name

    def hides(self, path: Path) -> Path | None:
        """The folder, hidden from the service, that this path is in; ``None``: it is seen."""
        if self.account.name != self._user and not self._planned:
            return None
        resolved = path.resolve()
        return next((each for each in self._hidden if resolved.is_relative_to(each)), None)

    def cannot_judge(self) -> bool:
        """Whether the asker is another user than the one whose rights count."""
        return os.geteuid() not in {0, self.account.uid}

    def unreadable(self, key: str, path: Path) -> Advice | None:
        """Why the agent cannot read the file that ``key`` names, and the remedy.

        What nobody can tell, such as a file that is not there, is left to whoever reads it.
        """
        name = self.user
        copy = (
            f"`sudo install -D -o {name} -m 600 {path} /etc/telemetry-agent/{path.name}`, and set "
            f'{key} = "/etc/telemetry-agent/{path.name}"'
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
            f"{name} may not read {key}: {path} ({owner})", f"`sudo chown {name}: {path}`"
        )

    def answers(self, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Ask it."""
        return self._ask(self._queue_path, question)

    def examine(self) -> Iterator[Finding]:
        """Does it run, and does it answer: ``agent``."""
        try:
            self.status = read(Snapshot, next(self.answers({"ask": "status"})))
        except client.NoAgentError:
            yield self._absent()
            return
        except AgentError as error:
            if isinstance(error.__cause__, PermissionError):
                yield warned("agent", error.message, "use sudo")
            else:
                yield failed("agent", error.message, RESTART)
            return
        version, pid = self.status.version, self.status.pid
        said = f"runs for {span(self.status.uptime_s)} (pid {pid}, version {version})"
        config, storage = self.status.config, self.status.storage
        if config is not None:
            said += f", with the last good config: {config.last_error}"
            remedy = "correct the config, then `sudo systemctl reload telemetry-agent`"
            yield failed("agent", said, remedy)
        elif storage is not None and storage.state == "runtime":
            remedy = "see the checks of the state directory and of the file system"
            yield warned("agent", f"{said}; {storage.last_error}", remedy)
        elif version == __version__:
            yield passed("agent", said)
        else:
            said += f", but installed is version {__version__}"
            yield warned("agent", said, "`sudo systemctl restart telemetry-agent`")

    def delivery(self) -> Iterator[Finding]:
        """How its uploads do: ``delivery``."""
        status = self.status
        yield skipped("delivery", "no agent runs") if status is None else now.delivery(status)

    def _absent(self) -> Finding:
        try:
            check_at_rest(self._queue_path)
        except QueueLockedError as error:
            return failed("agent", f"{error.message}, and does not answer", RESTART)
        remedy = (
            "`sudo systemctl enable --now telemetry-agent`; "
            "`sudo journalctl -u telemetry-agent` says why it stopped"
        )
        return warned("agent", "does not run: nothing is recorded now", remedy)


class TapSource:
    """The receiver as the running agent hears it.

    Args:
        queue_path: the agent's queue.
        for_s: how long to listen.
        ask: puts the question to the agent.
        gps: what the agent reads.
    """

    name = "the agent's receiver"
    rejected: Mapping[str, int] = {}

    def __init__(self, queue_path: Path, for_s: float, ask: Ask, gps: GpsSettings) -> None:
        a_line = gps.source.startswith(("/", "auto"))
        self.baud = gps.baud if a_line and gps.baud != "auto" else None
        self.live = not gps.source.startswith("file:")
        self._queue_path = queue_path
        self._for_s = for_s
        self._ask = ask
        self._answers: Iterator[dict[str, Any]] = iter(())

    def open(self) -> None:
        """See ``Source.open``."""
        self._answers = self._ask(self._queue_path, {"ask": "tap", "for_s": self._for_s})
        try:
            self.name = next(self._answers)["source"]
        except AgentError as error:
            raise SourceError(error.message, error.remedy) from error

    def read(self, timeout_s: float) -> bytes:  # noqa: ARG002 - the agent ends the wait
        """See ``Source.read``."""
        try:
            answer = next(self._answers, None)
        except AgentError as error:
            raise SourceError(error.message, error.remedy) from error
        if answer is None:
            raise EndOfSourceError
        return str(answer.get("raw", "")).encode("latin-1")

    def cancel(self) -> None:
        """See ``Source.cancel``: nobody does."""

    def close(self) -> None:
        """See ``Source.close``."""
        self._answers = iter(())

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:  # noqa: ARG002
        """See ``Source.advice``."""
        return Advice(
            f"the agent finds {self.name} {state}",
            "check the receiver's wiring, power and gps.baud; `sudo journalctl -u telemetry-agent` "
            "says more",
        )
