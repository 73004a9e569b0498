"""All checks in the order of the data's path."""

import os
from collections.abc import Iterator
from pathlib import Path

from telemetry_agent.config import loader
from telemetry_agent.config.settings import Settings, UploadSettings
from telemetry_agent.daemon import client
from telemetry_agent.doctor.agent_checks import RESTART, AgentChecks, Machine
from telemetry_agent.doctor.endpoint import CREDENTIALS, EndpointChecks
from telemetry_agent.doctor.findings import (
    Check,
    Finding,
    failed,
    passed,
    run_checks,
    skipped,
    warned,
)
from telemetry_agent.doctor.receiver import ReceiverChecks
from telemetry_agent.doctor.reception import LISTENED
from telemetry_agent.doctor.storage import StorageChecks
from telemetry_agent.errors import JOIN, AgentError
from telemetry_agent.snapshot import Snapshot, read

_ALL_S = 12.0  # starting and ending the program takes a small board more time
_LISTEN_S = 11.5  # the search for the baud rate may take that long


def examine(
    config_path: Path | None, machine: Machine | None = None, *, send: bool = False
) -> Iterator[Finding]:
    """Check everything, in less than 15 s. Every name is reported, whatever failed.

    ``send``: send the endpoint the newest recorded fix again, and requests that it must refuse.
    """
    try:
        loaded = loader.load(config_path)
    except AgentError as error:
        said = f"{error.message}{_meanwhile()}"
        if error.remedy == JOIN:
            yield warned("config", said, JOIN)
        else:
            check = "correct it; `sudo telemetry-agent config check` reports when it is valid"
            yield failed("config", said, error.remedy or check)
        yield from (skipped(name, "needs config") for name in NAMES[1:])
        return
    files = ", ".join(loaded.texts) or "the environment"
    said = f"{files}, for the device {loaded.settings.device}"
    if loaded.notes:
        yield warned("config", said, "; ".join(loaded.notes))
    else:
        yield passed("config", said)
    # systemd names this folder only to the service itself; root may read it too.
    if os.access(CREDENTIALS, os.X_OK):
        os.environ.setdefault("CREDENTIALS_DIRECTORY", CREDENTIALS)
    checks = _checks(loaded.settings, machine or Machine(), config_path, send=send)
    yield from run_checks(checks, limit_s=_ALL_S)


def _meanwhile() -> str:
    """What the service does while the config is invalid."""
    try:
        status = read(Snapshot, next(client.ask(None, {"ask": "status"})))
    except AgentError:
        return ""
    states = f"receiver {status.receiver.state}, uploads {status.upload.state}"
    return f"; the service still runs ({states})"


def _files(settings: Settings, agent: AgentChecks) -> Iterator[Finding]:
    """``files``: can the agent read the other files that the config names."""
    name, gps, page = "files", settings.gps.source, settings.page
    files = {"page.token_file": page.token_file, "page.map": page.map}
    files |= {f"extra.{key}": one.file for key, one in settings.extra.files.items()}
    if gps.startswith("file://"):
        files["gps.source"] = Path(gps.removeprefix("file://"))
    named = {key: path for key, path in files.items() if path is not None}
    for key, path in named.items():
        if (found := agent.unreadable(key, path)) is not None:
            remedy = found.remedy
            if key.startswith("extra."):
                who = agent.account.name
                remedy = f"write it where {who} may read it, not below a home folder or /tmp"
            yield (failed if key == "gps.source" else warned)(name, found.message, remedy)
            return
        try:
            path.stat()
        except OSError as error:
            remedy = "use sudo" if isinstance(error, PermissionError) else f"correct {key}"
            yield warned(name, f"{key}: {path}: {error.strerror}", remedy)
            return
    if named:
        yield passed(name, f"readable: {', '.join(named)}")
    else:
        yield skipped(name, "the config names none")


def _checks(
    settings: Settings, machine: Machine, config_path: Path | None, *, send: bool
) -> list[Check]:
    agent = AgentChecks(settings.queue.path, machine, config_path=config_path)
    receiver = ReceiverChecks(settings.gps, agent)
    storage = StorageChecks(settings.queue.path, agent)
    endpoint = EndpointChecks(
        settings.upload, settings.device, agent, newest=storage.newest, send=send
    )
    hung_agent = ("the agent does not answer", RESTART)
    hung_port = ("the port does not close", "unplug the receiver and plug it in again")
    hung_disk = (
        "the disk does not answer",
        "the disk or a network file system hangs: see `sudo dmesg`",
    )
    port = ("device", "permissions")
    return [
        Check(("agent",), agent.examine, overdue=hung_agent),
        Check(port, receiver.port, ("agent",)),
        Check(("port in use", *LISTENED), receiver.listen, port, _LISTEN_S, hung_port),
        Check(("state directory",), storage.folder, ("agent",), overdue=hung_disk),
        Check(("file system", "disk space"), storage.disk, overdue=hung_disk),
        Check(("queue",), storage.queue, ("state directory",), 7.0, hung_disk),
        Check(("files",), lambda: _files(settings, agent), ("agent",)),
        *endpoint.checks(("agent",)),
        Check(("delivery",), agent.delivery, ("agent",)),
    ]


_ANY_CONFIG = Settings(device="x", upload=UploadSettings(url="http://localhost/"))
NAMES = (
    "config",
    *(name for check in _checks(_ANY_CONFIG, Machine(), None, send=False) for name in check.names),
)
"""Everything that is reported, in the order of the data's path, with every config."""
