"""The config, read in a process of its own.

Importing pydantic costs 13 MB that are never freed, a quarter of the daemon's memory, and the
daemon needs it only at its start and at a reload.
"""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

from telemetry_agent import __version__
from telemetry_agent.config.last_good import StartConfig
from telemetry_agent.errors import AgentError, ResourceError


def load(path: Path | None, *, fall_back: bool = False) -> StartConfig:
    """``loader.load`` in another process.

    Args:
        path: the config file, or ``None`` for the usual places.
        fall_back: whether to return the last good config if the config does not work.

    Raises:
        ConfigError: as ``loader.load``.
        ResourceError: as ``loader.load``; or the other process could not be started, was killed, or
            is of another version, installed since this one started.
    """
    argv = [sys.executable, "-P", "-m", __package__, "last-good" if fall_back else "-"]
    argv += [] if path is None else [str(path)]
    # It must find the same modules. Ctrl-C ends this process, which ends the other.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            argv, env=environment, capture_output=True, process_group=0, check=False
        )
    except OSError as error:
        raise ResourceError(
            f"config: cannot start {sys.executable} to read it: {error.strerror}"
        ) from None
    if done.returncode:
        raise ResourceError(f"config: the process that reads it {_end(done)}")
    version, _, pickled = done.stdout.partition(b"\n")
    if version != __version__.encode():
        raise ResourceError(
            f"telemetry-agent {version.decode()} is installed, but {__version__} is running",
            "restart it",
        )
    result: StartConfig | AgentError = pickle.loads(pickled)  # noqa: S301 - our own process wrote it
    if isinstance(result, AgentError):
        raise result
    return result


def _end(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return f"was killed: {signal.strsignal(-done.returncode)}"
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    last = f": {lines[-1]}" if lines else ""  # the end of a traceback
    return f"ended with {done.returncode}{last}"
