"""The receiver: is it there, may it be read, what does it send, and does it have a position."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from stat import S_ISCHR
from typing import Any

from telemetry_agent.config.settings import GpsSettings
from telemetry_agent.daemon.builders import source_of
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.permissions import group_name, owner_of
from telemetry_agent.doctor.reception import Heard, hear, line_baud, listened, reported
from telemetry_agent.errors import Advice, AgentError, SourceError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.sources import EndOfSourceError, Source, gpsd
from telemetry_agent.gnss.sources.auto import NO_RECEIVER
from telemetry_agent.gnss.sources.machine import candidate, explain, find_receivers, holder
from telemetry_agent.model import ReceiverState

_NO_PORT = "name the receiver's device in gps.source, such as /dev/ttyACM0"


class ReceiverChecks:
    """What ``gps.source`` names; a running ``agent`` has it."""

    def __init__(self, gps: GpsSettings, agent: AgentChecks) -> None:
        self._gps = gps
        self._agent = agent
        self._root = agent.machine.root
        self._path = Path(gps.source) if gps.source.startswith("/") else None

    def port(self) -> Iterator[Finding]:
        """``device``, ``permissions``: is it plugged in, and may the agent read it."""
        if self._gps.source == "auto":
            found = self._choose()
        else:
            found = self._without_port() if self._path is None else self._named(self._path)
        yield found
        if found.verdict == "fail":
            return
        if self._path is None:
            yield skipped("permissions", "no port is needed")
        else:
            yield self._permissions(self._path)

    def listen(self) -> Iterator[Finding]:
        """``port in use`` and ``LISTENED``: what does it send."""
        in_use = self._in_use()
        yield in_use
        if in_use.verdict == "fail":
            return
        if self._is_forbidden():
            said = f"not listened to: no permission to read {self._path}"
            yield warned("sentences", said, "use sudo")
            return
        status = self._agent.status
        if status is not None and status.receiver.state == "absent" and status.receiver.message:
            yield failed("sentences", status.receiver.message, status.receiver.remedy or "")
            return
        source: Source = _TapSource(self._gps, self._agent)
        if self._agent.status is None:
            source = source_of(self._gps, baud_file=None)
        try:
            source.open()
            heard = self._hear(source)
        except SourceError as error:
            yield from self._unopened(error)
            return
        finally:
            source.close()
        yield from listened(source, heard, self._agent.machine.clock)

    def _is_forbidden(self) -> bool:
        """Whether the port must be read by this command, and its user may not read it."""
        if self._path is None or self._agent.status is not None or not self._agent.is_other_user():
            return False
        return not os.access(self._path, os.R_OK | os.W_OK, effective_ids=True)

    def _hear(self, source: Source) -> Heard:
        clock = self._agent.machine.clock
        decoder = Decoder(
            wall_clock=lambda: clock.wall_ms() if clock.synchronised() else None,
            fix_rollover=source.live,
            baud=line_baud(source),
        )
        heard = hear(source, decoder, self._agent.machine.patience, clock)
        if decoder.antenna is None and self._agent.status is not None:
            # Most receivers report it at power-on only, when only the agent listened.
            decoder.antenna = self._agent.status.receiver.antenna
        return heard

    def _unopened(self, error: SourceError) -> Iterator[Finding]:
        status = self._agent.status
        if status is None:
            yield failed("sentences", error.message, error.remedy or "see the check of the device")
            return
        # The agent runs, but this user may not listen; every user may read its status.
        yield warned("sentences", f"not listened to: {error.message}", error.remedy)
        yield reported(status.receiver)

    def _choose(self) -> Finding:
        """The receiver that ``auto`` finds."""
        if devices := gpsd.devices():
            return passed("device", f"gpsd has {', '.join(devices)}")
        found = find_receivers(self._root)
        free = [port for port in found if port.safe]
        if free:
            self._path = free[0].path
            return passed("device", f"found {free[0].label}: {free[0].path}")
        if found and found[0].blocked:
            return failed("device", f"{found[0].label} is not free", found[0].blocked)
        if found:
            remedy = f'if it is one, set gps.source = "{found[0].path}"'
            return failed("device", f"{found[0].label} may be a receiver", remedy)
        return failed("device", *NO_RECEIVER)

    def _without_port(self) -> Finding:
        source = self._gps.source
        if source.startswith("file:"):
            remedy = 'set gps.source to the receiver, or to "auto"'
            return warned("device", f"{source} is a recording, not a receiver", remedy)
        return passed("device", f"{source}: positions come over the network")

    def _named(self, path: Path) -> Finding:
        try:
            mode = path.stat().st_mode
        except PermissionError:
            raise
        except OSError:
            remedy = "plug the receiver in; then `ls /dev/serial/by-id` shows it"
            for other in find_receivers(self._root)[:1]:
                remedy = f'plug it in, or set gps.source = "{other.path}" ({other.label} is there)'
            return failed("device", f"{path} is not there", remedy)
        if not S_ISCHR(mode):
            return failed("device", f"{path} is not a serial port", _NO_PORT)
        device = path.resolve()
        known = candidate(path, self._root)
        label = f" ({known.label})" if known else ""
        if known and known.path != path and path == device:
            said = f"{path}{label} may have another name when it is plugged in again"
            return warned("device", said, f'set gps.source = "{known.path}"')
        return passed("device", f"{path}{label}" + (f" is {device}" if device != path else ""))

    def _permissions(self, path: Path) -> Finding:
        account = self._agent.account
        try:
            if account.may_write(path):
                return passed("permissions", f"{account.name} may read {path}")
            owner, group = owner_of(path), group_name(path.stat().st_gid)
        except PermissionError:
            raise
        except OSError as error:
            return failed("permissions", f"{path}: {error.strerror}", "plug the receiver in again")
        device = path.resolve()
        if by := holder(device, self._root):
            return failed("permissions", *explain(device, by, self._root))
        if group == "root":
            remedy = (
                'no group may read it: add a udev rule: SUBSYSTEM=="tty", '
                f'KERNEL=="{device.name}", GROUP="dialout", MODE="0660"'
            )
        else:
            is_self = account.uid == os.geteuid()
            again = "log in again" if is_self else "`sudo systemctl restart telemetry-agent`"
            remedy = f"`sudo usermod -aG {group} {account.name}`, then {again}"
        return failed("permissions", f"{account.name} may not read {path} ({owner})", remedy)

    def _in_use(self) -> Finding:
        name, status = "port in use", self._agent.status
        if status is not None:
            if status.receiver.state == "busy" and status.receiver.message is not None:
                return failed(name, status.receiver.message, status.receiver.remedy or "")
            return passed(name, f"by the agent (pid {self._agent.pid}), which is asked")
        if self._path is None:
            return skipped(name, "no port is needed")
        device = self._path.resolve()
        if by := holder(device, self._root):
            return failed(name, *explain(device, by, self._root))
        if os.geteuid():
            return skipped(name, "only root sees the programs of other users")
        return passed(name, "not used by another program")


class _TapSource:
    """The receiver, heard through the running agent."""

    name = "the agent's receiver"
    rejected: Mapping[str, int] = {}

    def __init__(self, gps: GpsSettings, agent: AgentChecks) -> None:
        has_line = gps.source.startswith(("/", "auto"))
        self.baud = gps.baud if has_line and gps.baud != "auto" else None
        self.live = not gps.source.startswith("file:")
        self._agent = agent
        self._answers: Iterator[dict[str, Any]] = iter(())

    def open(self) -> None:
        listen_s = self._agent.machine.patience.silent_s
        self._answers = self._agent.answers({"ask": "tap", "for_s": listen_s})
        try:
            self.name = next(self._answers)["source"]
        except AgentError as error:
            raise SourceError(error.message, error.remedy) from error

    def read(self, timeout_s: float) -> bytes:  # noqa: ARG002 - the agent ends the wait
        try:
            answer = next(self._answers, None)
        except AgentError as error:
            raise SourceError(error.message, error.remedy) from error
        if answer is None:
            raise EndOfSourceError
        return str(answer.get("raw", "")).encode("latin-1")

    def cancel(self) -> None:
        """Not used: the agent ends the wait."""

    def close(self) -> None:
        self._answers = iter(())

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:  # noqa: ARG002
        status = self._agent.status
        if status is not None and status.receiver.message is not None:
            return Advice(status.receiver.message, status.receiver.remedy or "")
        return Advice(
            f"the agent reports {self.name} as {state}",
            "check the receiver's wiring, power and gps.baud; `sudo journalctl -u telemetry-agent` "
            "shows the agent's log",
        )
