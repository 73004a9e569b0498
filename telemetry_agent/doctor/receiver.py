"""The receiver: is it there, may it be read, what does it say, and does it know where it is."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISCHR

from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import GpsSettings
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.listening import Heard, Patience, hear
from telemetry_agent.doctor.permissions import group_name, owner_of
from telemetry_agent.doctor.reception import listened, reported
from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.sources import Source, gpsd
from telemetry_agent.gnss.sources.machine import Holder, candidate, explain, find_receivers, holder

_NO_PORT = "name the receiver's device in gps.source, such as /dev/ttyACM0"


class ReceiverChecks:
    """What ``gps.source`` names.

    Args:
        gps: the config.
        agent: has the receiver, where one runs.
        source: makes what is listened to, with the speed of its line if it has one.
        clock: the machine's clocks.
        patience: how long to listen.
        root: where the machine's /dev, /proc and /sys are.
    """

    def __init__(
        self,
        gps: GpsSettings,
        agent: AgentChecks,
        source: Callable[[], Source],
        *,
        clock: Clock,
        patience: Patience,
        root: Path,
    ) -> None:
        self._gps = gps
        self._agent = agent
        self._source = source
        self._clock = clock
        self._patience = patience
        self._root = root
        self._path = Path(gps.source) if gps.source.startswith("/") else None

    def port(self) -> Iterator[Finding]:
        """Is it plugged in, and may the agent read it: ``device``, ``permissions``."""
        if self._gps.source == "auto":
            found = self._choose()
        else:
            found = self._without_port() if self._path is None else self._named(self._path)
        yield found
        if self._path is None and found.verdict != "fail":
            yield skipped("permissions", "no port is needed")
        elif self._path is not None and found.verdict != "fail":
            yield self._permissions(self._path)

    def listen(self) -> Iterator[Finding]:
        """What does it say: ``port in use`` and ``LISTENED``."""
        in_use = self._in_use()
        yield in_use
        if in_use.verdict == "fail":
            return
        if self._is_forbidden():
            said = f"not listened to: no permission to read {self._path}"
            yield warned("sentences", said, "use sudo")
            return
        source = self._source()
        try:
            source.open()
            heard = self._hear(source)
        except SourceError as error:
            yield from self._unopened(error)
            return
        finally:
            source.close()
        yield from listened(source, heard, _baud(source), self._clock, live=source.live)

    def _is_forbidden(self) -> bool:
        """Whether only the agent's user may read the port, and another asks."""
        if self._path is None or self._agent.status is not None or not self._agent.cannot_judge():
            return False
        return not os.access(self._path, os.R_OK | os.W_OK, effective_ids=True)

    def _hear(self, source: Source) -> Heard:
        decoder = Decoder(
            wall_clock=lambda: self._clock.wall_ms() if self._clock.synchronised() else None,
            fix_rollover=source.live,
            baud=_baud(source),
        )
        heard = hear(source, decoder, self._patience, self._clock)
        if decoder.antenna is None and self._agent.status is not None:
            # Most tell it when they start, and only the agent was there to hear it.
            decoder.antenna = self._agent.status.receiver.antenna
        return heard

    def _unopened(self, error: SourceError) -> Iterator[Finding]:
        status = self._agent.status
        if status is None:
            yield failed("sentences", error.message, error.remedy or "see the check of the device")
            return
        # It runs, and does not let us listen; its status is for everybody.
        yield warned("sentences", f"not listened to: {error.message}", error.remedy)
        yield reported(status.receiver)

    def _choose(self) -> Finding:
        """What ``auto`` comes to."""
        if served := gpsd.devices():
            return passed("device", f"gpsd has {', '.join(served)}")
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
        return failed("device", "no receiver found", "plug one in, or set gps.source to its device")

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
            return warned("device", f"no permission to look at {path}", "use sudo")
        except OSError:
            remedy = "plug the receiver in; `ls /dev/serial/by-id` shows it then"
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
            return warned("permissions", f"no permission to look at {path}", "use sudo")
        except OSError as error:
            return failed("permissions", f"{path}: {error.strerror}", "plug the receiver in again")
        if (by := self._holder(path)) is not None:
            return failed("permissions", *explain(path.resolve(), by, self._root))
        if group == "root":
            remedy = (
                f'no group may: add a udev rule: SUBSYSTEM=="tty", KERNEL=="{path.resolve().name}",'
                ' GROUP="dialout", MODE="0660"'
            )
        else:
            ourselves = account.uid == os.geteuid()
            again = "log in again" if ourselves else "`sudo systemctl restart telemetry-agent`"
            remedy = f"`sudo usermod -aG {group} {account.name}`, then {again}"
        return failed("permissions", f"{account.name} may not read {path} ({owner})", remedy)

    def _holder(self, path: Path) -> Holder | None:
        device = path.resolve()
        # A pty is held by whoever made it.
        return holder(device, self._root) if device.name.startswith("tty") else None

    def _in_use(self) -> Finding:
        name = "port in use"
        if self._agent.pid is not None:
            return passed(name, f"by the agent (pid {self._agent.pid}), which is asked")
        if self._path is None:
            return skipped(name, "no port is needed")
        if (by := self._holder(self._path)) is not None:
            return failed(name, *explain(self._path.resolve(), by, self._root))
        if os.geteuid():
            return skipped(name, "only root sees the programs of other users")
        return passed(name, "not used by another program")


def _baud(source: Source) -> int | None:
    """The speed of the line, where that limits what can come."""
    # USB all the way: the number means nothing.
    return None if Path(source.name).resolve().name.startswith("ttyACM") else source.baud
