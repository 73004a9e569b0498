"""The receiver: is it there, may it be read, what does it send, and does it have a position."""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISCHR

from telemetry_agent.config.settings import GpsSettings
from telemetry_agent.daemon.recording import source_of
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.findings import Finding, failed, in_turn, passed, skipped, warned
from telemetry_agent.doctor.permissions import owner_of
from telemetry_agent.doctor.reception import LISTENED, Reception, listened, reported
from telemetry_agent.errors import Advice, AgentError
from telemetry_agent.gnss.sources import EndOfSourceError, gpsd, machine
from telemetry_agent.gnss.sources.auto import NO_RECEIVER
from telemetry_agent.snapshot import NO_PERMISSION, ReceiverView

NAMES = ("device", "permissions", "port in use", *LISTENED)

_NO_PORT = "name the receiver's device in gps.source, such as /dev/ttyACM0"


class ReceiverChecks:
    """What ``gps.source`` names; a running ``agent`` has it."""

    def __init__(self, gps: GpsSettings, agent: AgentChecks) -> None:
        self._gps = gps
        self._agent = agent
        self._root = agent.machine.root
        self._clock = agent.machine.clock
        self._patience = agent.machine.patience
        self._path = Path(gps.source) if gps.source.startswith("/") else None

    def check(self) -> Iterator[Finding]:
        """What ``NAMES`` lists: is it plugged in, may the agent read it, what does it send."""
        if self._agent.is_mute:
            yield skipped("needs agent")
            return
        if not (yield from in_turn(self._device, self._permissions, self._in_use)):
            return
        status = self._agent.status
        if status is None:
            source = source_of(self._gps, baud_file=None)
            yield from listened(source, self._clock, self._patience)
        else:
            yield from self._listen_to_agent(status.receiver)

    def _listen_to_agent(self, receiver: ReceiverView) -> Iterator[Finding]:
        """Listen to what the running agent reads."""
        check, found = reported(receiver)
        if check != "fix" and receiver.message is not None:
            yield found
            return
        answers = self._agent.answers({"ask": "tap", "for_s": self._patience.silent_s})

        def read(_timeout_s: float) -> bytes:  # the agent ends the wait
            for answer in answers:
                return str(answer.get("raw", "")).encode("latin-1")
            raise EndOfSourceError

        try:
            name = next(answers)["source"]
            has_line = self._gps.source.startswith(("/", "auto"))
            baud = self._gps.baud if has_line and self._gps.baud != "auto" else None
            live = not self._gps.source.startswith("file:")
            heard = Reception(name, baud, self._clock, live=live)
            heard.listen(read, self._patience)
        except AgentError as error:
            # This user may not listen; every user may read its status.
            yield warned(f"not listened to: {error.message}", error.remedy)
            yield from [skipped("needs sentences")] * 2
            yield found
            return
        mute = Advice(
            f"the agent reads {name}, which sends no sentences now",
            "check the receiver, its connection and power; `sudo journalctl -u telemetry-agent` "
            "shows the agent's log",
        )
        # Most receivers report their antenna at power-on only, when only the agent listened.
        yield from heard.findings(lambda *_: mute, antenna_before=receiver.antenna)

    def _device(self) -> Finding:
        found = self._there()
        if found.verdict == "fail" and machine.runs("brltty", self._root):
            said = (
                f"{found.said}; brltty runs, which takes the ports of USB bridges from the system"
            )
            return failed(said, "remove the package brltty, then plug the receiver in again")
        return found

    def _there(self) -> Finding:
        source = self._gps.source
        if source == "auto":
            return self._choose()
        if self._path is not None:
            return self._named(self._path)
        if source.startswith("file:"):
            remedy = 'set gps.source to the receiver, or to "auto"'
            return warned(f"{source} is a recording, not a receiver", remedy)
        return passed(f"{source}: read from the network")

    def _choose(self) -> Finding:
        """The receiver that ``auto`` finds."""
        if devices := gpsd.devices():
            return passed(f"gpsd has {', '.join(devices)}")
        found = machine.find_receivers(self._root)
        free = [port for port in found if port.safe]
        if free:
            self._path = free[0].path
            return passed(f"found {free[0].label}: {free[0].path}")
        if found and found[0].blocked:
            return failed(f"{found[0].label} is not free", found[0].blocked)
        if found:
            remedy = f'if it is one, set gps.source = "{found[0].path}"'
            return failed(f"{found[0].label} may be a receiver", remedy)
        return failed(*NO_RECEIVER)

    def _named(self, path: Path) -> Finding:
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            remedy = "plug the receiver in; then `ls /dev/serial/by-id` shows it"
            for other in machine.find_receivers(self._root)[:1]:
                remedy = f'plug it in, or set gps.source = "{other.path}" ({other.label} is there)'
            return failed(f"{path} is not there", remedy)
        if not S_ISCHR(mode):
            return failed(f"{path} is not a serial port", _NO_PORT)
        device = path.resolve()
        known = machine.candidate(path, self._root)
        label = f" ({known.label})" if known else ""
        if known and known.path != path and path == device:
            said = f"{path}{label} may have another name when it is plugged in again"
            return warned(said, f'set gps.source = "{known.path}"')
        return passed(f"{path}{label}" + (f" is {device}" if device != path else ""))

    def _permissions(self) -> Finding:
        path = self._path
        if path is None:
            return skipped("no port is needed")
        account, device = self._agent.account, path.resolve()
        if account.may_write(path):
            said = f"{account.name} may read {path}"
            status = self._agent.status
            refused = status is not None and status.receiver.reason == NO_PERMISSION
            if not (refused and self._agent.is_service):
                return passed(said)
            return failed(
                f"{said}, but the running agent was refused: it started before that, or its unit "
                "does not allow this device",
                f"`sudo systemctl restart telemetry-agent`; if that is not enough, `sudo systemctl "
                f"edit telemetry-agent`, add DeviceAllow={device} rw under [Service], then restart "
                "it again",
            )
        if by := machine.holder(device, self._root):
            return failed(*machine.explain(device, by, self._root))
        is_self = account.uid == os.geteuid()
        again = "log in again" if is_self else "`sudo systemctl restart telemetry-agent`"
        remedy = machine.how_to_permit(path, account.name, again)
        return failed(f"{account.name} may not read {path} ({owner_of(path)})", remedy)

    def _in_use(self) -> Finding:
        status, pid = self._agent.status, None
        if status is not None:
            pid = status.pid
            if status.receiver.state == "busy" and status.receiver.message is not None:
                return failed(status.receiver.message, status.receiver.remedy or "")
        if self._path is not None:  # root's programs open also what the agent has locked
            device = self._path.resolve()
            if by := machine.holder(device, self._root, pid):
                return failed(*machine.explain(device, by, self._root))
        if status is not None:
            return passed(f"by the agent (pid {pid}), which is asked")
        if self._path is None:
            return skipped("no port is needed")
        if os.geteuid():
            return skipped("only root sees the programs of other users")
        return passed("not used by another program")
