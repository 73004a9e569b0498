"""The running agent, if there is one: it has the receiver and the queue, so it is asked.

Its answers come over the control socket. ``status`` is for everybody; listening to the receiver
is for root and the agent's own user and group.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from telemetry_agent import __version__
from telemetry_agent.ackqueue.file.lock import QueueLock
from telemetry_agent.config.settings import Gps
from telemetry_agent.daemon import client
from telemetry_agent.doctor import now
from telemetry_agent.doctor.findings import Finding, failed, parted, passed, skipped, span, warned
from telemetry_agent.doctor.permissions import Account, agents_account
from telemetry_agent.errors import AgentError, QueueLockedError, SourceError
from telemetry_agent.gnss.sources import EndOfSourceError
from telemetry_agent.model import ReceiverState
from telemetry_agent.snapshot import Snapshot, read

Ask = Callable[[Path, Mapping[str, Any]], Iterator[dict[str, Any]]]

_AGAIN = "`sudo systemctl restart telemetry-agent`; `journalctl -u telemetry-agent` says more"


class Agent:
    """The agent that has this queue.

    Args:
        queue_path: the queue.
        ask: puts a question to the agent.
        user: who runs it as a service.
    """

    def __init__(self, queue_path: Path, ask: Ask, user: str) -> None:
        self.status: Snapshot | None = None
        """What it reports of itself; ``None`` where none runs. Known once ``examine`` was."""
        self._queue_path = queue_path
        self._ask = ask
        self._user = user

    @property
    def pid(self) -> int | None:
        """Of the agent that runs."""
        return None if self.status is None else self.status.pid

    @property
    def account(self) -> Account:
        """Who runs it, or would."""
        return agents_account(self.pid, self._user)

    def examine(self) -> Iterator[Finding]:
        """Does it run, and does it answer: ``agent``."""
        try:
            self.status = read(Snapshot, next(self._ask(self._queue_path, {"ask": "status"})))
        except client.NoAgentError:
            yield self._absent()
            return
        except AgentError as error:
            forbidden = isinstance(error.__cause__, PermissionError)
            yield failed("agent", str(error), "use sudo" if forbidden else _AGAIN)
            return
        version, pid = self.status.version, self.status.pid
        said = f"runs for {span(self.status.uptime_s)} (pid {pid}, version {version})"
        if version == __version__:
            yield passed("agent", said)
        else:
            yield warned(
                "agent",
                f"{said}, but installed is version {__version__}",
                "`sudo systemctl restart telemetry-agent`",
            )

    def delivery(self) -> Iterator[Finding]:
        """How its uploads do: ``delivery``."""
        if self.status is None:
            yield skipped("delivery", "no agent runs")
            return
        yield now.delivery(self.status)

    def _absent(self) -> Finding:
        lock = self._queue_path.with_name(self._queue_path.name + ".lock")
        try:
            if lock.exists():
                QueueLock(self._queue_path).release()
        except QueueLockedError as error:
            said, _ = parted(str(error))
            return failed("agent", f"{said}, and does not answer", _AGAIN)
        except (OSError, AgentError):
            pass  # the state directory is looked at later
        return warned(
            "agent",
            "does not run: nothing is recorded now",
            "`sudo systemctl enable --now telemetry-agent`; "
            "`systemctl status telemetry-agent` says why it stopped",
        )


class TapSource:
    """The receiver as the running agent hears it.

    Args:
        queue_path: the agent's queue.
        for_s: how long to listen.
        ask: puts the question to the agent.
        gps: what the agent reads.
    """

    name = "the agent's receiver"

    def __init__(self, queue_path: Path, for_s: float, ask: Ask, gps: Gps) -> None:
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
            raise SourceError(str(error)) from error

    def read(self, timeout_s: float) -> bytes:  # noqa: ARG002 - the agent ends the wait
        """See ``Source.read``."""
        try:
            answer = next(self._answers, None)
        except AgentError as error:
            raise SourceError(str(error)) from error
        if answer is None:
            raise EndOfSourceError
        return str(answer.get("raw", "")).encode("latin-1")

    def cancel(self) -> None:
        """See ``Source.cancel``: nobody does."""

    def close(self) -> None:
        """See ``Source.close``."""
        self._answers = iter(())

    def remedy(self, state: ReceiverState, heard: bytes) -> str:  # noqa: ARG002
        """See ``Source.remedy``."""
        return (
            f"the agent finds {self.name} {state}: check the receiver's wiring, power and "
            "gps.baud; `journalctl -u telemetry-agent` says more"
        )
