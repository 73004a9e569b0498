"""The process that reads the config for the daemon; see ``subprocess_loader``."""

import contextlib
import pickle
import sys
from pathlib import Path

from telemetry_agent import __version__
from telemetry_agent.config import last_good
from telemetry_agent.config.last_good import StartConfig
from telemetry_agent.config.loader import load, load_texts
from telemetry_agent.config.settings import Settings
from telemetry_agent.errors import (
    Advice,
    AgentError,
    ConfigError,
    ResourceError,
    UnreadableConfigError,
)


def _start_config(path: Path | None, *, fall_back: bool) -> StartConfig:
    try:
        loaded = load(path)
    except (ConfigError, ResourceError) as error:
        found = _last_good(path) if fall_back else None
        if found is None:
            raise
        held = isinstance(error, ConfigError) and not isinstance(error, UnreadableConfigError)
        return StartConfig(found, {}, Advice(error.message, error.remedy), held=held)
    return StartConfig(loaded.settings, loaded.texts, notes=loaded.notes)


def _last_good(path: Path | None) -> Settings | None:
    for texts in last_good.kept():
        if path is not None and str(path) not in texts:
            continue  # of another config
        for environment in (True, False):  # the environment may be wrong
            with contextlib.suppress(AgentError):
                return load_texts(texts, environment=environment).settings
    return None


fall_back, *paths = sys.argv[1:]
result: StartConfig | AgentError
try:
    result = _start_config(Path(paths[0]) if paths else None, fall_back=fall_back == "last-good")
except AgentError as error:
    result = error
# Ctrl-C ends the process that reads the answer.
with contextlib.suppress(BrokenPipeError), open(sys.stdout.fileno(), "wb") as answer:  # noqa: PTH123 - no path
    answer.write(__version__.encode() + b"\n" + pickle.dumps(result))
