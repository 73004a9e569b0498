"""The files of the config, and the one key that every command needs.

``loader`` reads the config by all its rules, which takes 0.1 s and 13 MB (pydantic). To find the
running agent, the path of its queue is enough.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from telemetry_agent.errors import JOIN, ResourceError, UnreadableConfigError
from telemetry_agent.small_files import read_small_file

ENVIRONMENT_PREFIX = "TELEMETRY_AGENT_"
DEFAULT_PATHS = (Path("/etc/telemetry-agent/config.toml"), Path("config.toml"))
QUEUE_PATH = Path("/var/lib/telemetry-agent/queue.db")
_TOML_REMEDIES = {
    "Invalid value": 'write a text as "…", in straight quotation marks; true and false in small '
    "letters",
    "Illegal character": 'end the text with a quotation mark: "…"',
    "Unescaped": "write a text with backslashes as '…'",
    "Expected newline": 'write one key = value in a line, a text or a duration as "…"',
    "Cannot declare": "keep one table of each name, with all its keys",
    "Cannot overwrite": "keep one line of this key",
    "": 'a line is [table], key = "text", key = number, or # comment',
}
"""What the parser says first -> what to do about it."""
_DESCRIPTORS = {Path("/dev/fd"), Path("/proc/self/fd")}


def no_config() -> UnreadableConfigError:
    """The error if no config file exists."""
    return UnreadableConfigError(
        f"there is no config: neither {' nor '.join(map(str, DEFAULT_PATHS))} exists",
        "`sudo telemetry-agent init` writes one, and --config names another",
    )


def files_of(path: Path | None) -> tuple[Path, ...]:
    """The config file and those that override it; ``None`` looks at ``DEFAULT_PATHS``.

    Raises:
        ResourceError: the folder of overriding files cannot be read.
    """
    if path is None:
        path = next(filter(_exists, DEFAULT_PATHS), None)
    return () if path is None else (path, *_overrides(path.parent / "config.d"))


def queue_path(path: Path | None) -> Path:
    """The path of the queue. Other keys are not checked.

    Raises:
        UnreadableConfigError: there is no config, or it is not TOML.
        ResourceError: a file cannot be read.
    """
    if from_environment := os.environ.get(f"{ENVIRONMENT_PREFIX}QUEUE__PATH"):
        return Path(from_environment)
    values: dict[str, Any] = {}
    files = files_of(path)
    for file in files:
        merge(parsed(str(file), read(file)), into=values)
    if not files and not any(name.startswith(ENVIRONMENT_PREFIX) for name in os.environ):
        raise no_config()
    queue = values.get("queue")
    found = queue.get("path") if isinstance(queue, dict) else None
    return Path(found) if isinstance(found, str) else QUEUE_PATH


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # reading it reports the error


def _overrides(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ResourceError(f"cannot read the folder {folder}: {error.strerror}") from None


def read(path: Path) -> str:
    """The text of one file of the config.

    Raises:
        UnreadableConfigError: it does not exist, or is not text.
        ResourceError: it cannot be read.
    """
    try:
        # `--config <(…)` is a pipe of the shell. Other pipes are refused: a service must not wait.
        is_pipe = path.parent in _DESCRIPTORS
        content = path.read_bytes() if is_pipe else read_small_file(path)
        # Windows editors begin a file with a byte order mark.
        return content.decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        raise UnreadableConfigError(
            f"the config {path} does not exist", f"`telemetry-agent init --config {path}` writes it"
        ) from None
    except OSError as error:
        remedy = JOIN if isinstance(error, PermissionError) else ""
        raise ResourceError(f"cannot read the config {path}: {error.strerror}", remedy) from None
    except UnicodeDecodeError:
        raise UnreadableConfigError(
            f"the config {path} is not valid TOML: it is not text in UTF-8",
            "save it as UTF-8 in the editor",
        ) from None


def parsed(file: str, text: str) -> dict[str, Any]:
    """The values of a text; ``file`` names its origin.

    Raises:
        UnreadableConfigError: it is not TOML.
    """
    import tomllib  # noqa: PLC0415 - the daemon reads no TOML itself

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
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
