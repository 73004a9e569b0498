"""The files of the config, and the one key that every command needs.

``loader`` reads the config by all its rules, which takes 0.1 s and 13 MB (pydantic). To find the
running agent, the path of its queue is enough.

A process of its own reads the files, because a dead mount may never answer: a thread that waits for
it can keep the whole process from ending, even after SIGKILL.
"""

import errno
import os
import pickle
import re
import select
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from telemetry_agent.errors import (
    JOIN,
    ConfigError,
    ResourceError,
    UnreadableConfigError,
    in_shell,
)
from telemetry_agent.small_files import ANSWER_S, no_answer, read_small_file

ENVIRONMENT_PREFIX = "TELEMETRY_AGENT_"
DEFAULT_PATHS = (Path("/etc/telemetry-agent/config.toml"), Path("config.toml"))
STATE_DIRECTORY = Path("/var/lib/telemetry-agent")
"""Of the service."""
QUEUE_PATH = STATE_DIRECTORY / "queue.db"
# Its last part is not empty, "." or "..", which are always directories.
QUEUE_PATH_FORM = r"(?!~(?:/|$))(?:[^\x00]*/)?(?!\.{0,2}(?:/|$))[^/\x00]+(?:/\.?)*"
QUEUE_PATH_ALLOWED = f"be the path of a file, such as {QUEUE_PATH}: without NUL, and not below ~"
_BACKSLASHES = "write a text with backslashes as '…'"
_TOML_REMEDIES = {
    "Invalid value": 'write a text as "…", in straight quotation marks; true and false in small '
    "letters",
    "Illegal character": 'end the text with a quotation mark: "…"',
    "Unescaped": _BACKSLASHES,
    "Invalid hex": _BACKSLASHES,
    "Expected newline": 'write one key = value in a line, a text or a duration as "…"',
    "Cannot declare": "keep one table of each name, with all its keys",
    "Cannot overwrite": "keep one line of this key",
    "": 'a line is [table], key = "text", key = number, or # comment',
}
"""What the parser says first -> what to do about it."""
_DESCRIPTORS = {Path("/dev/fd"), Path("/proc/self/fd")}


def queue_path(path: Path | None) -> Path:
    """The path of the queue. Other keys are not checked.

    Raises:
        ConfigError: the config does not exist or is not TOML, or queue.path cannot be a file.
        ResourceError: a file cannot be read.
    """
    found: Any = os.environ.get(f"{ENVIRONMENT_PREFIX}QUEUE__PATH")
    if found is None:
        values: dict[str, Any] = {}
        for file, text in texts(path).items():
            merge(parsed(file, text), into=values)
        queue = values.get("queue", {})
        if not isinstance(queue, dict):
            raise ConfigError("config: queue must be a table, [queue]")
        found = queue.get("path", str(QUEUE_PATH))
    if not isinstance(found, str) or not re.fullmatch(QUEUE_PATH_FORM, found):
        raise ConfigError(f"config: queue.path = {found!r}: must {QUEUE_PATH_ALLOWED}")
    return Path(found)


def _files(path: Path | None) -> Iterator[Path]:
    """The config file and those that override it; ``None`` looks at ``DEFAULT_PATHS``."""
    if path is None and (path := next(filter(_exists, DEFAULT_PATHS), None)) == DEFAULT_PATHS[1]:
        _check_owners(path)
    if path is not None:
        yield path
        yield from _overrides(path.parent / "config.d")


def _check_owners(path: Path) -> None:
    """Check that sudo uses no config of a third user that was not named.

    Whoever owns the current folder could have root send any secret, as ``token_file``, anywhere.
    """
    if (user := os.environ.get("SUDO_UID")) is None:
        return
    trusted = {"0", str(os.geteuid()), user}
    for place in (path.parent, path, path.parent / "config.d"):
        with suppress(OSError):  # reading it reports the error
            if (owner := str(place.lstat().st_uid)) not in trusted:
                raise UnreadableConfigError(
                    f"{place.absolute()} belongs to another user ({owner}), so sudo does not "
                    "use the config there",
                    "name it with --config",
                )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # reading it reports the error


def _overrides(folder: Path) -> list[Path]:
    try:
        # Not hidden files, as in a shell: an editor's lock, the metadata of another system.
        files = (file for file in folder.iterdir() if not file.name.startswith("."))
        return sorted(file for file in files if file.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _refused(f"folder {folder}", error) from None


def texts(path: Path | None) -> dict[str, str]:
    """The text of each file of the config by its name, in the order of reading.

    It is empty if only the environment has a config.

    Raises:
        UnreadableConfigError: there is no config, a file does not exist, or is not text.
        ResourceError: a file cannot be read.
    """
    if path is not None and path.parent in _DESCRIPTORS:
        # `--config <(…)` is a pipe of the shell. Its writer may take long: it may ask for a
        # passphrase. Other pipes are refused: a service must not wait.
        return {str(path): _read(path, path.read_bytes)}

    def read() -> dict[str, str]:
        return {str(file): _read(file, partial(read_small_file, file)) for file in _files(path)}

    try:
        found = _apart(read)
    except TimeoutError as error:
        raise ResourceError(
            f"cannot read the config {path or DEFAULT_PATHS[0]}, or config.d beside it: "
            f"{error.strerror}",
            "repair the mount that it is on, or put the config on a disk of this device",
        ) from None
    own = [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and "__" in name]
    if not found and not own:
        raise UnreadableConfigError(
            f"there is no config: neither {' nor '.join(map(str, DEFAULT_PATHS))} exists",
            "`sudo telemetry-agent init` writes one, or name another with --config",
        )
    return found


def _apart(act: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What ``act`` returns in a process of its own.

    Raises:
        TimeoutError: it takes too long, and is left behind.
        Exception: what ``act`` raises.
    """
    result: dict[str, str] | Exception
    reading, writing = os.pipe()
    with open(reading, "rb") as answer:  # noqa: PTH123 - a descriptor
        try:
            with warnings.catch_warnings():  # of the threads, which the new process does not use
                warnings.simplefilter("ignore", DeprecationWarning)
                process = os.fork()
        except OSError:  # refused by the system
            os.close(writing)
            return act()
        if process == 0:
            try:
                os.closerange(1, 3)  # who reads standard output need not wait for this process
                try:
                    result = act()
                except Exception as error:  # noqa: BLE001 - the other process raises it
                    result = error
                with open(writing, "wb") as pipe:  # noqa: PTH123 - as above
                    pickle.dump(result, pipe)
            finally:
                os._exit(0)
        os.close(writing)
        if not select.select([answer], [], [], ANSWER_S)[0]:
            os.kill(process, signal.SIGKILL)
            raise no_answer()
        content = answer.read()  # it writes when it has read everything
    os.waitpid(process, 0)
    if not content:
        raise ResourceError("the process that reads the config was killed", "try again")
    result = pickle.loads(content)  # noqa: S301 - our own process wrote it
    if isinstance(result, Exception):
        raise result
    return result


def _read(path: Path, read: Callable[[], bytes]) -> str:
    try:
        # Windows editors begin a file with a byte order mark.
        text = read().decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        if path.is_symlink():
            raise UnreadableConfigError(
                f"the config {path} is a symlink to {path.readlink()}, which does not exist",
                "write that file, or remove the symlink",
            ) from None
        raise UnreadableConfigError(
            f"the config {path} does not exist",
            f"`telemetry-agent init --config {in_shell(path)}` writes it",
        ) from None
    except OSError as error:
        raise _refused(f"config {path}", error) from None
    except UnicodeDecodeError:
        raise UnreadableConfigError(
            f"the config {path} is not valid TOML: it is not text in UTF-8",
            "save it as UTF-8 in the editor",
        ) from None
    if "\0" in text:
        raise UnreadableConfigError(
            f"the config {path} is not valid TOML: it has NUL characters, as after a power cut",
            "write it again; if it is UTF-16, save it as UTF-8 in the editor",
        )
    return text


def _refused(what: str, error: OSError) -> ResourceError:
    is_service = "STATE_DIRECTORY" in os.environ
    remedy = "`sudo telemetry-agent doctor` shows what to do" if is_service else JOIN
    if error.errno == errno.EIO:
        remedy = "the disk may be broken: `sudo dmesg` shows errors"
    elif not isinstance(error, PermissionError):
        remedy = "files of the config must be regular files of at most 1 MiB"
    return ResourceError(f"cannot read the {what}: {error.strerror}", remedy)


def parsed(file: str, text: str) -> dict[str, Any]:
    """The values of a text; ``file`` names its origin.

    Raises:
        UnreadableConfigError: it is not TOML.
    """
    import tomllib  # noqa: PLC0415 - the daemon reads no TOML itself

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        said = "a list is nested too deeply, or a number is too long"
        if isinstance(error, tomllib.TOMLDecodeError):
            said = str(error)
        remedy = next(text for begin, text in _TOML_REMEDIES.items() if said.startswith(begin))
        raise UnreadableConfigError(
            f"the config {file} is not valid TOML: {said}", remedy
        ) from None


def merge(layer: Mapping[str, Any], into: dict[str, Any]) -> None:
    """Let the values of ``layer`` override those of ``into``."""
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(value, into[key])
        else:
            into[key] = value
