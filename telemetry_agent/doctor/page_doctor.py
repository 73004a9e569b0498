"""The doctor of the device page: what is wrong by the agent's own status, and all checks.

``faults`` reads only the mount table and asks no other program, so the page can look once a second.
The full checks run in a process of their own: they import what the agent does not need, and what
hangs in them ends with it. That process finds the queue locked by the agent, so it asks the agent
for the receiver's data and never opens the receiver.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from telemetry_agent.doctor.agent_checks import RELOAD, delivery, queue
from telemetry_agent.doctor.findings import Finding, failed
from telemetry_agent.doctor.reception import antenna, measured, no_fix
from telemetry_agent.doctor.storage import disk_space, file_system
from telemetry_agent.errors import AgentError
from telemetry_agent.snapshot import ReceiverView, Snapshot

_LIMIT_S = 40.0  # the checks end by themselves after 15 s; a small board takes long to start


class PageDoctor:
    """The checks of one agent, for its device page. Any thread may call.

    Args:
        config_path: the config that the agent was started with; ``None``: the default one.
    """

    def __init__(self, config_path: Path | None) -> None:
        self._config_path = config_path

    def findings(self, state: Snapshot, queue_path: Path) -> list[dict[str, Any]]:
        """What is wrong by the agent's status, as ``Finding`` in JSON; empty: no fault."""
        return [asdict(found) for found in faults(state, queue_path)]

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


def faults(state: Snapshot, queue_path: Path) -> list[Finding]:
    """Each warn and fail by the agent's status and its disk, in the order of the data's path."""
    place = queue_path.parent.resolve()
    found = [*_fallbacks(state), *_receiver(state.receiver)]
    # In the runtime directory a power cut loses everything; that is reported already.
    if state.storage is None or state.storage.state != "runtime":
        found.append(file_system(place, Path("/")))
    found += [disk_space(place), queue(state.queue), delivery(state)]
    return [finding for finding in found if finding.verdict in {"warn", "fail"}]


def _fallbacks(state: Snapshot) -> Iterator[Finding]:
    """What the agent uses in place of its config and its state directory."""
    if (config := state.config) is not None:
        said = f"the last good config is in effect: {config.last_error}"
        yield failed("config", said, f"correct the config, then {RELOAD}")
    if (storage := state.storage) is not None and storage.state == "runtime":
        yield failed("state directory", storage.last_error, storage.remedy)


def _receiver(receiver: ReceiverView) -> Iterator[Finding]:
    state = receiver.state
    match state:
        case "2d" | "3d":
            yield measured(state.upper(), receiver.quality)
        case "no-fix" | "no-date" if receiver.message:
            yield failed("fix", receiver.message, receiver.remedy or "")
        case "no-fix":
            signals = [one.snr_db or 0 for one in receiver.satellites]
            yield no_fix(signals, reports_satellites=True)
        case "no-date":
            said = "the receiver sends positions, but no date"
            yield failed("fix", said, "wait until it has received satellites for some minutes")
        case _:
            yield failed(
                "sentences" if state in {"silent", "wrong-baud", "binary"} else "device",
                receiver.message or f"{receiver.source} is {state}",
                receiver.remedy or "check the receiver's wiring and power, and gps.source",
            )
    yield antenna(receiver.antenna)
