"""The release as a device gets it: reproducible, signed, upgraded by apt."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import build_debs
import pytest
from packages.built import DATED, PREVIOUS, Built
from packages.containers import Container, container
from packages.device import (
    INIT,
    QUEUE,
    UNIT,
    rows,
    start_endpoint,
    start_receiver,
    wait_for_status,
)
from packages.roots import require, root
from processes import ROOT
from sbom import sbom

pytestmark = pytest.mark.timeout(1800)  # the first test creates root file systems and packages
KEY = "releases@example.com"
SOURCE = "deb [signed-by=/root/apt/telemetry-agent.gpg] file:/root/apt {suite} main\n"


@pytest.fixture(scope="module")
def gpg_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A GnuPG home with a key for this test."""
    require()
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    argv = ["gpg", "--batch", "--passphrase", "", "--quick-generate-key", KEY, "ed25519", "sign"]
    environment = os.environ | {"GNUPGHOME": str(home)}
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    yield home
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=environment, check=True)


def repository(built: Built, home: Path, out: Path) -> Path:
    """Create a repository with both versions for both Debian releases."""
    debs = out / "debs"
    debs.mkdir(parents=True)
    for deb in (*built.previous.values(), *built.debs.values()):
        shutil.copy(deb, debs)
    argv = [sys.executable, str(ROOT / "release/apt_repo.py"), str(debs), str(out / "apt"), KEY]
    environment = os.environ | {"GNUPGHOME": str(home)}
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    return out / "apt"


def add_source(machine: Container, made: Path, suite: str) -> None:
    if not (machine.root / "root/apt").exists():
        shutil.copytree(made, machine.root / "root/apt")
        machine.run("chmod", "755", "/root")  # apt reads as a separate user
    source = machine.root / "etc/apt/sources.list.d/telemetry-agent.list"
    source.write_text(SOURCE.format(suite=suite))


def update(machine: Container, *, check: bool = True) -> str:
    """Run ``apt update`` with only this source, because the machine has no network."""
    argv = ["apt-get", "update", "-oDir::Etc::sourceparts=/dev/null", "-oAPT::Get::List-Cleanup=0"]
    source = "-oDir::Etc::sourcelist=/etc/apt/sources.list.d/telemetry-agent.list"
    return machine.run(*argv, source, "-oAPT::Update::Error-Mode=any", check=check).stdout


def test_apt_installs_and_upgrades_from_the_repository_and_refuses_what_is_not_signed(
    built: Built, gpg_home: Path, tmp_path: Path
) -> None:
    made = repository(built, gpg_home, tmp_path)
    with container(root("trixie")) as machine:
        machine.boot()
        add_source(machine, made, "trixie")
        update(machine)
        install = ("apt-get", "install", "--yes", "--no-install-recommends")
        machine.run(*install, f"telemetry-agent={PREVIOUS}")
        machine.run("apt-get", "upgrade", "--yes")
        version = built.wheel.name.split("-")[1]
        assert version in machine.said("telemetry-agent", "--version")
        packages = machine.root / "root/apt/dists/trixie/main/binary-amd64/Packages"
        packages.write_text(packages.read_text().replace("Depends", "Breaks"))
        (packages.parent / "Packages.gz").unlink()
        shutil.rmtree(machine.root / "var/lib/apt/lists")
        assert "E: " in update(machine, check=False)


def test_a_release_upgrade_of_debian_replaces_the_package_and_keeps_the_backlog(
    built: Built, gpg_home: Path, tmp_path: Path
) -> None:
    made = repository(built, gpg_home, tmp_path)
    with container(root("bookworm-to-trixie")) as machine:
        machine.boot()
        add_source(machine, made, "bookworm")
        update(machine)
        version = built.wheel.name.split("-")[1]
        machine.run("apt-get", "install", "--yes", f"telemetry-agent={version}~bookworm")
        start_receiver(machine)
        start_endpoint(machine)
        machine.run(*INIT)
        machine.run("systemctl", "stop", "endpoint")
        wait_for_status(machine, "queue.pending", 10)

        add_source(machine, made, "trixie")
        update(machine)
        argv = ("apt-get", "dist-upgrade", "--yes", "--no-install-recommends")
        machine.run(*argv, "-oDpkg::Options::=--force-confold", limit_s=600)
        assert machine.said(
            "dpkg-query", "--show", "--showformat=${Version}", "telemetry-agent"
        ) == (version)
        assert machine.show(UNIT, "ActiveState") == "active"
        status = json.loads(machine.said("telemetry-agent", "status", "--json"))
        assert status["queue"]["pending"] >= 10
        start_endpoint(machine)
        machine.run("systemctl", "stop", "receiver")
        machine.run("telemetry-agent", "drain")
        machine.run("systemctl", "stop", "endpoint", UNIT)
        recorded = rows(machine.root / QUEUE, "SELECT stream, seq FROM fixes")
        assert rows(machine.root / "root/received.db", "SELECT stream, seq FROM fixes") == recorded


@pytest.mark.parametrize("name", ["trixie", "amd64"])
def test_the_same_wheel_and_date_make_the_same_package(
    built: Built, name: str, tmp_path: Path
) -> None:
    argv = [sys.executable, str(ROOT / "release/build_debs.py"), str(built.wheel), str(tmp_path)]
    environment = os.environ | DATED
    subprocess.run([*argv, name], env=environment, check=True, capture_output=True, umask=0o077)
    digests = {
        hashlib.sha256(deb.read_bytes()).hexdigest()
        for deb in (built.debs[name], tmp_path / built.debs[name].name)
    }
    assert len(digests) == 1


def test_what_is_inside_a_release_is_listed() -> None:
    said = json.loads(sbom("1.0.0", 1_800_000_000))
    assert said == json.loads(sbom("1.0.0", 1_800_000_000))
    assert (said["bomFormat"], said["specVersion"]) == ("CycloneDX", "1.6")
    listed = {(one["name"], one["version"]) for one in said["components"]}
    wanted = [
        tuple(line.split("=="))
        for line in (ROOT / "release/bundled.txt").read_text().splitlines()
        if "==" in line
    ]
    of_page = {(one["name"], one["version"]) for one in build_debs.page_libraries()}
    assert of_page > {("leaflet", "1.9.4")}
    assert {*wanted, *of_page} <= listed
    # One binary library exists for three architectures.
    assert len(said["components"]) == len(wanted) + len(of_page) + len(build_debs.BUNDLED) - 1
    assert all(one["licenses"] and one["hashes"] for one in said["components"])
