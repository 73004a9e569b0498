"""The commands of docs/install.md and docs/upgrade.md, run as they stand there."""

import shutil
from pathlib import Path

import pytest
from documents import blocks
from packages.conftest import PREVIOUS, Built
from packages.containers import Container, container
from packages.device import UNIT, start_endpoint, start_receiver
from packages.roots import root

pytestmark = pytest.mark.timeout(900)  # the first test makes root file systems and packages


def typed(machine: Container, block: str) -> str:
    """A block as somebody types it who is root, and says yes to apt."""
    return machine.said("bash", "-euc", f'cd /root; sudo() {{ "$@"; }}\n{block}')


def download(machine: Container, deb: Path) -> None:
    for old in (machine.root / "root").glob("*.deb"):
        old.unlink()
    shutil.copy(deb, machine.root / "root")


def test_a_page_can_be_followed_to_the_letter(built: Built) -> None:
    install, init = blocks("install.md", "sh")
    upgrade, uninstall = blocks("upgrade.md", "sh")
    with container(root("trixie")) as machine:
        machine.boot()
        (machine.root / "etc/apt/apt.conf.d/90yes").write_text(
            'APT::Get::Assume-Yes "true";\nAPT::Install-Recommends "false";\n'
        )
        download(machine, built.previous["trixie"])
        typed(machine, install)
        start_receiver(machine)
        start_endpoint(machine)
        said = typed(machine, init)
        assert "delivered: 127.0.0.1" in said
        assert f"telemetry-agent {PREVIOUS}, van-07" in said
        download(machine, built.debs["trixie"])
        typed(machine, upgrade)
        assert machine.show(UNIT, "ActiveState") == "active"
        assert "undelivered fixes" in typed(machine, uninstall)
