"""Our commands, run as another user of the machine."""

from processes import AGENT

NOBODY = 65534

AS_ANOTHER = """
import encodings.ascii, encodings.idna, encodings.utf_8_sig
import os, stringprep, sys, tomllib, unicodedata
from telemetry_agent.cli import doctor
from telemetry_agent.cli import drain
from telemetry_agent.cli import export
from telemetry_agent.cli import group
from telemetry_agent.cli import main
from telemetry_agent.cli import queue
from telemetry_agent.cli import run
from telemetry_agent.cli import status
from telemetry_agent.cli import tap
from telemetry_agent.config import subprocess_loader
from telemetry_agent.config import loader
from telemetry_agent.daemon import app
from telemetry_agent.daemon import at_rest
from telemetry_agent.daemon import client
from telemetry_agent.daemon import delivery
from telemetry_agent.daemon import service
subprocess_loader.load = lambda path, fall_back: loader.load(path)
user, group, *groups = map(int, sys.argv[1].split())
if user:
    os.setgroups(groups)
    os.setgid(group)
    os.setuid(user)
main(sys.argv[2:])
"""
"""Imports come first, in one process: the user may not be allowed to read this Python."""


def as_another(*args: str, user: int, group: int = NOBODY, groups: list[int]) -> list[str]:
    """The command line that runs one of our commands as another user."""
    ids = " ".join(map(str, [user, group, *groups]))
    return [AGENT[0], "-c", AS_ANOTHER, ids, *args]
