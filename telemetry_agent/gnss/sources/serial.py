"""A receiver on a serial port; the only importer of pyserial.

The port is opened by the name in the config. Names such as ``/dev/serial/by-id/…`` are links that
may point to another node after the cable was unplugged, so each open follows the link again.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import pwd
import stat
import termios
import threading
from collections.abc import Sequence
from pathlib import Path

import serial

from telemetry_agent.clock import Clock
from telemetry_agent.errors import Advice, SourceError, in_shell, limit_reached
from telemetry_agent.gnss.sources import BusyError, ForbiddenError, Source
from telemetry_agent.gnss.sources.machine import candidate, explain, holder, how_to_permit
from telemetry_agent.gnss.sources.on_connect import OnConnect
from telemetry_agent.gnss.sources.protocols import BAUD_RATES, is_speed_right, protocol
from telemetry_agent.model import ReceiverState

_log = logging.getLogger(__name__)

_WRITE_S = 2.0
_TRIAL_S = 1.2  # longer than the second between two epochs of most receivers
_SILENT_TRIALS = 2


class _Port(serial.Serial):
    def _reset_input_buffer(self) -> None:
        """Keep the bytes that came in since the open; pyserial would discard them."""


class SerialSource(Source):
    """Reads a serial port and keeps other programs from opening it.

    Args:
        path: the port, or a link to it.
        baud: its speed; ``None``: detect it at each open.
        commands: sent after each open, and when the receiver reports a start.
        baud_file: keeps the speeds that worked, in a folder that survives a restart.
        clock: limits the detection of the speed.
        root: where the machine's /proc and /sys are.
    """

    def __init__(
        self,
        path: Path,
        baud: int | None = None,
        *,
        commands: Sequence[bytes] = (),
        baud_file: Path | None = None,
        clock: Clock | None = None,
        root: Path = Path("/"),
    ) -> None:
        self.name = str(path)
        self.baud = baud
        self._path = path
        self._fixed = baud is not None
        self._baud_file = baud_file
        self._clock = clock or Clock()
        self._commands = OnConnect(self.name, commands, self._clock)
        self._root = root
        self._held = b""  # read while the speed was detected
        self._port: _Port | None = None
        self._cancelled = False
        self._guard = threading.Lock()  # so that ``cancel`` never uses a half closed port

    def open(self) -> None:
        """See ``Source.open``. Changes only speed, framing and raw mode of the line.

        Detecting an unknown speed takes seconds, unless the speed that worked before is still
        right. If no speed is right, the most likely one stays set.
        """
        self._open()
        try:
            if not self._fixed:
                self.baud = self._find_baud()
            if self.baud is not None:
                self._send(self._commands.opened())
        except (OSError, termios.error) as error:
            self.close()
            raise self._gone() from error

    def read(self, timeout_s: float) -> bytes:
        """See ``Source.read``."""
        self._opened()
        if self._cancelled:
            self._cancelled = False
            return b""
        data, self._held = self._held, b""
        try:
            data = data or self._take(timeout_s)
            self._send(self._commands.heard(data))
        except (OSError, termios.error) as error:
            # A raw OSError from in_waiting, or pyserial's "readiness to read but returned no data".
            raise self._gone() from error
        return data

    def cancel(self) -> None:
        """See ``Source.cancel``."""
        with self._guard:
            self._cancelled = True
            if self._port is not None:
                self._port.cancel_read()

    def close(self) -> None:
        """See ``Source.close``."""
        with self._guard:
            port, self._port = self._port, None
        self._held = b""
        if port is not None:
            # A pty outlives its last user and would stay exclusive. If this fails, the device is
            # gone, and its mode with it.
            with contextlib.suppress(OSError):
                fcntl.ioctl(port.fileno(), termios.TIOCNXCL)
            port.close()

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:
        """See ``Source.advice``."""
        if state == "binary":
            name = protocol(heard) or "a binary protocol"
            how = (
                f"`sudo gpsctl -f -n {in_shell(self.name)}` (Debian's gpsd-clients), or commands "
                "in gps.on_connect"
            )
            if name == "TAIP":
                how = "in the modem's settings, or with its maker's program"
            return Advice(
                f"{self.name} sends {name}, not NMEA", f"switch its NMEA output on: {how}"
            )
        if state == "wrong-baud":
            return self._wrong_baud()
        found = candidate(self._path, self._root)
        if found and found.kind == "modem":
            return Advice(
                f"no data from {self.name} ({found.label})",
                "switch its GNSS on: `sudo mmcli -m any --location-enable-gps-unmanaged`",
            )
        return Advice(f"no data from {self.name}", "check the receiver's wiring and power")

    def _open(self) -> None:
        try:
            if not stat.S_ISCHR(self._path.stat().st_mode):
                raise self._why(OSError(errno.ENOTTY, ""))
            device = self._path.resolve()
            if by := holder(device, self._root):
                raise BusyError(*explain(device, by, self._root))
            speed = self.baud or self._rates()[0]
            port = _Port(self.name, speed, timeout=0, write_timeout=_WRITE_S, exclusive=True)
            with self._guard:
                self._port = port
            # pyserial's "exclusive" is only an advisory lock: this keeps all other programs out.
            fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
        except (OSError, termios.error) as error:
            self.close()
            raise self._why(error) from error

    def _find_baud(self) -> int | None:
        """Detect the speed of the open port; ``None``, with the most likely one set: not found.

        A cancel ends the search.
        """
        port = self._opened()
        rates = self._rates()
        silent = 0
        for baud in rates:
            port.baudrate = baud
            received, right = b"", None
            until_s = self._clock.monotonic_s() + _TRIAL_S
            while right is None and not self._cancelled:
                if (left_s := until_s - self._clock.monotonic_s()) <= 0:
                    break
                received += self._take(left_s)
                right = is_speed_right(received)
            if right:
                self._held = received
                self._remember(baud)
                return baud
            silent += not received
            # A line without data does not show its speed.
            if self._cancelled or silent == _SILENT_TRIALS:
                break
            termios.tcflush(port.fileno(), termios.TCIFLUSH)
        port.baudrate = rates[0]
        return None

    def _rates(self) -> list[int]:
        """All speeds; the one that worked before comes first."""
        first = self.baud or _known_bauds(self._baud_file).get(self.name)
        return sorted(BAUD_RATES, key=lambda baud: baud != first)

    def _remember(self, baud: int) -> None:
        file, known = self._baud_file, _known_bauds(self._baud_file)
        if file is None or known.get(self.name) == baud:
            return
        new = file.with_name(file.name + ".new")
        try:
            new.write_text(json.dumps(known | {self.name: baud}))
            new.replace(file)
        except OSError as error:
            # The next start detects the speed again, which takes seconds.
            _log.debug("cannot remember the baud rate in %s: %s", file, error)

    def _send(self, commands: Sequence[bytes]) -> None:
        for command in commands:
            self._opened().write(command)

    def _take(self, timeout_s: float) -> bytes:
        port = self._opened()
        waiting = port.in_waiting
        if not waiting:
            port.timeout = timeout_s
        data: bytes = port.read(max(1, waiting))
        return data

    def _opened(self) -> _Port:
        if self._port is None:
            raise SourceError(f"{self.name} is not open")
        return self._port

    def _wrong_baud(self) -> Advice:
        if not self._fixed:
            return Advice(
                f"the data from {self.name} is not NMEA at any speed",
                "is it a receiver? Check the wiring (ground, and 3.3 V levels on a header)",
            )
        other = SerialSource(self._path, root=self._root)
        # It may be away now, or another program has it.
        with contextlib.suppress(SourceError), contextlib.closing(other):
            other.open()
        found = other.baud
        likely = f"it sends at {found}: set gps.baud = {found}, or" if found else "set gps.baud ="
        return Advice(
            f"the data from {self.name} at {self.baud} baud is not NMEA",
            f'{likely} "auto" to detect it',
        )

    def _gone(self) -> SourceError:
        return SourceError(f"{self.name} went away", "check the cable and the power")

    def _why(self, error: Exception) -> SourceError:
        match _errno(error):
            case errno.ENOENT | errno.ENODEV | errno.ENXIO | errno.ENOTDIR | errno.EIO:
                return SourceError(
                    f"{self.name}: no such device",
                    "plug the receiver in, or name another (`ls -l /dev/serial/by-id` shows what "
                    "is there)",
                )
            case errno.EBUSY | errno.EWOULDBLOCK:
                return BusyError(
                    f"{self.name} is in use by another program",
                    f"`sudo fuser -v {in_shell(self.name)}` shows which; stop it",
                )
            case errno.EACCES:
                return ForbiddenError(
                    f"no permission to read {self.name}", how_to_permit(self._path, _user())
                )
            case errno.EPERM:  # by a control group; the file's mode permits it
                return ForbiddenError(
                    f"no permission to read {self.name}: its container or service has no access "
                    "to this device",
                    "start the container with --device, or with a --device-cgroup-rule for a "
                    "receiver that is plugged in later; for a service, `sudo telemetry-agent "
                    "doctor` shows what to do",
                )
            case errno.ENOTTY:
                return SourceError(
                    f"{self.name} is not a serial port",
                    "name the receiver's device, such as /dev/ttyACM0",
                )
        why = limit_reached(error) or SourceError(str(error))
        return SourceError(f"{self.name} cannot be opened: {why.message}", why.remedy)


def _known_bauds(file: Path | None) -> dict[str, int]:
    """Receiver -> its speed, from a file that may be gone, or hold anything."""
    try:
        known = json.loads(file.read_text()) if file else {}
        return {name: baud for name, baud in known.items() if baud in BAUD_RATES}
    except (OSError, ValueError, AttributeError):
        return {}


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _errno(error: Exception) -> object:
    """The errno: pyserial wraps the error, and drops the number of a failed tcgetattr."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    cause = error if isinstance(error, termios.error) else error.__context__
    return cause.args[0] if isinstance(cause, termios.error) else None
