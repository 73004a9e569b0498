"""Boot a real systemd as PID 1, in a fraction of a second, to run units under it.

Everything is private to the boot: process ids, mounts, host name, IPC, cgroups. Only the network
is shared, so that a unit can connect to a server of the test. The root file system is the
machine's own under an overlay in memory: programs and libraries are present, and writes of a unit
are lost afterwards and never reach the machine. udev and D-Bus do not run, and ``/dev`` contains
only harmless devices and this machine's ptys. The only units are systemd's, journald's and those
of the test.

Python, its packages and this source are bound to ``/opt``, because they may live in a home
directory, which ProtectHome hides. To install the agent, add ``"/usr/bin/telemetry-agent":
launcher("-m telemetry_agent")`` to the files.

To boot another systemd than the machine's, set TELEMETRY_AGENT_SYSTEMD to a folder with its
``usr``, which is copied over the machine's. CONTRIBUTING.md describes how to create one.

It needs root, Linux with overlayfs, and the programs of PROGRAMS.

At the end, unshare gets SIGKILL; PID 1 dies with it, and then every process of the namespace. When
the cgroup reports that it is empty, it is removed.
"""

import contextlib
import json
import os
import select
import selectors
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

SYSTEMD = Path("/usr/lib/systemd/systemd")
PROGRAMS = (
    *("systemctl", "systemd-analyze", "systemd-sysusers", "journalctl"),
    *("unshare", "nsenter", "setpriv"),
)
SOURCE = Path(__file__).resolve().parents[1]

_LIMIT_S = 120.0
_UNITS = {
    "boot.target": "[Unit]\nRequires=basic.target\nAfter=basic.target",
    "basic.target": "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target",
    "sysinit.target": "[Unit]\nWants=systemd-journald.service\nAfter=systemd-journald.service",
}
_UNITS_OF_THE_MACHINE = (
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
)
_JOURNALD = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nForwardToSyslog=no\n"

# In the new namespaces: build the root file system, then become systemd.
_INIT = r"""
set -eu
echo 0 > "$CGROUP/cgroup.procs"
exec unshare --cgroup sh -euc '
    mount -t tmpfs tmpfs "$BOOT/overlay"
    mkdir "$BOOT/overlay/upper" "$BOOT/overlay/work" "$BOOT/overlay/root"
    cd "$BOOT/overlay"
    mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
    cd root
    if [ -n "$OTHER_SYSTEMD" ]; then cp -a "$OTHER_SYSTEMD/." .; fi
    rm -rf etc/telemetry-agent etc/credstore var/lib/telemetry-agent
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=1777 tmpfs tmp
    mount -t tmpfs -o mode=0755 tmpfs run
    mount -t tmpfs -o mode=0755 tmpfs dev
    cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx dev
    mkdir dev/pts dev/shm
    mount --bind /dev/pts dev/pts
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    touch dev/kmsg
    mount --bind "$BOOT/kmsg" dev/kmsg
    mkdir run/boot
    mount --bind "$BOOT" run/boot
    while IFS="	" read -r from to; do
        mkdir -p "./$to"
        mount --bind "$from" "./$to"
        mount -o remount,bind,ro "./$to"
    done < "$BOOT/binds"
    cp -a "$BOOT/files/." .
    pivot_root . .
    umount -l .
    cd /
    mount --make-rshared /
    systemd-sysusers
    exec env -i PATH="$PATH" container=test NOTIFY_SOCKET=/run/boot/notify \
        SYSTEMD_UNIT_PATH=/run/systemd/system SYSTEMD_GENERATOR_PATH=/nonexistent \
        SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nonexistent SYSTEMD_PROC_CMDLINE= \
        setpriv --bounding-set=-sys_boot,-sys_module,-sys_time \
        "$SYSTEMD" --system --unit=boot.target --show-status=no --log-target=journal-or-kmsg
'
"""

T = TypeVar("T")


def require_systemd() -> None:
    """Skip the test if systemd cannot be booted; in CI, fail."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    missing += [] if SYSTEMD.exists() else [str(SYSTEMD)]
    if os.geteuid() == 0 and not missing:
        return
    reason = f"booting systemd needs {', '.join(missing) or 'root'}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def launcher(*arguments: str) -> bytes:
    """A program for the ``files`` of ``boot`` that runs this Python with ``arguments``."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return (
        "#!/bin/sh\n"
        "export PYTHONPATH=/opt/source:/opt/site-packages\n"
        f"export LD_LIBRARY_PATH={_python_prefix()}/lib\n"  # a Python built with --enable-shared
        f'exec {_python_prefix()}/bin/{python} {" ".join(arguments)} "$@"\n'
    ).encode()


def _python_prefix() -> str:
    return "/usr" if sys.base_prefix == "/usr" else "/opt/python"


def _binds() -> dict[Path, str]:
    binds = {SOURCE: "/opt/source", Path(sysconfig.get_path("purelib")): "/opt/site-packages"}
    if _python_prefix() != "/usr":
        binds[Path(sys.base_prefix)] = _python_prefix()
    return binds


@dataclass
class Machine:
    """A booted systemd."""

    _init_pid: int
    _follower: subprocess.Popen[bytes]

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root and outside every unit."""
        done = subprocess.run(
            [*_enter(self._init_pid), *argv],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(argv)} exited with {done.returncode}:\n{done.stderr}")
        return done

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """The output of ``systemctl``. ``start`` returns when the unit is ready or has failed."""
        return self.run("systemctl", *arguments, check=check).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """One property of ``unit``."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def main_pid(self, unit: str) -> int:
        """The id of the main process inside; 0 without one."""
        return int(self.show(unit, "MainPID"))

    def journal(self, unit: str) -> list[dict[str, Any]]:
        """The entries of ``unit`` and those of systemd about it, oldest first."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", f"--unit={unit}", "--output=json", "--all").stdout
        return [_entry(json.loads(line)) for line in lines.splitlines()]

    def messages(self, unit: str) -> str:
        """The texts of ``journal``, one per line."""
        return "\n".join(str(entry.get("MESSAGE")) for entry in self.journal(unit))

    def path(self, inside: str) -> Path:
        """The path, outside, of the file with the path ``inside``."""
        return Path(f"/proc/{self._init_pid}/root{inside}")

    def wait_for(self, condition: Callable[[], T], what: str, limit_s: float = _LIMIT_S) -> T:
        """Check ``condition`` now and after each new journal entry until it is true."""
        assert self._follower.stdout is not None
        deadline_s = time.monotonic() + limit_s
        while not (result := condition()):
            left_s = deadline_s - time.monotonic()
            if (
                left_s <= 0
                or not select.select([self._follower.stdout], [], [], left_s)[0]
                or not os.read(self._follower.stdout.fileno(), 1 << 16)
            ):
                everything = self.run("journalctl", "--no-pager", "--output=short").stdout
                pytest.fail(f"{what}: not within {limit_s:g} s. The journal:\n{everything}")
        return result

    def wait_active(self, unit: str, limit_s: float = _LIMIT_S) -> None:
        """Wait until ``unit`` is active (ready)."""
        self.wait_for(lambda: self.show(unit, "ActiveState") == "active", f"{unit} active", limit_s)


@contextlib.contextmanager
def boot(
    units: Mapping[str, str] | None = None, files: Mapping[str, bytes] | None = None
) -> Iterator[Machine]:
    """Boot systemd without starting any of ``units``.

    Args:
        units: name (``x.service``, or ``x.service.d/y.conf``) -> text.
        files: absolute path inside -> content; executable if it begins with ``#!``. The users of
            ``/usr/lib/sysusers.d`` are created before systemd starts.
    """
    require_systemd()
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="boot-")))
        cgroup = _cgroup2() / folder.name
        cgroup.mkdir()
        cleanup.callback(_remove_cgroup, cgroup)
        _lay_out(folder, units or {}, files or {})
        notify = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        notify.bind(str(folder / "notify"))
        log = cleanup.enter_context((folder / "init.log").open("wb"))
        # If the test's own process dies, unshare dies too, and with it every process inside.
        argv = ["setpriv", "--pdeathsig=KILL", "unshare", "--fork", "--kill-child=KILL"]
        argv += ["--pid", "--mount", "--propagation=private", "--uts", "--ipc", "sh", "-c", _INIT]
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "BOOT": str(folder),
            "CGROUP": str(cgroup),
            "SYSTEMD": str(SYSTEMD),
            "OTHER_SYSTEMD": os.environ.get("TELEMETRY_AGENT_SYSTEMD", ""),
        }
        unshare = cleanup.enter_context(_running(argv, stdout=log, stderr=log, env=environment))
        init_pid = _wait_ready(unshare, notify, folder)
        argv = [*_enter(init_pid), "journalctl", "--follow", "--lines=0", "--output=cat"]
        yield Machine(init_pid, cleanup.enter_context(_running(argv, stdout=subprocess.PIPE)))


@contextlib.contextmanager
def _running(argv: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def _enter(init_pid: int) -> list[str]:
    return ["nsenter", f"--target={init_pid}", "--mount", "--pid", "--uts", "--ipc", "--cgroup"]


def _cgroup2() -> Path:
    """The mount point of the unified hierarchy, with or without older hierarchies beside it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.split()[0] == "cgroup2":
            return Path(mount.split()[4])
    pytest.fail("no cgroup2 file system is mounted")


def _remove_cgroup(cgroup: Path) -> None:
    with (cgroup / "cgroup.events").open() as events:
        while "populated 1" in events.read():
            if not select.select([], [], [events], _LIMIT_S)[2]:
                raise TimeoutError(f"processes in {cgroup} outlived SIGKILL")
            events.seek(0)
    for directory, _, _ in os.walk(cgroup, topdown=False):
        Path(directory).rmdir()


def _lay_out(folder: Path, units: Mapping[str, str], files: Mapping[str, bytes]) -> None:
    machine = Path("/usr/lib/systemd/system")
    ours = _UNITS | {name: (machine / name).read_text() for name in _UNITS_OF_THE_MACHINE}
    everything = {f"/run/systemd/system/{name}": text.encode() for name, text in ours.items()}
    everything["/run/systemd/journald.conf.d/boot.conf"] = _JOURNALD.encode()
    everything |= {f"/run/systemd/system/{name}": text.encode() for name, text in units.items()}
    for inside, content in (everything | dict(files)).items():
        path = folder / "files" / inside.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if content.startswith(b"#!") else 0o644)
    (folder / "files").chmod(0o755)
    (folder / "overlay").mkdir()
    (folder / "kmsg").touch()
    (folder / "binds").write_text("".join(f"{path}\t{to}\n" for path, to in _binds().items()))


def _wait_ready(unshare: subprocess.Popen[bytes], notify: socket.socket, folder: Path) -> int:
    """Wait until PID 1 reports READY; return its process id outside."""
    deadline_s = time.monotonic() + _LIMIT_S
    exited = os.pidfd_open(unshare.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(notify, selectors.EVENT_READ)
            selector.register(exited, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(deadline_s - time.monotonic())}
                if notify not in ready:
                    said = [(folder / name).read_text() for name in ("init.log", "kmsg")]
                    pytest.fail(f"systemd did not boot:\n{''.join(said)}")
                if b"READY=1" in notify.recv(4096).split(b"\n"):
                    break
    finally:
        os.close(exited)
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text()
    return int(children.split()[0])


def _entry(fields: dict[str, Any]) -> dict[str, Any]:
    """Decode an entry: a field that is not plain text is a list of bytes."""
    return {
        name: bytes(value).decode("utf-8", "replace") if _is_bytes(value) else value
        for name, value in fields.items()
    }


def _is_bytes(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(byte, int) for byte in value)
