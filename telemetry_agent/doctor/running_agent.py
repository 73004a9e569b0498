"""What is wrong by the running agent's own status, and the checks as its device page runs them.

``faults`` opens only the mount table and asks nobody, so the page can look once a second. The full
checks run in a process of their own: they import what the agent does not need, and what hangs in
them ends with it. That process finds the queue locked by the agent, so it asks the agent for the
receiver's data and never opens the receiver.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from telemetry_agent.clock import span
from telemetry_agent.disks import ELSEWHERE, SURVIVES, mount_of, size, trouble
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.reception import antenna, measured, no_fix
from telemetry_agent.errors import AgentError
from telemetry_agent.snapshot import QueueView, ReceiverView, Snapshot

RELOAD = "`sudo systemctl reload telemetry-agent`"
FREE_SPACE = "free space: `sudo du -xh / | sort -h | tail` shows what takes it"

_LIMIT_S = 40.0  # the checks end by themselves after 15 s; a small board takes long to start
_LITTLE_BYTES = 64 << 20
_NOTHING_BYTES = 4 << 20
_BY_THE_DISK = {"damaged", "memory"}
"""The reasons for a loss that nobody asked for."""


class AgentDoctor:
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


def file_system(place: Path, root: Path) -> Finding:
    """``file system``: does what is written at ``place``, a path without links, survive.

    Args:
        place: a folder.
        root: where the machine's /proc is.
    """
    name = "file system"
    mount = mount_of(place, root)
    if mount is None:
        return skipped(name, "/proc does not show it")
    said = f"{place} is on {mount.kind} ({mount.point})"
    if (found := trouble(mount, root)) is not None:
        return failed(name, f"{said}, {found.message}", found.remedy)
    if mount.kind not in SURVIVES | {"overlay"}:
        return warned(name, f"{said}, which may not survive power cuts", ELSEWHERE)
    return passed(name, said)


def disk_space(place: Path) -> Finding:
    """``disk space``: is there room to record."""
    name = "disk space"
    try:
        disk = os.statvfs(place)
    except OSError as error:
        return failed(name, f"{place}: {error.strerror}", "see the check of the state directory")
    free = disk.f_bavail * disk.f_frsize
    said = f"{size(free)} of {size(disk.f_blocks * disk.f_frsize)} free"
    if free < _NOTHING_BYTES:
        return failed(name, f"{said}: nothing more can be recorded", FREE_SPACE)
    if disk.f_files and not disk.f_favail:
        return failed(name, f"{said}, but no file can be created (no free inodes)", FREE_SPACE)
    if free < _LITTLE_BYTES:
        return warned(name, f"{said}: the disk is almost full", FREE_SPACE)
    return passed(name, said)


def queue(queue: QueueView) -> Finding:
    """``queue``, which the running agent checks itself: each position when it sends it."""
    said = f"{_waiting(queue)}, {queue.delivered} delivered ones are kept"
    lost = ", ".join(
        f"{count} {reason}" for reason, count in queue.lost.items() if reason in _BY_THE_DISK
    )
    if lost:
        remedy = "the disk loses or refuses data: replace it"
        return warned("queue", f"{said}; lost: {lost}", remedy)
    if queue.full:
        said += "; it is full: queue.when_full decides what is discarded"
        remedy = (
            "restore the connection to the endpoint, set a larger queue.max_size, or free disk "
            "space"
        )
        return warned("queue", said, remedy)
    if dead := sum(queue.dead_letters.values()):
        remedy = (
            "`sudo telemetry-agent queue list --state ack_failed` shows the reasons; "
            "`sudo telemetry-agent queue retry --all` sends them again"
        )
        return warned("queue", f"{said}; the endpoint refused {dead}", remedy)
    return passed("queue", said)


def _waiting(queue: QueueView) -> str:
    return "1 position waits" if queue.pending == 1 else f"{queue.pending} positions wait"


def delivery(state: Snapshot) -> Finding:
    """``delivery``: the state of the running agent's uploads."""
    upload, waiting = state.upload, _waiting(state.queue)
    ago_s = upload.last_delivery_s
    last = "nothing delivered yet" if ago_s is None else f"last delivery {span(ago_s)} ago"
    said = f"{upload.state}: {last}, {waiting}"
    if upload.complete_until is not None:
        said += f", complete at the endpoint until {upload.complete_until}"
    if upload.state == "ok":
        return passed("delivery", said)
    if upload.state == "held":
        said = f"held: {upload.last_error or 'for an unknown reason'}; {waiting}"
        return failed("delivery", said, f"correct the set-up, then {RELOAD}")
    if upload.last_error:
        said += f"; {upload.last_error}"
    return warned("delivery", said, "nothing is lost; the agent tries again by itself")
