"""All checks in the order of the data's path, and the parts that they look at."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from telemetry_agent import addresses
from telemetry_agent.clock import Clock
from telemetry_agent.config import loader
from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon import client
from telemetry_agent.daemon.builders import source_of
from telemetry_agent.doctor.agent_checks import RESTART, AgentChecks, Ask, TapSource
from telemetry_agent.doctor.endpoint import CREDENTIALS, EndpointChecks
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.listening import Patience
from telemetry_agent.doctor.permissions import HIDDEN, SERVICE_USER
from telemetry_agent.doctor.receiver import ReceiverChecks
from telemetry_agent.doctor.reception import LISTENED
from telemetry_agent.doctor.runner import Check, findings
from telemetry_agent.doctor.storage import StorageChecks
from telemetry_agent.errors import AgentError
from telemetry_agent.gnss.sources import Source
from telemetry_agent.snapshot import Snapshot, read

_ALL_S = 12.0  # a small board takes its time to start and to end beside that
_LISTEN_S = 11.5  # the search for a line's speed may take that long


@dataclass(frozen=True)
class Machine:
    """What the checks look at, where that is not in the config."""

    clock: Clock = field(default_factory=Clock)
    root: Path = Path("/")
    """Where /dev, /proc and /sys are."""
    resolve: addresses.Resolve = addresses.resolve
    ask: Ask = client.ask
    user: str = SERVICE_USER
    """Who runs the service."""
    hidden: tuple[Path, ...] = HIDDEN
    """What the service does not see."""
    patience: Patience = field(default_factory=Patience)


def examine(
    config_path: Path | None, site: Machine | None = None, *, send: bool = False
) -> Iterator[Finding]:
    """Check everything; takes less than 15 s. Every name is reported, whatever failed.

    ``send``: the endpoint is sent the newest recorded fix again, and what it must refuse.
    """
    try:
        loaded = loader.load(config_path)
    except AgentError as error:
        said = f"{error.message}{_meanwhile()}"
        if isinstance(error.__context__, PermissionError):
            yield warned("config", said, error.remedy)
        else:
            check = "correct it; `sudo telemetry-agent config check` reports when it is right"
            yield failed("config", said, error.remedy or check)
        yield from (skipped(name, "needs config") for name in NAMES[1:])
        return
    files = ", ".join(loaded.texts) or "the environment"
    said = f"{files}, for the device {loaded.settings.device}"
    if loaded.notes:
        yield warned("config", said, "; ".join(loaded.notes))
    else:
        yield passed("config", said)
    yield from findings(_checks(loaded.settings, site or Machine(), send=send), limit_s=_ALL_S)


def _meanwhile() -> str:
    """What the service does while the config does not work."""
    try:
        status = read(Snapshot, next(client.ask(None, {"ask": "status"})))
    except AgentError:
        return ""
    return (
        f"; the service runs all the same (receiver {status.receiver.state}, uploads "
        f"{status.upload.state})"
    )


def _files(settings: Settings, agent: AgentChecks) -> Iterator[Finding]:
    """Can the agent read what else the config names: ``files``."""
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
                remedy = f"have it written where {who} may read it, not in a home or /tmp"
            yield (failed if key == "gps.source" else warned)(name, found.message, remedy)
            return
        try:
            path.stat()
        except OSError as error:
            remedy = "use sudo" if isinstance(error, PermissionError) else f"correct {key}"
            yield warned(name, f"{key}: {path}: {error.strerror}", remedy)
            return
    readable = f"readable: {', '.join(named)}"
    yield passed(name, readable) if named else skipped(name, "the config names none")


def _checks(settings: Settings, site: Machine, *, send: bool) -> list[Check]:
    gps, upload, path = settings.gps, settings.upload, settings.queue.path
    if os.access(CREDENTIALS, os.X_OK):
        os.environ.setdefault("CREDENTIALS_DIRECTORY", CREDENTIALS)
    agent = AgentChecks(path, site.ask, site.user, site.hidden)

    def source() -> Source:
        if agent.status is not None:
            return TapSource(path, site.patience.silent_s, site.ask, gps)
        return source_of(gps, baud_file=None)

    receiver = ReceiverChecks(
        gps, agent, source, clock=site.clock, patience=site.patience, root=site.root
    )
    storage = StorageChecks(path, agent, clock=site.clock, root=site.root)
    endpoint = EndpointChecks(
        upload,
        settings.device,
        agent,
        resolve=site.resolve,
        clock=site.clock,
        newest=storage.newest,
        send=send,
    )
    hung_disk = (
        "the disk does not answer",
        "the disk or a network file system hangs: see `sudo dmesg`",
    )
    hung_port = ("the port does not close", "unplug the receiver and plug it in again")
    return [
        Check(("agent",), agent.examine, overdue=("the agent does not answer", RESTART)),
        Check(("device", "permissions"), receiver.port, ("agent",)),
        Check(
            ("port in use", *LISTENED),
            receiver.listen,
            ("device", "permissions"),
            _LISTEN_S,
            hung_port,
        ),
        Check(("state directory",), storage.folder, ("agent",), overdue=hung_disk),
        Check(("file system", "disk space"), storage.disk, overdue=hung_disk),
        Check(("queue",), storage.queue, ("state directory",), 7.0, hung_disk),
        Check(("files",), lambda: _files(settings, agent), ("agent",)),
        *endpoint.checks(("agent",)),
        Check(("delivery",), agent.delivery, ("agent",)),
    ]


NAMES = (
    "config",
    "agent",
    "device",
    "permissions",
    "port in use",
    *LISTENED,
    "state directory",
    "file system",
    "disk space",
    "queue",
    "files",
    "credentials",
    "name",
    "tcp",
    "tls",
    "authentication",
    "answer",
    "proof",
    "delivery",
)
"""Everything that is reported, in the order of the data's path."""
