"""All checks in the order of the data's path."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from telemetry_agent.config import loader
from telemetry_agent.config.files import DEFAULT_PATHS
from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon.delivery import host_of
from telemetry_agent.doctor import endpoint_checks, receiver_checks, storage_checks
from telemetry_agent.doctor.agent_checks import RESTART, AgentChecks, Machine
from telemetry_agent.doctor.endpoint_checks import EndpointChecks
from telemetry_agent.doctor.findings import (
    Check,
    Finding,
    failed,
    passed,
    run_checks,
    single,
    skipped,
    warned,
)
from telemetry_agent.doctor.permissions import owner_of
from telemetry_agent.doctor.receiver_checks import ReceiverChecks
from telemetry_agent.doctor.storage_checks import StorageChecks
from telemetry_agent.errors import JOIN, Advice, AgentError, ConfigError, in_shell
from telemetry_agent.page.map_file import open_map
from telemetry_agent.secrecy import see_service_credentials

_CONFIG_FOLDER = DEFAULT_PATHS[0].parent
_ALL_S = 12.0  # starting and ending the program takes a small board more time
_AGENT_S = 3.0  # the other checks wait for its answer

NAMES = (
    "config",
    "agent",
    *receiver_checks.NAMES,
    *storage_checks.NAMES,
    "files",
    *endpoint_checks.NAMES,
    "delivery",
)
"""Everything that is reported, in the order of the data's path, with every config."""


def examine(
    config_path: Path | None, machine: Machine | None = None, *, send: bool = False
) -> Iterator[Finding]:
    """Check everything, in less than 15 s. Every name is reported, whatever failed.

    ``send``: send the endpoint the newest recorded fix again, and requests that it must refuse.
    """
    see_service_credentials()
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
    agent = AgentChecks(loaded.settings.queue.path, machine, config_path=config_path)
    found = warned(said, "; ".join(loaded.notes)) if loaded.notes else passed(said)
    for blocked in filter(None, map(agent.account.blocked_at, map(Path, loaded.texts))):
        if agent.is_service and blocked.is_relative_to(_CONFIG_FOLDER):
            who = agent.account.name
            said = f"{who} may not read {blocked} ({owner_of(blocked)})"
            found = failed(said, f"`sudo chown {who}: {in_shell(blocked)}`")
    yield replace(found, name="config")
    clock = agent.machine.clock
    until_s = clock.monotonic_s() + _ALL_S
    mute = Advice("the agent does not answer", agent.again(RESTART))
    first = single("agent", agent.examine, mute)
    (found,) = run_checks([first], limit_s=_AGENT_S)
    yield _with_this_config(found, agent, loaded.settings)
    agent.note(found)
    others = _others(loaded.settings, agent, send=send)
    yield from run_checks(others, limit_s=until_s - clock.monotonic_s())


def _with_this_config(found: Finding, agent: AgentChecks, settings: Settings) -> Finding:
    """``agent``, which passes only if the agent has the settings that are checked here."""
    status = agent.status
    if status is None or found.verdict != "pass":
        return found
    used = {
        "device": (status.device, settings.device),
        "upload.url": (status.upload.host, host_of(settings)),
        "gps.source": (status.receiver.source, settings.gps.source),
    }
    if not settings.gps.source.startswith("/"):  # the agent may name what it found there
        del used["gps.source"]
    for key, (its, ours) in used.items():
        if its and its != ours:
            said = f"{found.said}, but with another {key} than this config: {its}"
            remedy = (
                f"{agent.again()}; if it stays so, its environment sets a variable "
                "TELEMETRY_AGENT_…"
            )
            return replace(found, verdict="warn", said=said, remedy=remedy)
    return found


def _others(settings: Settings, agent: AgentChecks, *, send: bool) -> list[Check]:
    gps = ReceiverChecks(settings.gps, agent)
    disk = StorageChecks(settings.queue.path, agent)
    newest = disk.newest if send else None
    upload = EndpointChecks(settings.upload, settings.device, agent, newest)
    hung_port = Advice("the port does not close", "unplug the receiver and plug it in again")
    hung_disk = Advice(
        "the disk does not answer", "the disk or a network file system hangs: see `sudo dmesg`"
    )
    return [
        Check(receiver_checks.NAMES, gps.check, hung_port),
        Check(storage_checks.NAMES, disk.check, hung_disk),
        single("files", lambda: _files(settings, agent)),
        Check(endpoint_checks.NAMES, upload.check),
        single("delivery", agent.delivery),
    ]


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
            if key == "page.map":
                open_map(path).close()
        except (OSError, ConfigError) as error:
            is_forbidden = isinstance(error.__cause__ or error, PermissionError)
            said = f"{key}: {path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            return warned(said, "use sudo" if is_forbidden else f"correct {key}")
    if not named:
        return skipped("the config names none")
    return passed(f"readable: {', '.join(named)}")
