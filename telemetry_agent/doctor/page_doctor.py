"""The doctor of the device page: what is wrong by the agent's own status, and all checks.

``findings`` asks the kernel about the disk, and no program, so the page can look once a second.
The full checks run in a process of their own: they import what the agent does not need, and what
hangs in them ends with it. That process finds the queue locked by the agent, so it asks the agent
for the receiver's data and never opens the receiver.
"""

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from telemetry_agent.config.subprocess_loader import run_module
from telemetry_agent.doctor.agent_checks import RELOAD, delivery, queue, read_again
from telemetry_agent.doctor.findings import Finding, failed
from telemetry_agent.doctor.reception import antenna, reported
from telemetry_agent.doctor.storage_checks import disk_space, file_system
from telemetry_agent.errors import AgentError
from telemetry_agent.snapshot import Snapshot

_LIMIT_S = 40.0  # the checks end by themselves after 15 s; a small board takes long to start


class PageDoctor:
    """The checks of one agent, for its device page. Any thread may call.

    Args:
        config_path: the config that the agent was started with; ``None``: the default one.
    """

    def __init__(self, config_path: Path | None) -> None:
        self._config_path = config_path

    def findings(self, state: Snapshot, queue_path: Path) -> list[dict[str, Any]]:
        """Each warn and fail by the agent's status and its disk, as ``Finding`` in JSON.

        In the order of the data's path; empty: no fault.
        """
        place, storage = queue_path.parent.resolve(), state.storage
        found: list[tuple[str, Finding]] = []
        if (config := state.config) is not None:
            said = f"the last good config is in effect: {config.last_error}"
            found.append(("config", failed(said, f"correct the config, then {RELOAD}")))
        is_elsewhere = storage is not None and storage.state != "forgets"
        if storage is not None and is_elsewhere:
            found.append(("state directory", failed(storage.last_error, storage.remedy)))
        found += [reported(state.receiver), ("antenna", antenna(state.receiver.antenna))]
        if not is_elsewhere:  # there a power cut loses everything: that is reported already
            found.append(("file system", file_system(place, Path("/"))))
        found.append(("disk space", disk_space(place)))
        found += [("queue", queue(state.queue)), ("delivery", delivery(state, read_again()))]
        return [
            asdict(replace(one, name=name))
            for name, one in found
            if one.verdict in {"warn", "fail"}
        ]

    def check(self) -> dict[str, Any]:
        """What ``doctor --json`` reports.

        Raises:
            AgentError: the checks could not be run.
        """
        config = [] if self._config_path is None else ["--config", str(self._config_path)]
        args = ["doctor", "--json", *config]
        try:
            done = run_module("telemetry_agent", *args, stdin=subprocess.DEVNULL, timeout=_LIMIT_S)
            result: dict[str, Any] = json.loads(done.stdout)
        except OSError as error:
            raise AgentError(f"cannot start the checks: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise AgentError(f"the checks took longer than {_LIMIT_S:.0f} s") from None
        except ValueError:
            said = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise AgentError(f"the checks ended with {done.returncode}: {said}") from None
        return result
