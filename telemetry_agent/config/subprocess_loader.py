"""The config, read in a process of its own.

Whoever imports pydantic keeps 13 MB for good, a quarter of what the daemon would need; it has use
for it at its start and at a reload.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

from telemetry_agent import __version__
from telemetry_agent.config.settings import Settings
from telemetry_agent.errors import ConfigError


def load(path: Path | None) -> Settings:
    """``loader.load`` without what it takes.

    Raises:
        ConfigError: as there; or the other process cannot be had: it ended early, or it is of
            another version, installed since this one started.
    """
    argv = [sys.executable, "-P", "-m", __package__, *([] if path is None else [str(path)])]
    # It finds the modules where this process does. Ctrl-C is for this one, which ends the other.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            argv, env=environment, stdout=subprocess.PIPE, process_group=0, check=False
        )
    except OSError as error:
        raise ConfigError(
            f"config: cannot start {sys.executable} to read it: {error.strerror}"
        ) from None
    if done.returncode:
        raise ConfigError(f"config: the process that reads it ended with {done.returncode}")
    version, _, pickled = done.stdout.partition(b"\n")
    if version != __version__.encode():
        raise ConfigError(
            f"telemetry-agent {version.decode()} is installed and {__version__} runs: restart it"
        )
    result: Settings | ConfigError = pickle.loads(pickled)  # noqa: S301 - our own process wrote it
    if isinstance(result, ConfigError):
        raise result
    return result
