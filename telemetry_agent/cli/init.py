"""``init``: from nothing to the first position delivered."""

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from telemetry_agent.cli import service
from telemetry_agent.cli.first_fix import agent_status, shows_delivery
from telemetry_agent.cli.options import duration, toml_string
from telemetry_agent.clock import Clock
from telemetry_agent.config import loader
from telemetry_agent.config.files import DEFAULT_PATHS, QUEUE_PATH, queue_path
from telemetry_agent.config.settings import Settings
from telemetry_agent.config.values import SERIAL_NUMBER, SHARED_NAMES
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.endpoint_checks import NAMES, EndpointChecks
from telemetry_agent.doctor.findings import Check, Finding, run_checks
from telemetry_agent.doctor.permissions import SERVICE_USER
from telemetry_agent.doctor.reception import LISTENED, Patience, listened
from telemetry_agent.doctor.servers import SERVERS, completed, server_by_answer, server_by_url
from telemetry_agent.doctor.unit import switch_on
from telemetry_agent.errors import AgentError, ConfigError, UsageError, in_shell
from telemetry_agent.gnss.sources.machine import find_receivers
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.small_files import read_small_file

_LISTEN_S = 60.0  # to find an unknown baud rate takes time
_TRIAL_S = 12.0
_RESULTS = {"fix", "answer"}
_MODE = 0o640  # users add secrets to it
_NEEDS_TOKEN = {"dawarich": "API key", "influxdb2": "token"}


@dataclass(frozen=True)
class _Answers:
    """What the config is made of."""

    device: str = "{hostname}"
    source: str = "auto"
    baud: int | None = None
    server: str = "native"
    url: str = "http://localhost/"
    token_file: Path | None = None
    queue: Path | None = None

    def text(self) -> str:
        """The config."""
        lines = [
            "# Written by telemetry-agent init. Every key is described in config.example.toml",
            "# (Debian package: /usr/share/doc/telemetry-agent/examples/config.toml).",
            f"device = {toml_string(self.device)}",
            "",
            "[gps]",
            f"source = {toml_string(self.source)}",
        ]
        if self.baud is not None:
            lines.append(f"baud = {self.baud}")
        if self.queue is not None:
            lines += ["", "[queue]", f"path = {toml_string(str(self.queue))}"]
        lines += ["", "[upload]", f"url = {toml_string(self.url)}"]
        if (format_ := SERVERS[self.server].format) != "native":
            lines.append(f'format = "{format_}"')
        if not SERVERS[self.server].unpacks:
            lines.append('compression = "none"')
        if self.token_file is not None:
            lines.append(f"token_file = {toml_string(str(self.token_file))}")
        return "\n".join([*lines, ""])

    def settings(self) -> Settings:
        """The settings of this config.

        Raises:
            UsageError: an answer is invalid.
        """
        text = self.text()
        try:
            text.encode()
            return loader.load_texts({"": text}).settings
        except UnicodeEncodeError:
            raise UsageError("an answer is not text: a config is text in UTF-8") from None
        except ConfigError as error:
            raise UsageError(str(error).removeprefix("config: ")) from None


@click.command()
@click.option(
    "--config",
    "path",
    metavar="FILE",
    type=Path,
    default=DEFAULT_PATHS[0],
    show_default=True,
    help="The file to write.",
)
@click.option("--device", metavar="NAME", help="This device's name.")
@click.option("--source", metavar="SOURCE", help="The receiver, as gps.source.")
@click.option(
    "--baud", metavar="BAUD", type=int, help="Its baud rate. Default: found by listening."
)
@click.option(
    "--server",
    type=click.Choice(list(SERVERS)),
    help="The kind of server (docs/servers.md). Default: recognised by its URL or answer.",
)
@click.option(
    "--url",
    metavar="URL",
    help="The endpoint. For a known kind of server its address is enough.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=Path,
    help="A file with the API key.",
)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
@click.option(
    "--start/--no-start",
    default=None,
    help="Enable and start the service, and wait for the first position to be delivered.",
)
@click.option(
    "--wait",
    "wait_s",
    type=duration,
    default="60s",
    show_default=True,
    help="How long to wait for the delivery.",
)
def command(
    path: Path,
    device: str | None,
    source: str | None,
    baud: int | None,
    server: str | None,
    url: str | None,
    token_file: Path | None,
    wait_s: float,
    *,
    force: bool,
    start: bool | None,
) -> int:
    """Find the receiver, try the endpoint, write the config, start the service.

    Each question is also an option. Without a terminal nothing is asked. With --start, the command
    ends when the first position is delivered. If none is, it prints what is missing and exits
    with status 1.
    """
    asks = sys.stdin.isatty()
    if url is None and not asks:
        raise UsageError("init needs --url, the endpoint that fixes go to")
    options: dict[str, Any] = {"device": device, "source": source, "baud": baud, "url": url}
    given = _Answers(**{name: said for name, said in options.items() if said is not None})
    given.settings()  # a wrong option is reported before anything is tried
    if start and not _may_start(path):
        raise UsageError(f"--start needs root, systemd and the config at {DEFAULT_PATHS[0]}")
    _may_write(path, asks=asks, force=force)
    agent = agent_status(_queue_path(path))
    reads_it = agent is not None and (path == DEFAULT_PATHS[0] or path.exists())
    if source is None and agent is not None:
        source = agent.receiver.source
        click.echo(f"the running agent reads {source}: {agent.receiver.state}")
    source = source or _choose_receiver(asks=asks)
    if source.startswith("/") and not (
        agent and Path(source).resolve() == Path(agent.receiver.source).resolve()
    ):
        baud = _listen(Path(source), baud)
    device = device or _ask_device(asks=asks)
    answers = _Answers(device, source, baud, token_file=token_file, queue=_own_queue(path))
    answers = _ask_server(answers, server, url, asks=asks)
    settings = _write(path, answers.text())
    click.echo(f"wrote {path}")
    if hint := SERVERS[answers.server].hint:
        click.echo(f"To do: {hint.format(device=settings.device)}")
    if _starts(start, path, asks=asks):
        service.start_service()
        click.echo("the service runs; waiting for the first position …")
        return 0 if shows_delivery(settings.queue.path, wait_s) else 1
    click.echo(f"Next: {_next_step(path, runs=reads_it)}")
    return 0


def _may_write(path: Path, *, asks: bool, force: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder: --config names a file")
    folder = next(place for place in path.absolute().parents if place.exists())
    if not os.access(folder, os.W_OK):
        raise AgentError(f"cannot write {path}: use sudo, or name another --config")
    if not path.exists() or force:
        return
    if not asks:
        raise UsageError(f"{path} exists: --force overwrites it")
    if not click.confirm(f"{path} exists. Overwrite it?", default=False):
        raise AgentError(f"{path} was not changed")


def _queue_path(config: Path) -> Path:
    """The queue of this config, or the default one if there is none yet."""
    with contextlib.suppress(ConfigError):
        return queue_path(config)
    return QUEUE_PATH


def _own_queue(config: Path) -> Path | None:
    """The queue beside this config, for a user who cannot have the service's; ``None``: that."""
    folder = next(place for place in QUEUE_PATH.parents if place.exists())
    return None if os.access(folder, os.W_OK) else config.absolute().with_name(QUEUE_PATH.name)


def _choose_receiver(*, asks: bool) -> str:
    """The value for ``gps.source``: the best receiver that the user agrees to."""
    found = find_receivers()
    for place, candidate in enumerate(found, 1):
        note = "" if candidate.safe else f"  ({candidate.blocked or 'may be something else'})"
        click.echo(f"{place}. {candidate.path}: {candidate.label}{note}")
    # 0: none. A port that may be another device's is opened only if the user chooses it.
    number = next((n for n, candidate in enumerate(found, 1) if candidate.safe), 0)
    if found and asks:
        number = click.prompt(
            "Which one is the receiver? (0: none of these)",
            type=click.IntRange(0, len(found)),
            default=number,
        )
    if number:
        return str(found[number - 1].path)
    why = "no receiver was chosen" if found else "no receiver is plugged in"
    click.echo(f"{why}: the agent looks for one when it runs")
    return "auto"


def _listen(path: Path, baud: int | None) -> int | None:
    """Show what the receiver sends; return its baud rate, or None if it is unknown."""
    click.echo(f"listening to {path} …")
    source = SerialSource(path, baud)
    check = Check(LISTENED, lambda: listened(source, Clock(), Patience()))
    _report("the receiver", check, _LISTEN_S)
    return source.baud


def _ask_device(*, asks: bool) -> str:
    host = os.uname().nodename
    proposal = "{hostname}"
    if host.lower() in {"", *SHARED_NAMES}:
        proposal += "-{serial}" if SERIAL_NUMBER.exists() else "-{machine-id}"
        click.echo(f"many devices are called {host!r}: a serial number makes the name unique")
    while asks:
        question = f"This device's name ({{hostname}} stands for {host!r})"
        answer: str = click.prompt(question, default=proposal)
        try:
            _Answers(answer).settings()
        except UsageError as error:
            click.echo(str(error))
        else:
            return answer
    return proposal


def _ask_server(answers: _Answers, server: str | None, url: str | None, *, asks: bool) -> _Answers:
    """Which server. On a terminal, ask until the URL is valid and the user accepts the trial."""
    while True:
        try:
            given = url or click.prompt("The server's URL")
            replace(answers, url=given).settings()
            kind, address = _kind_of(given, server, asks=asks)
            address = completed(kind, address)
            token = _ask_token(kind, answers.token_file, asks=asks)
            found = replace(answers, server=kind, url=address, token_file=token)
            good = _try_endpoint(found.settings())
        except UsageError as error:
            if not asks:
                raise
            click.echo(str(error))
        else:
            if good or not asks or click.confirm("Use this server anyway?", default=True):
                return found
        url = None


def _kind_of(url: str, server: str | None, *, asks: bool) -> tuple[str, str]:
    """The kind of server, and its URL for fixes."""
    if server is not None:
        return server, url
    known, why = server_by_url(url), "its URL"
    if known is None and (answer := server_by_answer(url)) is not None:
        (known, url), why = answer, "its answer"
    if known is not None:
        click.echo(f"kind of server by {why}: {known}")
    if not asks:
        return known or "native", url
    click.echo("Kinds of servers: " + ", ".join(SERVERS) + " (native: your own endpoint)")
    kinds = click.Choice(list(SERVERS))
    kind: str = click.prompt("Which kind is it?", known or "native", type=kinds, show_choices=False)
    return kind, url


def _ask_token(kind: str, given: Path | None, *, asks: bool) -> Path | None:
    while True:
        path = given
        if path is None and asks and kind in _NEEDS_TOKEN:
            said = click.prompt(f"A file with the {_NEEDS_TOKEN[kind]} (empty: later)", default="")
            path = Path(said) if said else None
        if path is None or (fault := _unreadable(path)) is None:
            return path and path.absolute()
        if given is not None:
            raise ConfigError(fault)
        click.echo(fault)


def _unreadable(path: Path) -> str | None:
    """Why the service could not read a file, and the remedy; that root can read it is no proof."""
    try:
        read_small_file(path)
    except PermissionError:
        pass
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    service = AgentChecks(QUEUE_PATH, planned=os.geteuid() == 0)
    found = service.unreadable("upload.token_file", path.absolute())
    return None if found is None else str(found)


def _write(path: Path, text: str) -> Settings:
    """Write the whole file or nothing, and only if it is valid with config.d beside it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch(_MODE)
        draft.chmod(_MODE)
        draft.write_text(text, "utf-8")
        with contextlib.suppress(LookupError, PermissionError):
            shutil.chown(draft, group=SERVICE_USER)  # so that the service can read it
        settings = loader.load(draft).settings
        draft.replace(path)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(draft), f"{path}, not written")) from None
    except OSError as error:
        raise AgentError(f"cannot write {path}: {error.strerror}: name another --config") from error
    finally:
        draft.unlink(missing_ok=True)
    return settings


def _try_endpoint(settings: Settings) -> bool:
    """Check the endpoint without sending a position, and report it. Returns whether it passed."""
    endpoint = EndpointChecks(settings.upload, settings.device, AgentChecks(settings.queue.path))
    found = _report("the endpoint", Check(NAMES, endpoint.check), _TRIAL_S)
    answered = {each.verdict for each in found if each.name in {"authentication", "answer"}}
    return "warn" not in answered and all(each.verdict != "fail" for each in found)


def _report(what: str, check: Check, limit_s: float) -> list[Finding]:
    """Run a check; show its faults, and its result if that is good."""
    found = list(run_checks([check], limit_s=limit_s))
    for each in found:
        if each.verdict in {"warn", "fail"} or (each.name in _RESULTS and each.verdict == "pass"):
            remedy = f"; {each.remedy}" if each.remedy else ""
            click.echo(f"{what}: {each.name}: {each.said}{remedy}")
    return found


def _may_start(path: Path) -> bool:
    """Whether this command can start the service, and the service reads this config."""
    return os.geteuid() == 0 and path == DEFAULT_PATHS[0] and service.has_systemd()


def _starts(start: bool | None, path: Path, *, asks: bool) -> bool:
    """Whether to start the service; installs it if there is none."""
    if start is None and asks and _may_start(path):
        start = click.confirm("Enable and start the service now?", default=True)
    if start and not service.has_unit():
        service.install_service()
    return bool(start)


def _next_step(path: Path, *, runs: bool) -> str:
    if path == DEFAULT_PATHS[0] and service.has_unit():
        return "sudo systemctl restart telemetry-agent" if runs else switch_on().strip("`")
    if runs:
        return "restart the running agent, which still has the previous config"
    return f"telemetry-agent run --config {in_shell(path)}"
