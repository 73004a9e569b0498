"""Wheel and sdist: complete, reproducible, with a version that identifies them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import version
from processes import ROOT

LIBRARIES = {f"{name}{end}" for name in ("leaflet", "uPlot") for end in (".LICENSE", ".css", ".js")}
LIBRARIES |= {"protomaps-leaflet.LICENSE", "protomaps-leaflet.js"}
VENDOR = "telemetry_agent/page/static/vendor/"
BUILT = pytest.mark.once("one Python builds what is published, for every other")


def build(
    source: Path, out: Path, *targets: str, npm: bool = True, release: bool = True
) -> subprocess.CompletedProcess[str]:
    """Build as ``make wheel`` does. Without npm, build as on a device."""
    environment = dict(os.environ) | ({"TELEMETRY_AGENT_RELEASE": "1"} if release else {})
    if not npm:
        environment["PATH"] = path_without("npm", out.parent / "programs")
    argv = [sys.executable, "-m", "hatchling", "build", "-d", str(out), *targets]
    return subprocess.run(
        argv, cwd=source, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def path_without(program: str, folder: Path) -> str:
    """A PATH with git only: hatch needs no other program."""
    folder.mkdir(exist_ok=True)
    git = shutil.which("git")
    assert git is not None
    link = folder / "git"
    if not link.exists():
        link.symlink_to(git)
    assert shutil.which(program, path=str(folder)) is None
    return str(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "dist"
    done = build(ROOT, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def vendored(names: list[str]) -> set[str]:
    return {name.rpartition("/")[2] for name in names if VENDOR in name}


@BUILT
def test_wheel_and_sdist_hold_the_libraries_of_the_page(built: Path) -> None:
    wheel = zipfile.ZipFile(only(built, "*.whl"))
    assert vendored(wheel.namelist()) == LIBRARIES | {"versions.json"}
    assert "telemetry_agent/_built.py" in wheel.namelist()
    with tarfile.open(only(built, "*.tar.gz")) as sdist:
        assert vendored(sdist.getnames()) == LIBRARIES | {"versions.json"}


@BUILT
def test_the_sdist_builds_the_same_wheel_without_node_and_git(built: Path, tmp_path: Path) -> None:
    with tarfile.open(only(built, "*.tar.gz")) as sdist:
        sdist.extractall(tmp_path, filter="data")
    done = build(only(tmp_path, "telemetry_agent-*"), tmp_path / "out", "-t", "wheel", npm=False)
    assert done.returncode == 0, done.stdout + done.stderr
    again, first = only(tmp_path / "out", "*.whl"), only(built, "*.whl")
    assert again.name == first.name
    assert (
        hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(first.read_bytes()).digest()
    )


@BUILT
def test_a_release_without_the_libraries_is_not_made_and_a_checkout_goes_on(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists() and not name.startswith("tests/"):
            target = tmp_path / "checkout" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    done = build(tmp_path / "checkout", tmp_path / "out", npm=False)
    assert done.returncode != 0
    assert "a release needs the libraries of the device page: npm is missing" in (
        done.stdout + done.stderr
    )
    assert not list((tmp_path / "out").glob("*"))
    done = build(tmp_path / "checkout", tmp_path / "out", npm=False, release=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the device page gets no map and no chart: npm is missing" in done.stdout + done.stderr
    assert "+unknown" in only(tmp_path / "out", "*.whl").name


def git(folder: Path, *arguments: str) -> str:
    argv = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments]
    return subprocess.run(
        argv, cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@BUILT
def test_the_commit_that_changes_the_release_is_it_and_later_ones_carry_their_commit(
    tmp_path: Path,
) -> None:
    source = tmp_path / "telemetry_agent/__init__.py"
    source.parent.mkdir()
    git(tmp_path, "init", "-q")

    def commit(text: str) -> str:
        source.write_text(text)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-q", "-m", "x")
        return version.current(tmp_path)

    assert commit('RELEASE = "0.9.0"\n') == "0.9.0"
    later = commit('RELEASE = "0.9.0"\n# more\n')
    short = git(tmp_path, "rev-parse", "--short=10", "HEAD")
    assert later == f"0.9.0.post1+g{short}"
    source.write_text('RELEASE = "0.9.0"\n# not committed\n')
    assert version.current(tmp_path) == f"{later}.dirty"
    assert commit('RELEASE = "1.0.0"\n') == "1.0.0"


@BUILT
def test_a_checkout_whose_history_is_not_all_there_or_cannot_be_read_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shallow = tmp_path / "whole", tmp_path / "shallow"
    source = whole / "telemetry_agent/__init__.py"
    source.parent.mkdir(parents=True)
    git(whole, "init", "-q")
    for text in ("", "# more\n"):
        source.write_text(f'RELEASE = "0.9.0"\n{text}')
        git(whole, "add", ".")
        git(whole, "commit", "-q", "-m", "x")
    short = git(whole, "rev-parse", "--short=10", "HEAD")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{whole}", str(shallow))
    assert version.current(shallow) == f"0.9.0+g{short}"
    (whole / ".git/HEAD").write_text("damaged")
    assert version.current(whole) == "0.9.0+unknown"
    monkeypatch.setenv("PATH", "")
    assert version.current(shallow) == "0.9.0+unknown"


def test_the_built_program_says_its_version_and_a_checkout_that_it_is_one(
    built: Path, tmp_path: Path
) -> None:
    wheel = only(built, "*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = dict(os.environ) | {"PYTHONPATH": str(tmp_path)}
    argv = [sys.executable, "-P", "-m", "telemetry_agent", "--version"]
    said = subprocess.run(
        argv, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert said == f"telemetry-agent, version {wheel.name.split('-')[1]}\n"
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"telemetry-agent, version [0-9.]+\+checkout\n", said)
