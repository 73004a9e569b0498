"""A receiver on a serial port; the only importer of pyserial.

The port is opened by the name that the user gave. Names such as ``/dev/serial/by-id/…`` are links
that point elsewhere after the cable was pulled and put back, so each open follows the link anew.
"""

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import stat
import termios
import threading
from pathlib import Path

import serial

from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.sources import BusyError

_ABSENT = {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR, errno.EIO}
_BUSY = {errno.EBUSY, errno.EWOULDBLOCK}
_FORBIDDEN = {errno.EACCES, errno.EPERM}


class _Port(serial.Serial):
    def _reset_input_buffer(self) -> None:
        """Keep the bytes that came in since the open: pyserial would throw them away."""


class SerialSource:
    """Reads a serial port at a fixed speed, and keeps other programs off it."""

    def __init__(self, path: Path, baud: int) -> None:
        self.name = str(path)
        self._path = path
        self._baud = baud
        self._port: _Port | None = None
        self._cancelled = False
        self._guard = threading.Lock()  # so that cancel never meets a port that is half closed

    def open(self) -> None:
        """See ``Source.open``. Nothing of the line is changed but speed, framing and raw mode."""
        try:
            if not stat.S_ISCHR(self._path.stat().st_mode):
                raise SourceError(self._no_port())
            port = _Port(self.name, self._baud, timeout=0, exclusive=True)
            with self._guard:
                self._port = port
            # pyserial's "exclusive" is a lock among those who ask for it: this keeps off the rest.
            fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
        except (OSError, termios.error) as error:
            self.close()
            raise self._why(error) from error

    def read(self, timeout_s: float) -> bytes:
        """See ``Source.read``."""
        port = self._port
        if port is None:
            raise SourceError(f"{self.name} is not open")
        if self._cancelled:
            self._cancelled = False
            return b""
        try:
            waiting = port.in_waiting
            if not waiting:
                port.timeout = timeout_s
            data: bytes = port.read(max(1, waiting))
        except (OSError, termios.error) as error:
            # A raw OSError from in_waiting, or pyserial's "readiness to read but returned no data".
            raise SourceError(f"{self.name} went away: check the cable and the power") from error
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
        if port is not None:
            # A pty outlives its last user, and would stay exclusive for nobody. Where this fails,
            # the device is gone, and the mode with it.
            with contextlib.suppress(OSError):
                fcntl.ioctl(port.fileno(), termios.TIOCNXCL)
            port.close()

    def _why(self, error: Exception) -> SourceError:
        number = _errno(error)
        if number in _ABSENT:
            return SourceError(
                f"{self.name}: no such device: plug the receiver in, "
                "or name another (`ls -l /dev/serial/by-id` shows what is there)"
            )
        if number in _BUSY:
            return BusyError(
                f"{self.name} is in use by another program: "
                f"`sudo fuser -v {self.name}` shows which; stop it"
            )
        if number in _FORBIDDEN:
            return SourceError(
                f"no permission to read {self.name}: "
                f"`sudo usermod -aG {self._group()} {_user()}`, then log in again"
            )
        if number == errno.ENOTTY:
            return SourceError(self._no_port())
        return SourceError(f"{self.name} cannot be opened: {error}")

    def _no_port(self) -> str:
        return f"{self.name} is no serial port: name the receiver's device, such as /dev/ttyACM0"

    def _group(self) -> str:
        """Who may read it: ``dialout`` on Debian, ``uucp`` elsewhere."""
        try:
            group = self._path.stat().st_gid
            return grp.getgrgid(group).gr_name if group else "dialout"
        except (OSError, KeyError):
            return "dialout"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _errno(error: Exception) -> object:
    """What the system said: pyserial wraps it, and drops the number of a failed tcgetattr."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    cause = error if isinstance(error, termios.error) else error.__context__
    return cause.args[0] if isinstance(cause, termios.error) else None
