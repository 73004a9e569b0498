"""Root file systems of Debian releases, created once by debootstrap and kept.

They are in the folder that TELEMETRY_AGENT_ROOTS names, else in ~/.cache/telemetry-agent/roots.
A root contains the files of a device at its first start. The packages that the agent depends on
are downloaded but not installed, so that apt needs no network in a test.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter", "dpkg-deb", "lintian")

_BASE = "systemd,systemd-sysv,dbus,udev,ca-certificates,python3"
_INSTALLED = {
    "trixie": [],
    "bookworm": ["python3-venv"],  # to install with pip
    "bookworm-to-trixie": [],
    # Programs that remedies name. gpsd-clients would add 200 packages for its GUI to gpsd-tools.
    "bookworm-with-programs": [
        *("gpsd", "gpsd-tools", "iproute2", "modemmanager", "openssl", "pipx", "procps"),
        *("psmisc", "sudo", "systemd-timesyncd"),
    ],
}
_AGENT_NEEDS = {
    "trixie": [
        *("python3-click", "python3-httpx", "python3-nmea2", "python3-prometheus-client"),
        *("python3-pydantic", "python3-pydantic-settings", "python3-rich", "python3-serial"),
        *("python3-starlette", "python3-tenacity", "python3-uvicorn"),
    ],
    "bookworm": [],
    "bookworm-with-programs": ["ca-certificates"],
}
_AGENT_NEEDS["bookworm-to-trixie"] = _AGENT_NEEDS["trixie"]


def require() -> None:
    """Skip the test if a container cannot be booted; in CI, fail."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() == 0 and not missing:
        return
    reason = f"booting a Debian needs {', '.join(missing) or 'root'}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def root(suite: str, architecture: str = "") -> Path:
    """The root file system of ``suite``, which must not be changed.

    ``bookworm-to-trixie`` is a Debian 12 with a downloaded release upgrade;
    ``bookworm-with-programs`` has more programs than the agent needs. For an ``architecture``
    other than this machine's, an emulator must be registered in the kernel.
    """
    require()
    kept = os.environ.get("TELEMETRY_AGENT_ROOTS")
    folder = Path(kept) if kept else Path.home() / ".cache/telemetry-agent/roots"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = repr((_BASE, _INSTALLED[suite], _AGENT_NEEDS[suite]))
    kind = f"{suite}-{architecture}" if architecture else suite
    name = f"{kind}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with (folder / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test may be creating it
        if not (folder / name).exists():
            for old in folder.glob(f"{kind}-{'[0-9a-f]' * 12}"):
                shutil.rmtree(old)
            making = folder / f"{kind}-in-the-making"
            _remove(making)
            _make(suite, architecture, making)
            making.rename(folder / name)
    return folder / name


def _make(suite: str, architecture: str, target: Path) -> None:
    installed, _, upgrade = suite.partition("-to-")
    installed, _, programs = installed.partition("-with-")
    if upgrade or programs:
        _run("cp", "--archive", str(root(installed)), str(target))
    if upgrade:
        sources = target / "etc/apt/sources.list"
        sources.write_text(sources.read_text().replace(installed, upgrade))
    elif not programs:
        options = ["--variant=minbase", f"--include={_BASE}"]
        options += [f"--arch={architecture}"] if architecture else []
        _run("debootstrap", *options, installed, str(target))
    for file in Path("/etc/apt/apt.conf.d").iterdir():
        if "Acquire::" in file.read_text():  # how this machine reaches its mirror
            shutil.copy(file, target / "etc/apt/apt.conf.d")
    (target / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (target / "usr/sbin/policy-rc.d").chmod(0o755)
    apt = ["chroot", str(target), "apt-get", "--yes", "--no-install-recommends"]
    _run(*apt, "update")
    if _INSTALLED[suite]:
        _run(*apt, "install", *_INSTALLED[suite])
    if upgrade:
        _run(*apt, "dist-upgrade", "--download-only")
    if _AGENT_NEEDS[suite]:
        _run(*apt, "install", "--download-only", "--reinstall", *_AGENT_NEEDS[suite])
    (target / "usr/sbin/policy-rc.d").unlink()
    (target / "etc/machine-id").write_text("")


def _remove(making: Path) -> None:
    """Unmount and remove the rest of an interrupted debootstrap (it mounts /proc inside)."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        mounted = Path(line.split()[4])
        if mounted.is_relative_to(making):
            _run("umount", "--lazy", str(mounted))
    if making.exists():
        shutil.rmtree(making)


def _run(*argv: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=3600,  # an emulator is slow
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
