"""The doctor as the running agent calls it: for the device page.

The checks run in a process of their own: they import what the agent has no use for, and what hangs
in them is ended with it. That process finds the queue locked by the agent, so it asks the agent for
what the receiver says and never opens the receiver.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from telemetry_agent.doctor import now
from telemetry_agent.errors import AgentError
from telemetry_agent.snapshot import Snapshot

_LIMIT_S = 40.0  # the checks end by themselves after 15 s; a small board takes its time to start


class HouseCall:
    """The doctor of one agent. Any thread may call.

    Args:
        config_path: the config that the agent was started with; ``None``: the usual one.
        disk: whether the disk under the queue matters; a demo's does not.
    """

    def __init__(self, config_path: Path | None, *, disk: bool = True) -> None:
        self._config_path = config_path
        self._disk = disk

    def findings(self, state: Snapshot, queue_path: Path) -> list[dict[str, Any]]:
        """What is wrong by the agent's status, as ``Finding`` in JSON; empty: all is well."""
        return [asdict(found) for found in now.findings(state, queue_path if self._disk else None)]

    def check(self) -> dict[str, Any]:
        """What ``doctor --json`` reports.

        Raises:
            AgentError: the checks could not be run.
        """
        config = [] if self._config_path is None else ["--config", str(self._config_path)]
        argv = [sys.executable, "-P", "-m", "telemetry_agent", "doctor", "--json", *config]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            done = subprocess.run(  # noqa: S603 - our own program
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                process_group=0,
                timeout=_LIMIT_S,
                check=False,
            )
            result: dict[str, Any] = json.loads(done.stdout)
        except OSError as error:
            raise AgentError(f"cannot start the checks: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise AgentError(f"the checks took longer than {_LIMIT_S:.0f} s") from None
        except ValueError:
            said = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise AgentError(f"the checks ended with {done.returncode}: {said}") from None
        return result
