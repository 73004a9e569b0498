"""``service install | uninstall``: the systemd unit, for an installation by pip, pipx or uv.

A Debian package provides all of it itself. Each file that is written here says so in its first
line, and only such files are removed again.
"""

import contextlib
import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import click

from telemetry_agent.config.files import DEFAULT_PATHS, QUEUE_PATH, STATE_DIRECTORY
from telemetry_agent.config.subprocess_loader import run_module
from telemetry_agent.doctor.permissions import HIDDEN
from telemetry_agent.doctor.unit import UNIT, is_masked, switch_on, unit_file
from telemetry_agent.errors import AgentError, UsageError, counted

_NAME = "telemetry-agent"
_MARK = "# Written by `telemetry-agent service install`; `service uninstall` removes it.\n"
_OF_A_PACKAGE = Path("/usr/lib/systemd/system", UNIT)
_TMPFILES = Path("/etc/tmpfiles.d/telemetry-agent.conf")
_FILES = {
    UNIT: Path("/etc/systemd/system", UNIT),
    "sysusers.d/telemetry-agent.conf": Path("/etc/sysusers.d/telemetry-agent.conf"),
    "tmpfiles.d/telemetry-agent.conf": _TMPFILES,
}
_LINK = Path("/usr/local/bin", _NAME)
_CONFIG = DEFAULT_PATHS[0].parent
_RUNTIME_DIRECTORY = Path("/run/telemetry-agent")
_CREDENTIALS = ("token", "password", "client_key", "page_token")
SERVICE_LOG = f"`sudo journalctl -u {UNIT}`"


@click.group()
def command() -> None:
    """The systemd service, for an installation by pip, pipx or uv."""


@command.command()
def install() -> None:
    """Write the unit, its user and its folders, and enable it. It starts once there is a config."""
    _need_root_and_systemd("install")
    install_service()
    click.echo(f"{UNIT} is installed and enabled")
    if not DEFAULT_PATHS[0].exists():
        click.echo("Next: sudo telemetry-agent init")


@command.command()
@click.option("--purge", is_flag=True, help="Delete the queue, the config and the user as well.")
def uninstall(*, purge: bool) -> None:
    """Stop the service and remove its unit. The queue and the config stay, without --purge."""
    _need_root_and_systemd("uninstall")
    unit, has_package = _FILES[UNIT], _OF_A_PACKAGE.exists()
    if has_package and (purge or not _is_ours(unit)):
        raise AgentError(f"the Debian package provides {UNIT}: `apt remove` or `apt purge` it")
    if unit.exists():
        if not _is_ours(unit):
            raise AgentError(f"{unit} was not written by `service install`: nothing was removed")
        _run("systemctl", "disable", "--now", UNIT)
        _remove_link()
        for path in filter(_is_ours, _FILES.values()):
            path.unlink()
        _run("systemctl", "daemon-reload")
        if has_package:
            _run("systemctl", "enable", "--now", UNIT)
            click.echo(f"{unit} was removed: the service of the Debian package is in effect")
            return
    elif not purge:
        raise AgentError("the service is not installed: --purge deletes what it left behind")
    if purge:
        _purge()
    else:
        click.echo(
            f"{UNIT} was removed; {STATE_DIRECTORY} and {_CONFIG} stay (--purge deletes them)"
        )


def install_service() -> None:
    """Write everything, make the user, enable the unit.

    Raises:
        AgentError: this installation cannot be a service, or the system refused something.
    """
    if _OF_A_PACKAGE.exists():
        raise AgentError(f"the Debian package provides {_OF_A_PACKAGE}: nothing to do")
    if fault := unfit((Path(sys.prefix), Path(sys.executable).resolve(), program())):
        raise AgentError(fault)
    source = _source()
    _remove_link()
    found = shutil.which(_NAME, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
    ends = {} if found else {_TMPFILES: f"L {_LINK} - - - - {program()}\n"}
    for name, path in _FILES.items():
        if path.exists() and not _is_ours(path):
            raise AgentError(f"{path} was not written by `service install`: move it away first")
        text = (source / name).read_text("utf-8")
        text = text.replace(f"ExecStart=/usr/bin/{_NAME}", f"ExecStart={program()}")
        _write(path, _MARK + text + ends.get(path, ""))
    _run("systemd-sysusers", _FILES["sysusers.d/telemetry-agent.conf"].name)
    _run("systemd-tmpfiles", "--create", _TMPFILES.name)
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", UNIT)


def has_unit() -> bool:
    """Whether the service is installed and systemd runs."""
    return has_systemd() and unit_file() is not None


def start_service() -> None:
    """Enable it, and start it with the config as it is now.

    Raises:
        AgentError: systemd refused.
    """
    if is_masked():
        raise AgentError(f"{UNIT} is masked, so systemd does not start it", switch_on())
    for verb in ("enable", "restart"):
        _run("systemctl", verb, UNIT, remedy=f"{SERVICE_LOG} says why")


def program() -> Path:
    """The command of this installation."""
    return Path(sysconfig.get_path("scripts"), _NAME)


def unfit(paths: Sequence[Path]) -> str | None:
    """Why the service could not run what is at ``paths``, and the remedy."""
    for path in paths:
        if hidden := next((each for each in HIDDEN if path.is_relative_to(each)), None):
            return (
                f"{path} is below {hidden}, which the service cannot see: "
                f"`sudo pipx install --global '{_NAME}[page]'`, then "
                f"`sudo {_LINK} service install`"
            )
        if not path.exists():
            return f"{path} does not exist: install telemetry-agent with pip, pipx or uv"
    return None


def _source() -> Path:
    """Where the unit is: in the wheel beside this package, in a checkout at its top."""
    package = Path(__file__).parents[1]
    inside = package / "systemd"
    return inside if inside.is_dir() else package.parent / "systemd"


def _need_root_and_systemd(what: str) -> None:
    if os.geteuid():
        raise UsageError(f"service {what} needs root: use sudo")
    if not has_systemd():
        raise AgentError("systemd is not running: start `telemetry-agent run` in another way")


def has_systemd() -> bool:
    """Whether systemd runs this machine."""
    return Path("/run/systemd/system").is_dir()


def _purge() -> None:
    click.echo(f"deleting {STATE_DIRECTORY} with {_undelivered()}, and {_CONFIG}")
    drop_ins = Path(f"/etc/systemd/system/{UNIT}.d")
    for folder in (STATE_DIRECTORY, _RUNTIME_DIRECTORY, _CONFIG, drop_ins):
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for name in _CREDENTIALS:
        Path(f"/etc/credstore/{_NAME}.{name}").unlink(missing_ok=True)
    with contextlib.suppress(KeyError):
        pwd.getpwnam(_NAME)
        _run("userdel", _NAME)
        grp.getgrnam(_NAME)  # userdel keeps it for the users who joined it
        _run("groupdel", _NAME)


def _undelivered() -> str:
    """How many fixes wait; a process of its own looks, as it becomes the queue's owner for good."""
    waiting = 0
    for queue in filter(Path.exists, (QUEUE_PATH, _RUNTIME_DIRECTORY / QUEUE_PATH.name)):
        os.environ["TELEMETRY_AGENT_QUEUE__PATH"] = str(queue)
        done = run_module("telemetry_agent", "queue", "stats", "--json")
        if done.returncode:
            return "an unknown number of undelivered fixes"
        stats = json.loads(done.stdout)
        waiting += stats["ready"] + stats["unack"]
    return counted(waiting, "undelivered fix")


def _remove_link() -> None:
    """The link in /usr/local/bin, if it is ours: pipx and uv make one of their own there."""
    if _is_ours(_TMPFILES) and f"L {_LINK} " in _TMPFILES.read_text("utf-8"):
        _LINK.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.read_text("utf-8").startswith(_MARK)
    return False


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise AgentError(f"cannot write {path}: {error.strerror}") from error


def _run(*argv: str, remedy: str = "") -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    except OSError as error:
        raise AgentError(f"cannot run {argv[0]}: {error.strerror}") from error
    if done.returncode:
        said = f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}"
        raise AgentError(said, remedy)
