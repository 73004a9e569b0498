"""The packages for armhf and arm64, installed and run under an emulator: ``make foreign``.

It takes 15 minutes, 10 more the first time, and is not part of ``make test``. It needs
Debian's qemu-user-static, a kernel that supports emulators (binfmt_misc), and the recordings of
``corpus``.
"""

import contextlib
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus import FOLDER
from packages.built import Built
from packages.roots import root
from processes import ROOT

pytestmark = pytest.mark.timeout(7200)

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_ELF = {
    "armhf": ("arm", 1, 40),
    "arm64": ("aarch64", 2, 183),
}
"""Architecture -> qemu's name for it, and the class and machine in an ELF header."""


@pytest.fixture(params=list(_ELF))
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An architecture, and its Debian 12 under an overlay."""
    assert list(FOLDER.glob("*.nmea")), f"no recordings in {FOLDER}: set TELEMETRY_AGENT_CORPUS"
    architecture: str = request.param
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(_emulator(*_ELF[architecture]))
        lower = root("bookworm", architecture)
        for part in ("upper", "work", "root"):
            (tmp_path / part).mkdir()
        target = tmp_path / "root"
        options = f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
        _mount(cleanup, target, "overlay", options)
        _mount(cleanup, target / "proc", "proc")
        _mount(cleanup, target / "dev/pts", "devpts", "newinstance,ptmxmode=0666")
        (target / "dev/ptmx").unlink(missing_ok=True)
        (target / "dev/ptmx").symlink_to("pts/ptmx")
        yield architecture, target


def _mount(cleanup: contextlib.ExitStack, target: Path, kind: str, options: str = "rw") -> None:
    subprocess.run(["mount", "-t", kind, "-o", options, kind, str(target)], check=True)
    cleanup.callback(subprocess.run, ["umount", "--lazy", str(target)], check=True)


@contextlib.contextmanager
def _emulator(name: str, elf_class: int, machine: int) -> Iterator[None]:
    """Let the kernel run programs of this kind; flag F: also in a chroot without the emulator."""
    if not (_BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)], check=True)
    entry = _BINFMT / f"telemetry-agent-{name}"
    magic = b"\x7fELF" + bytes([elf_class, 1, 1]) + bytes(9) + b"\x02\x00" + bytes([machine, 0])
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"
    said = "".join(f"\\x{byte:02x}" for byte in magic), "".join(f"\\x{byte:02x}" for byte in mask)
    emulator = f"/usr/bin/qemu-{name}-static"
    if entry.exists():
        entry.write_text("-1")
    (_BINFMT / "register").write_text(f":{entry.name}:M::{said[0]}:{said[1]}:{emulator}:F")
    try:
        yield
    finally:
        entry.write_text("-1")


def inside(target: Path, *argv: str, stdin: bytes = b"", **environment: str) -> bytes:
    """Run a program of the other architecture."""
    done = subprocess.run(
        ["chroot", str(target), *argv],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **environment},
        input=stdin,
        capture_output=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]!r} {done.stderr[-2000:]!r}"
    return done.stdout


def test_it_installs_decodes_as_here_and_runs_the_demo(
    built: Built, foreign: tuple[str, Path], tmp_path: Path
) -> None:
    architecture, target = foreign
    argv = [sys.executable, str(ROOT / "release/build_debs.py"), str(built.wheel), str(tmp_path)]
    said = subprocess.run([*argv, architecture], check=True, capture_output=True, text=True).stdout
    deb = Path(said.strip())
    shutil.move(deb, target / "root" / deb.name)  # across file systems
    started_s = time.monotonic()
    inside(target, "apt-get", "install", "--yes", "--no-install-recommends", f"/root/{deb.name}")
    print(f"{architecture}: installed in {time.monotonic() - started_s:.0f} s")  # noqa: T201 - the proof

    recordings = sorted(FOLDER.glob("*.nmea"))
    here, there = hashlib.sha256(), hashlib.sha256()
    for recording in recordings:
        data = recording.read_bytes()
        argv = [sys.executable, "-m", "telemetry_agent", "decode"]
        done = subprocess.run(argv, input=data, capture_output=True, cwd=ROOT, check=True)
        here.update(done.stdout)
        there.update(inside(target, "telemetry-agent", "decode", stdin=data))
    assert here.digest() == there.digest()
    print(f"{architecture}: {len(recordings)} recordings decoded as here")  # noqa: T201

    said = inside(target, "telemetry-agent", "demo", "--for", "60s", "--no-page").decode()
    assert "each arrived exactly once. None was lost." in said
    print(said.splitlines()[-1])  # noqa: T201
    print(f"{architecture}: {times(target)}")  # noqa: T201


def times(target: Path) -> str:
    """The duration of a start and of ``status`` under the emulator."""
    config = "root/config.toml"
    (target / config).write_text(
        'device = "van-07"\n[gps]\nsource = "tcp://127.0.0.1:9"\n[queue]\npath = "/root/queue.db"\n'
        '[upload]\nurl = "http://127.0.0.1:9/"\n'
    )
    argv = ["chroot", str(target), "telemetry-agent", "run", "--config", f"/{config}"]
    started_s = time.monotonic()
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        assert any(" records van-07 " in line for line in agent.stderr)
        ready_s = time.monotonic() - started_s
        statuses_s = []
        for _ in range(3):
            asked_s = time.monotonic()
            said = inside(target, "telemetry-agent", "status", "--config", f"/{config}")
            statuses_s.append(time.monotonic() - asked_s)
            assert b"running for" in said
        agent.terminate()
    return f"ready after {ready_s:.1f} s, status in {min(statuses_s):.1f} s"
