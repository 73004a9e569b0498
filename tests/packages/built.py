"""Build the packages that the tests in this folder install."""

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from processes import ROOT

from telemetry_agent.snapshot import PROTOCOL

PREVIOUS = "0.0.9"
DATED = {"SOURCE_DATE_EPOCH": "1795435200"}
"""The date of the packages built here; the default is the newest commit's."""


@dataclass(frozen=True)
class Built:
    """The wheels, and the packages by their name in build_debs."""

    wheel: Path
    previous_wheel: Path
    debs: dict[str, Path]
    previous: dict[str, Path]
    """An older version, with the previous schema and protocol."""


def build(folder: Path) -> Built:
    _hatch(ROOT, folder)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "older", filter="data")
    (source,) = (folder / "older").iterdir()
    version = wheel.name.split("-")[1]
    _replace(source / "PKG-INFO", f"Version: {version}\n", f"Version: {PREVIOUS}\n")
    code = source / "telemetry_agent"
    _replace(code / "snapshot.py", f"PROTOCOL = {PROTOCOL}\n", f"PROTOCOL = {PROTOCOL - 1}\n")
    # The older version writes the same content, with the schema version lowered by one.
    _replace(code / "ackqueue/file/schema.py", "(), (), (), (_STREAMS,)", "(), (), (_STREAMS,)")
    _hatch(source, folder / "older", "-t", "wheel")
    (older,) = (folder / "older").glob("*.whl")
    return Built(wheel, older, _debs(wheel, folder), _debs(older, folder / "older"))


def _replace(file: Path, now: str, then: str) -> None:
    text = file.read_text()
    assert now in text
    file.write_text(text.replace(now, then))


def _hatch(source: Path, out: Path, *targets: str) -> None:
    environment = dict(os.environ) | {"TELEMETRY_AGENT_RELEASE": "1"}
    argv = [sys.executable, "-m", "hatchling", "build", "-d", str(out), *targets]
    subprocess.run(argv, cwd=source, env=environment, check=True, stdout=subprocess.DEVNULL)


def _debs(wheel: Path, out: Path) -> dict[str, Path]:
    names = ["trixie", "amd64"]
    argv = [sys.executable, str(ROOT / "release/build_debs.py"), str(wheel), str(out), *names]
    environment = os.environ | DATED
    done = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)
    return dict(zip(names, map(Path, done.stdout.split()), strict=True))
