"""The destination and the form of the daemon's log.

::

    format   standard error is        a record becomes
    auto     a stream to journald     one entry with fields, over journald's own protocol
    auto     anything else            one readable line
    json     whatever it is           one JSON object on one line

A message has everything that a person needs. Values that a program may search for are passed as
``extra={"fields": {"STATE": "no-fix", "COUNT": 3}}``, with names that journald accepts (capitals,
digits and underscores). They are part of entries in journald and JSON, not of readable lines.

Only a crash is logged with a traceback, by ``log.exception``. The given secrets are masked in
everything, because the text of a foreign exception may quote them. Of the loggers of libraries only
warnings and errors are logged, at every level: httpx logs each request, and httpcore the headers.

Logging never blocks: lines that are not read are dropped and counted, and their number is logged
when there is room.
"""

import atexit
import faulthandler
import io
import json
import logging
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Literal

from telemetry_agent.errors import counted, limit_reached
from telemetry_agent.fields import rfc3339
from telemetry_agent.secrecy import masked
from telemetry_agent.tasks import started

PROGRAM = "telemetry-agent"
JOURNAL_SOCKET = "/run/systemd/journal/socket"

_BUFFER_BYTES = 256 * 1024
_END_S = 1.0  # to write the lines that still wait for a slow reader of standard error

log = logging.getLogger(__name__)


def configure(
    level: str,
    format: Literal["auto", "json"],  # noqa: A002 - the config's own name for it
    device: str,
    secrets: Collection[str] = (),
) -> None:
    """Set up the log of this process; call it again to change it.

    Args:
        level: the lowest level of the agent's own loggers: debug, info, warning, error.
        format: as above.
        device: the device's name, in each entry of journald and each JSON object.
        secrets: texts to mask in every record; more may be added later. Texts of fewer than 4
            characters are not masked.
    """
    raw = standard_error()
    handler: logging.Handler
    if format == "auto" and is_read_by_journald():
        handler = JournalHandler(device, secrets)
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_Json(device, secrets) if format == "json" else _Readable(secrets))
    raw.write_dropped_by(lambda count: handler.format(_dropped(count)) + "\n")
    root = logging.getLogger()
    before = root.handlers[:]
    root.addHandler(handler)  # first: another thread may log meanwhile
    for old in before:
        root.removeHandler(old)
        old.close()
    root.setLevel(logging.WARNING)
    logging.getLogger("telemetry_agent").setLevel(level.upper())
    sys.excepthook = _log_crash
    threading.excepthook = lambda crash: _log_crash(*crash[:3])
    # The watchdog ends a stuck agent by SIGABRT: this prints the stack of each thread.
    faulthandler.enable(2)


def _dropped(count: int) -> logging.LogRecord:
    dropped = counted(count, "log line was", "log lines were")
    says = f"{dropped} dropped: standard error was not read"
    fields = {"fields": {"COUNT": count}}
    return log.makeRecord(__name__, logging.WARNING, "", 0, says, (), None, extra=fields)


def standard_error() -> "StandardError":
    """Make ``sys.stderr`` never block, and return what it writes into."""
    buffer = getattr(sys.stderr, "buffer", None)
    if isinstance(buffer, StandardError):
        return buffer
    # If the agent was started without one, descriptor 2 may be another file by now.
    raw = StandardError(2 if sys.stderr else os.open(os.devnull, os.O_WRONLY))
    sys.stderr = io.TextIOWrapper(
        raw, encoding="utf-8", errors="backslashreplace", write_through=True
    )
    atexit.register(raw.end)
    return raw


class _Text(logging.Formatter):
    """A record as text: the message, and the traceback of a crash; secrets masked in both."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(filter(None, self.parts(record)))

    def parts(self, record: logging.LogRecord) -> tuple[str, str]:
        """The message, and the traceback; that is empty if a limit was reached."""
        crash = record.exc_info and record.exc_info[1]
        short = crash and limit_reached(crash)
        message = record.getMessage() + (f": {short}" if short else "")
        trace = self.formatException(record.exc_info) if record.exc_info and not short else ""
        return masked(message, self._secrets), masked(trace, self._secrets)

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        return {
            name: masked(value, self._secrets) if isinstance(value, str) else value
            for name, value in getattr(record, "fields", {}).items()
        }


class _Readable(_Text):
    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(record)} {record.levelname.lower()}: {super().format(record)}"


class _Json(_Text):
    def __init__(self, device: str, secrets: Collection[str]) -> None:
        super().__init__(secrets)
        self._device = device

    def format(self, record: logging.LogRecord) -> str:
        message, trace = self.parts(record)
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": message,
            "logger": record.name,
            "device": self._device,
            "fields": self.fields(record),
        }
        if trace:
            entry["traceback"] = trace
        return json.dumps(entry, ensure_ascii=False, default=str)


def _time(record: logging.LogRecord) -> str:
    return rfc3339(int(record.created * 1000))


class JournalHandler(logging.Handler):
    """Sends each record to journald as a datagram, without waiting.

    A thread that records positions must not hang because journald does. A record that it does not
    take now (it is busy, it has ended, the record is too large for a datagram) is written to
    standard error, each line after its priority, as systemd reads it there.
    """

    def __init__(
        self, device: str, secrets: Collection[str] = (), address: str = JOURNAL_SOCKET
    ) -> None:
        super().__init__()
        self._device = device
        self._text = _Text(secrets)
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Send ``record``."""
        try:
            entry = {
                "MESSAGE": self._text.format(record),
                "PRIORITY": _priority(record),
                "SYSLOG_IDENTIFIER": PROGRAM,
                "LOGGER": record.name,
                "DEVICE": self._device,
            } | self._text.fields(record)
            self._socket.sendto(journal_datagram(entry), self._address)
        except OSError:
            self._print(record)
        except Exception:  # noqa: BLE001 - a record that cannot be rendered must not end its thread
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _print(self, record: logging.LogRecord) -> None:
        lines = self._text.format(record).splitlines()
        sys.stderr.write("".join(f"<{_priority(record)}>{line}\n" for line in lines))
        sys.stderr.flush()


def journal_datagram(fields: dict[str, Any]) -> bytes:
    """``fields`` in journald's native protocol.

    ``NAME=value`` and a line feed. If the value contains a line feed: the name, a line feed, the
    length in 64 bits little-endian, the value and a line feed.
    """
    datagram = bytearray()
    for name, value in fields.items():
        raw = str(value).encode("utf-8", "replace")
        if b"\n" in raw:
            datagram += b"%s\n%s%s\n" % (name.encode(), len(raw).to_bytes(8, "little"), raw)
        else:
            datagram += b"%s=%s\n" % (name.encode(), raw)
    return bytes(datagram)


def _priority(record: logging.LogRecord) -> int:
    """The priority of syslog."""
    return {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6}.get(record.levelname, 7)


def _log_crash(
    kind: type[BaseException], value: BaseException | None, traceback: TracebackType | None
) -> None:
    name = threading.current_thread().name
    crashed = "the agent" if threading.current_thread() is threading.main_thread() else name
    if value is not None and kind is not SystemExit:
        log.critical("%s crashed", crashed, exc_info=(kind, value, traceback))


def is_read_by_journald() -> bool:
    """Whether standard error goes to journald: JOURNAL_STREAM alone may be inherited."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class StandardError(io.RawIOBase):
    """The raw stream below ``sys.stderr``, whose writers never block.

    A write blocks if the pipe is not read (Docker, runit), if the terminal is stopped, or if the
    journal hangs. So writes go into a bounded buffer, which a thread of its own empties, from the
    first line on. The exit waits for it for a second at most. O_NONBLOCK is not a solution: it
    would apply to all processes that share the terminal or the pipe.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.write_dropped_by(lambda n: f"{counted(n, 'line was', 'lines were')} dropped\n")
        self._fd = fd
        # Reentrant: a finalizer that fails is reported here, also while this thread writes.
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def write_dropped_by(self, line: Callable[[int], str]) -> None:
        """Let ``line`` make the line that is written in place of this number of lines."""
        self._dropped_line = line

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # of a text stream's encoder
        """Put ``data`` into the buffer, or count it as dropped. Never blocks."""
        data = bytes(data)
        with self._changed:
            # After a gap, nothing may follow until the gap is reported.
            if self._dropped or len(self._waiting) + len(data) > _BUFFER_BYTES:
                self._dropped += data.count(b"\n")
            else:
                self._waiting += data
            self._thread = self._thread or started(self._run, "standard error")
            # If the system refuses the thread: as much as is read at once.
            while self._thread is None and self._is_behind() and self._has_room(0):
                written = self._put(self._next())
                del self._waiting[:written]
            self._changed.notify_all()
        return len(data)

    def end(self, timeout_s: float = _END_S) -> None:
        """Wait until the buffer is written, for at most this time; before ``os._exit``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_behind(), timeout_s if self._thread else 0)

    def _is_behind(self) -> bool:
        return bool(self._waiting or self._dropped)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_behind)
                data = self._next()
            self._has_room(None)
            written = self._put(data)  # without the lock: the system may block it all the same
            with self._changed:
                del self._waiting[:written]
                self._changed.notify_all()

    def _has_room(self, timeout_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(timeout_ms))

    def _next(self) -> bytes:
        """The next line, or as much of it as a pipe with room accepts at once."""
        if not self._waiting:
            self._waiting += self._dropped_line(self._dropped).encode("utf-8", "replace")
            self._dropped = 0
        end = self._waiting.find(b"\n", 0, select.PIPE_BUF) + 1
        return bytes(self._waiting[: end or select.PIPE_BUF])

    def _put(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # another process that shares it has set O_NONBLOCK
            return 0
        except OSError:  # its reader has ended
            return len(data)
