"""The config, read in a process of its own.

Whoever imports pydantic keeps 13 MB for good, a quarter of what the daemon would need; it has use
for it at its start and at a reload.
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
    """``loader.load`` without what it takes.

    Args:
        path: the config file, or ``None`` for the usual places.
        fall_back: where it does not work the last good config serves, if there is one.

    Raises:
        ConfigError: as there.
        ResourceError: as there; or the other process cannot be had: it was not started, it was
            killed, or it is of another version, installed since this one started.
    """
    argv = [sys.executable, "-P", "-m", __package__, "last-good" if fall_back else "-"]
    argv += [] if path is None else [str(path)]
    # It finds the modules where this process does. Ctrl-C is for this one, which ends the other.
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
            f"telemetry-agent {version.decode()} is installed and {__version__} runs", "restart it"
        )
    result: StartConfig | AgentError = pickle.loads(pickled)  # noqa: S301 - our own process wrote it
    if isinstance(result, AgentError):
        raise result
    return result


def _end(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return f"was killed: {signal.strsignal(-done.returncode)}"
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    said = f": {lines[-1]}" if lines else ""  # how a traceback ends
    return f"ended with {done.returncode}{said}"
