"""The process that reads the config for the daemon; see ``apart``."""

import contextlib
import pickle
import sys
from pathlib import Path

from telemetry_agent import __version__
from telemetry_agent.config.loader import load
from telemetry_agent.config.settings import Settings
from telemetry_agent.errors import AgentError

result: Settings | AgentError
try:
    result = load(*map(Path, sys.argv[1:])).settings
except AgentError as error:
    result = error
# Ctrl-C ends who has asked.
with contextlib.suppress(BrokenPipeError), open(sys.stdout.fileno(), "wb") as answer:  # noqa: PTH123 - no path
    answer.write(__version__.encode() + b"\n" + pickle.dumps(result))
