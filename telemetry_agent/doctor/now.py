"""What is wrong by the agent's own status, in the doctor's words: for the device page.

It opens nothing and asks nobody, so it can be looked at each second. ``checks.examine`` looks at
the machine as well.
"""

from collections.abc import Iterator
from pathlib import Path

from telemetry_agent.clock import span
from telemetry_agent.doctor import disk
from telemetry_agent.doctor.findings import Finding, failed, passed, warned
from telemetry_agent.doctor.reception import antenna, no_fix, unreal
from telemetry_agent.snapshot import QueueView, ReceiverView, Snapshot

_BY_THE_DISK = {"damaged", "memory"}
"""The reasons for a loss that nobody asked for."""


def findings(state: Snapshot, queue_path: Path | None, root: Path = Path("/")) -> list[Finding]:
    """What has to be looked at, in the order of the data's path; empty: all is well.

    Args:
        state: what ``Status.snapshot`` returns.
        queue_path: the queue; ``None``: its disk does not matter.
        root: where the machine's /proc is.
    """
    found = [*makeshift(state), *_receiver(state.receiver)]
    if queue_path is not None:
        place = queue_path.parent.resolve()
        if state.storage is None or state.storage.state != "runtime":
            found.append(disk.file_system(place, root))
        found.append(disk.space(place))
    found += [queue(state.queue), delivery(state)]
    return [finding for finding in found if finding.verdict in {"warn", "fail"}]


def makeshift(state: Snapshot) -> Iterator[Finding]:
    """What serves in place of the config and of the state directory."""
    if (config := state.config) is not None:
        yield failed(
            "config",
            f"it runs by the last good config; {config.last_error}",
            "correct the config, then `sudo systemctl reload telemetry-agent`",
        )
    if (storage := state.storage) is not None and storage.state == "runtime":
        yield failed("state directory", storage.last_error, storage.remedy)


def _receiver(receiver: ReceiverView) -> Iterator[Finding]:
    state = receiver.state
    match state:
        case "2d" | "3d":
            yield unreal(state.upper(), receiver.quality)
        case "no-fix" | "no-date" if receiver.message:
            yield failed("fix", receiver.message, receiver.remedy or "")
        case "no-fix":
            yield no_fix([one.snr_db or 0 for one in receiver.satellites], tells=True)
        case "no-date":
            yield failed("fix", "positions, but no date", "wait: the date comes with the sky")
        case _:
            yield failed(
                "sentences" if state in {"silent", "wrong-baud", "binary"} else "device",
                receiver.message or f"{receiver.source} is {state}",
                receiver.remedy or "check the receiver's wiring and power, and gps.source",
            )
    yield antenna(receiver.antenna)


def queue(queue: QueueView) -> Finding:
    """How the running agent's queue does: it checks each position that it sends."""
    said = f"{_waiting(queue)}, {queue.delivered} delivered ones are kept"
    lost = ", ".join(
        f"{count} {reason}" for reason, count in queue.lost.items() if reason in _BY_THE_DISK
    )
    if lost:
        return warned(
            "queue", f"{said}; lost: {lost}", "the disk loses data or refuses it: replace it"
        )
    if queue.full:
        said += "; it is full, and discards what is missed least"
        remedy = "let it reach its endpoint; or set a larger queue.max_size, or free the disk"
        return warned("queue", said, remedy)
    if dead := sum(queue.dead_letters.values()):
        remedy = (
            "`sudo telemetry-agent queue list --state ack_failed` says why; "
            "`sudo telemetry-agent queue retry --all` sends them again"
        )
        return warned("queue", f"{said}; the endpoint refused {dead}", remedy)
    return passed("queue", said)


def _waiting(queue: QueueView) -> str:
    return "1 position waits" if queue.pending == 1 else f"{queue.pending} positions wait"


def delivery(state: Snapshot) -> Finding:
    """How the running agent's uploads do."""
    upload = state.upload
    waiting = _waiting(state.queue)
    ago_s = upload.last_delivery_s
    last = "nothing delivered yet" if ago_s is None else f"last delivery {span(ago_s)} ago"
    said = f"{upload.state}: {last}, {waiting}"
    if upload.complete_until is not None:
        said += f", complete at the endpoint until {upload.complete_until}"
    match upload.state:
        case "ok":
            return passed("delivery", said)
        case "held":
            return failed(
                "delivery",
                f"held: {upload.last_error or 'no reason known'}; {waiting}",
                "correct the set-up, then `sudo systemctl reload telemetry-agent`",
            )
        case _:
            if error := upload.last_error:
                said += f"; {error}"
            return warned("delivery", said, "nothing is lost, it continues by itself")
