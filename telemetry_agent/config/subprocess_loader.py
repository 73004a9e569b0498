"""The config, read by a process of its own.

Importing pydantic costs 13 MB that are never freed, a quarter of the daemon's memory, and the
daemon needs it only at its start and at a reload.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from telemetry_agent import __version__
from telemetry_agent.config import last_good
from telemetry_agent.config.files import DEFAULT_PATHS
from telemetry_agent.config.settings import LoadedConfig, Settings
from telemetry_agent.errors import (
    Advice,
    AgentError,
    ConfigError,
    ResourceError,
    UnreadableConfigError,
    limit_reached,
)


def run_module(name: str, *args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a module of this package in another process; ``options``: of ``subprocess.run``.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: see ``subprocess.run``.
    """
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-P", "-m", name, *args],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # it finds the same modules
        capture_output=True,
        process_group=0,  # Ctrl-C ends this process, which ends the other
        check=False,
        **options,
    )


def load(path: Path | None, *, fall_back: bool = False) -> LoadedConfig:
    """``loader.load`` in another process.

    Args:
        path: the config file, or ``None`` for the usual places.
        fall_back: whether to return the last good config if the config does not work (at a start).

    Raises:
        ConfigError: as ``loader.load``.
        ResourceError: as ``loader.load``; or the other process could not be started, was killed, or
            is of another version, installed since this one started.
    """
    args = ["last-good" if fall_back else "-", *([] if path is None else [str(path)])]
    try:
        done = run_module(__name__, *args, close_fds=False)  # the config may be a pipe of the shell
    except OSError as error:
        raise limit_reached(error) or ResourceError(
            f"config: cannot start {sys.executable} to read it: {error.strerror}"
        ) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace")
        last = said.splitlines()[-1] if said else ""  # the end of a traceback
        end = f"ended with {done.returncode}{last and ': '}{last}"
        if done.returncode < 0:
            end = f"was killed: {signal.strsignal(-done.returncode)}"
        raise limit_reached(said) or ResourceError(f"config: the process that reads it {end}")
    version, _, pickled = done.stdout.partition(b"\n")
    if version != __version__.encode():
        raise ResourceError(
            f"telemetry-agent {version.decode()} is installed, but {__version__} is running",
            "restart it",
        )
    result: LoadedConfig | AgentError = pickle.loads(pickled)  # noqa: S301 - our own process wrote it
    if isinstance(result, AgentError):
        raise result
    return result


class Look:
    """Looks whether the files of the config have changed.

    `ls` looks: a thread that waits for a dead mount would keep this process from ending.
    """

    def __init__(self, path: Path | None) -> None:
        paths = DEFAULT_PATHS if path is None else (path,)
        self._files = [str(place) for one in paths for place in (one, one.parent / "config.d")]
        self._process: subprocess.Popen[bytes] | None = None
        self._seen = b""

    def changed(self) -> bool:
        """Whether they have changed since the last call; the late answer of a mount is a change.

        It waits 0.2 s at most: the next call may know.
        """
        if self._process is None:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - no shell
                    ["ls", "-lL", "--full-time", "--", *self._files],  # noqa: S607 - of the system
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except OSError:
                return False
        try:
            found, _ = self._process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            return False
        self._process = None
        before, self._seen = self._seen, found
        return found != before


def main(fall_back: str, *paths: str) -> None:
    """The other process: write the version and the pickled result to standard output."""
    result: LoadedConfig | AgentError
    try:
        result = _load(Path(paths[0]) if paths else None, fall_back=fall_back == "last-good")
    except AgentError as error:
        result = error
    # Ctrl-C ends the process that reads the answer.
    with contextlib.suppress(BrokenPipeError), open(sys.stdout.fileno(), "wb") as answer:  # noqa: PTH123 - no path
        answer.write(__version__.encode() + b"\n" + pickle.dumps(result))


def _load(path: Path | None, *, fall_back: bool) -> LoadedConfig:
    from telemetry_agent.config import loader  # noqa: PLC0415 - pydantic, in this process only

    try:
        return loader.load(path)
    except (ConfigError, ResourceError) as error:
        found = _last_good(path) if fall_back else None
        if found is None:
            raise
        is_wrong = isinstance(error, ConfigError) and not isinstance(error, UnreadableConfigError)
        return LoadedConfig(
            found, fault=Advice(error.message, error.remedy), holds_uploads=is_wrong
        )


def _last_good(path: Path | None) -> Settings | None:
    from telemetry_agent.config import loader  # noqa: PLC0415 - as above

    for texts in last_good.kept():
        if path is not None and str(path) not in texts:
            continue  # of another config
        for environment in ({**os.environ}, {}):  # it may be wrong, too
            with contextlib.suppress(AgentError):
                return loader.load_texts(texts, environment).settings
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
