"""The command line: one module for each command; ``group`` finds them."""

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from telemetry_agent.errors import AgentError, StorageError, limit_reached

if TYPE_CHECKING:
    from telemetry_agent.doctor.page_doctor import PageDoctor

PROGRAM = "telemetry-agent"
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


def main(args: list[str] | None = None) -> None:
    """Run one command and exit. A fault that a user can cause is one line on standard error."""
    _prepare_streams()
    if signal.SIGINT in ends():  # a KeyboardInterrupt may be lost in an import
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        result = _run(sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        known = error if isinstance(error, AgentError) else limit_reached(error)
        if isinstance(error, UnicodeEncodeError):
            known = AgentError(
                f"the locale (encoding {error.encoding}) has no such file name: {error.object!r}",
                "set LC_ALL=C.UTF-8",
            )
        elif known is None and isinstance(error, OSError) and error.filename is not None:
            known = StorageError(f"cannot open {os.fsdecode(error.filename)}: {error.strerror}")
        elif known is None and isinstance(error, OSError):
            # Commands handle the files that they have open, so this is standard output.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):  # the reader has ended (`… | head`)
                sys.exit(1)
            known = StorageError(f"cannot write the output: {error.strerror}")
        if known is None:
            raise
        sys.stderr.write(f"{_priority()}{PROGRAM}: {known}\n")
        sys.exit(known.exit_status)
    sys.exit(result if isinstance(result, int) else 0)


def ends() -> set[signal.Signals]:
    """The signals that end a command, without those that the caller ignores (nohup)."""
    every = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    return {end for end in every if signal.getsignal(end) is not signal.SIG_IGN}


def on_end(act: Callable[[int, FrameType | None], object]) -> None:
    """Act when one of ``ends`` comes."""
    for end in ends():
        signal.signal(end, act)


def _run(args: list[str]) -> Any:
    match args:
        case ["run"]:
            config = None
        case ["run", "--config", path]:
            config = Path(path)
        case _:
            from telemetry_agent.cli import group  # noqa: PLC0415

            return group.run(args)
    return run_daemon(config)  # as the service starts it


def run_daemon(config_path: Path | None) -> int:
    """Run the daemon. Returns the exit status. Without click, which would keep 1.2 MB of memory."""
    if os.geteuid() == 0 and "NOTIFY_SOCKET" not in os.environ:  # by hand
        from telemetry_agent.doctor.permissions import become_service  # noqa: PLC0415

        become_service(config_path)
    # A small board imports for a second: a signal waits for the service, which blocks them as well.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    from telemetry_agent.clock import Clock  # noqa: PLC0415 - no other command needs all this
    from telemetry_agent.daemon import logs  # noqa: PLC0415
    from telemetry_agent.daemon.service import Service  # noqa: PLC0415

    def doctor() -> "PageDoctor":
        from telemetry_agent.doctor.page_doctor import PageDoctor  # noqa: PLC0415 - for the page only

        return PageDoctor(config_path)

    logs.standard_error()  # a pipe that nobody reads must not stop a start that fails
    return Service(config_path, Clock(), doctor).run()


def _prepare_streams() -> None:
    """Let every command have three streams that take any text.

    What the caller has closed becomes /dev/null, before another file gets its descriptor. Standard
    error that is full, or whose reader has ended, does not end the command.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # Also for stdin: reading from it fails, as from a closed one.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - kept open
        elif name == "stderr" and sys.stderr is sys.__stderr__:
            raw = io.BufferedWriter(_Notes(2, "w", closefd=False))
            encoding = getattr(sys.stderr, "encoding", None)
            sys.stderr = io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True)
    # A file name may have bytes that are not text.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]


class _Notes(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _priority() -> str:
    """The prefix that marks the line as an error for journald, if standard error goes there."""
    try:
        from telemetry_agent.daemon.logs import is_read_by_journald  # noqa: PLC0415
    except (MemoryError, ImportError, OSError, SystemError):  # memory is short
        return ""
    return "<3>" if is_read_by_journald() else ""
