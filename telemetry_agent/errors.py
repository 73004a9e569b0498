"""The faults that a user can see, from every room of the package.

::

    AgentError                   has a message, a remedy and an exit status
    ├── UsageError          2    the command line asks for something impossible
    ├── ConfigError        78    the config was read and is wrong: names the key, what is allowed
    │   └── UnreadableConfigError    it is missing, empty, or not TOML
    ├── ResourceError      71    the system refused something that may work next time
    ├── UnavailableError   69    the endpoint cannot be reached
    ├── StorageError       74    the disk or the queue file failed
    ├── SourceError        74    the receiver cannot be opened, or went away
    └── QueueLockedError   75    another process holds the queue (names its pid)

The statuses are those of ``sysexits.h``. ``cli.main`` prints message and remedy as one line on
standard error and exits with the status; nothing else turns an error into an exit.
"""

import errno
import mmap
import shlex
from typing import ClassVar, NamedTuple

JOIN = "use sudo, or join the group telemetry-agent (`sudo usermod -aG telemetry-agent $USER`)"
"""The remedy where a user may not do what the service's own user and group may."""


def in_shell(*paths: object) -> str:
    """Paths for a command in a remedy, as a shell reads them: one may have blanks."""
    return shlex.join(map(str, paths))


def counted(number: int, one: str, several: str = "") -> str:
    """``1 fix``, ``12,346 fixes``; with ``several`` also ``1 fix waits``, ``2 fixes wait``."""
    several = several or one + ("es" if one.endswith("x") else "s")
    return f"{number:,} {one if number == 1 else several}"


class Advice(NamedTuple):
    """What is wrong, and what to do about it."""

    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class AgentError(Exception):
    """A fault that the user can see.

    Args:
        message: what is wrong, and where.
        remedy: what to do about it; empty if the message says it.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)  # both: an error may travel between processes
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return str(Advice(self.message, self.remedy))


class UsageError(AgentError):
    """The command line asks for something impossible."""

    exit_status = 2


class ConfigError(AgentError):
    """The config was read and is wrong."""

    exit_status = 78


class UnreadableConfigError(ConfigError):
    """The config is missing, empty, or not TOML, so its meaning is unknown."""


class ResourceError(AgentError):
    """The system refused memory, a process, a thread or a read; that may work next time."""

    exit_status = 71


def refused_thread(name: str) -> ResourceError:
    """The error if the system refuses a thread for ``name``."""
    return ResourceError(
        f"the system refuses a thread for {name}",
        "memory or tasks are short: raise the limits (MemoryMax= and TasksMax= of the unit, or "
        "ulimit -v and ulimit -u), or end other programs",
    )


_SHORT_OF_MEMORY = (
    *("MemoryError", "map segment", "allocate memory", "allocate lock"),
    *("setting an exception", "exception set"),
)


def limit_reached(error: BaseException | str) -> ResourceError | None:
    """What to report if ``error``, or a traceback as text, means that a limit was reached.

    It is the limit of memory, threads or file descriptors. An import without memory fails by what
    the dynamic linker or the interpreter reports.
    """
    text = repr(error)
    if "can't start new thread" in text:
        return refused_thread("this command")
    if "Too many open files" in text:
        return ResourceError(
            "the system refuses file descriptors",
            "raise the limit (LimitNOFILE= of the unit, or ulimit -n), or end other programs",
        )
    is_short = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not is_short and not any(report in text for report in _SHORT_OF_MEMORY):
        return None
    return ResourceError(
        "the system refuses memory",
        "raise the limit (MemoryMax= of the unit, or ulimit -v), or end other programs",
    )


def ask_for_memory(count: int) -> None:
    """Ask for memory that is needed soon, and give it back. OSError: the system refuses it.

    Without memory for a number, a CPython before 3.14 can enter the same handler of exceptions
    again and again. It holds the interpreter meanwhile, so no thread could end it or say why.
    """
    mmap.mmap(-1, count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


class UnavailableError(AgentError):
    """The endpoint cannot be reached."""

    exit_status = 69


class StorageError(AgentError):
    """The disk or the queue file failed."""

    exit_status = 74


class SourceError(AgentError):
    """The receiver cannot be opened, or went away while it was read."""

    exit_status = 74


class QueueLockedError(AgentError):
    """Another process holds the queue."""

    exit_status = 75
