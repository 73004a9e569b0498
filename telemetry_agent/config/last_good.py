"""The last config that worked, for a start at which the config does not.

A device must record after a typo, after a power cut that left zeros in the config, and if a mount
comes late. So the service keeps the text of its config files in its state directory, in two
generations: after a downgrade the newest may have keys that this version does not know. Environment
variables and the contents of secret files are not kept.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from telemetry_agent.config.files import STATE_DIRECTORY
from telemetry_agent.disks import sync_directory

_GENERATIONS = ("config", "config.before")


def folder() -> Path | None:
    """The folder of the copies, or ``None`` without a service manager."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(state, "last-good") if state else None


def keep(texts: Mapping[str, str]) -> None:
    """Keep the text of a config that works, if it differs from the last one.

    Raises:
        OSError: the state directory cannot be written.
    """
    copies = folder()
    if copies is None or not texts:
        return
    content = json.dumps(texts).encode()
    sealed = hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    newest, before = (copies / name for name in _GENERATIONS)
    with suppress(FileNotFoundError):
        if newest.read_bytes() == sealed:
            return
    copies.mkdir(mode=0o700, exist_ok=True)
    new = copies / "config.new"
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(sealed)
        file.flush()
        os.fsync(file.fileno())
    if _read(newest) is not None:
        newest.replace(before)
    new.replace(newest)
    sync_directory(copies)


def kept() -> Iterator[Mapping[str, str]]:
    """The undamaged generations, the newest first."""
    if (copies := folder()) is None:
        return
    for name in _GENERATIONS:
        if (texts := _read(copies / name)) is not None:
            yield texts


def forget() -> bool:
    """Remove every copy. Return whether there was one.

    Raises:
        OSError: one cannot be removed.
    """
    copies = folder() or STATE_DIRECTORY / "last-good"
    found = False
    for name in (*_GENERATIONS, "config.new"):
        with suppress(FileNotFoundError):
            (copies / name).unlink()
            found = True
    return found


def _read(path: Path) -> Mapping[str, str] | None:
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != digest:
            return None
        texts: Mapping[str, str] = json.loads(content)
    except (OSError, ValueError):
        return None
    return texts
