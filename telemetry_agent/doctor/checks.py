"""All checks in the order of the data's path."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from telemetry_agent.config import loader
from telemetry_agent.config.settings import Settings, UploadSettings
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
from telemetry_agent.errors import JOIN, Advice, AgentError

_ALL_S = 12.0  # starting and ending the program takes a small board more time
_AGENT_S = 3.0  # the receiver and the queue wait for its answer


def examine(
    config_path: Path | None, machine: Machine | None = None, *, send: bool = False
) -> Iterator[Finding]:
    """Check everything, in less than 15 s. Every name is reported, whatever failed.

    ``send``: send the endpoint the newest recorded fix again, and requests that it must refuse.
    """
    try:
        loaded = loader.load(config_path)
    except AgentError as error:
        if error.remedy == JOIN:
            found = warned(error.message, JOIN)
        else:
            check = "correct it; `sudo telemetry-agent config check` reports when it is valid"
            found = failed(error.message, error.remedy or check)
        yield replace(found, name="config")
        yield from (replace(skipped("needs config"), name=name) for name in NAMES[1:])
        return
    files = ", ".join(loaded.texts) or "the environment"
    said = f"{files}, for the device {loaded.settings.device}"
    found = warned(said, "; ".join(loaded.notes)) if loaded.notes else passed(said)
    yield replace(found, name="config")
    # systemd names this folder only to the service itself; root may read it too.
    if os.access(CREDENTIALS, os.X_OK):
        os.environ.setdefault("CREDENTIALS_DIRECTORY", CREDENTIALS)
    checks = _checks(loaded.settings, machine or Machine(), config_path, send=send)
    yield from run_checks(checks, limit_s=_ALL_S)


def _files(settings: Settings, agent: AgentChecks) -> Finding:
    """``files``: can the agent read the other files that the config names."""
    gps, page = settings.gps.source, settings.page
    files = {"page.token_file": page.token_file, "page.map": page.map}
    files |= {f"extra.{key}": one.file for key, one in settings.extra.files.items()}
    if gps.startswith("file://"):
        files["gps.source"] = Path(gps.removeprefix("file://"))
    named = {key: path for key, path in files.items() if path is not None}
    for key, path in named.items():
        if (found := agent.unreadable(key, path)) is not None:
            if key == "gps.source":
                return failed(*found)
            remedy = found.remedy
            if key.startswith("extra."):
                who = agent.account.name
                remedy = f"write it where {who} may read it, not below a home folder or /tmp"
            return warned(found.message, remedy)
        try:
            path.stat()
        except OSError as error:
            remedy = "use sudo" if isinstance(error, PermissionError) else f"correct {key}"
            return warned(f"{key}: {path}: {error.strerror}", remedy)
    if not named:
        return skipped("the config names none")
    return passed(f"readable: {', '.join(named)}")


def _checks(
    settings: Settings, machine: Machine, config_path: Path | None, *, send: bool
) -> list[Check]:
    agent = AgentChecks(settings.queue.path, machine, config_path=config_path)
    receiver = ReceiverChecks(settings.gps, agent)
    storage = StorageChecks(settings.queue.path, agent)
    newest = storage.newest if send else None
    endpoint = EndpointChecks(settings.upload, settings.device, agent, newest)
    hung_agent = Advice("the agent does not answer", RESTART)
    hung_port = Advice("the port does not close", "unplug the receiver and plug it in again")
    hung_disk = Advice(
        "the disk does not answer", "the disk or a network file system hangs: see `sudo dmesg`"
    )
    return [
        Check(("agent",), agent.examine, (), hung_agent, _AGENT_S),
        Check(("device", "permissions"), receiver.port, ("agent",)),
        Check(("port in use", *LISTENED), receiver.listen, ("device", "permissions"), hung_port),
        Check(("state directory",), storage.folder, ("agent",), hung_disk),
        Check(("file system", "disk space"), storage.disk, (), hung_disk),
        Check(("queue",), storage.queue, ("state directory",), hung_disk),
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
