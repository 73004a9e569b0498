"""What ``service`` refuses; ``tests/packages/test_pip.py`` tests what it does."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from telemetry_agent.cli import service
from telemetry_agent.cli.group import cli
from telemetry_agent.errors import AgentError, UsageError


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_it_needs_root(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = CliRunner().invoke(cli, ["service", verb])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == f"service {verb} needs root: use sudo"


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_it_needs_systemd(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "is_dir", lambda self: self != Path("/run/systemd/system"))
    done = CliRunner().invoke(cli, ["service", verb])
    assert isinstance(done.exception, AgentError)
    assert "systemd is not running: start `telemetry-agent run`" in str(done.exception)


@pytest.mark.parametrize(
    "folder", ["/home/pi/venv", "/root/.local", "/run/user/1000/x", "/tmp/venv"]
)
def test_what_the_service_cannot_see_is_refused_with_the_remedy(folder: str) -> None:
    fault = service.unfit([Path("/usr"), Path(folder, "bin/telemetry-agent")])
    assert fault is not None
    assert "which the service cannot see" in fault
    assert "`sudo pipx install --global 'telemetry-agent[page]'`" in fault


def test_a_program_that_is_not_there_is_refused() -> None:
    assert "does not exist: install telemetry-agent" in str(service.unfit([Path("/opt/none")]))
    assert service.unfit([Path("/usr")]) is None
