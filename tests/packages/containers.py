"""A whole Debian that boots with its own systemd, to install packages in.

The root file system is one of ``roots`` under an overlay in memory: it is new for each test, and
writes do not reach the machine. Its private network has only loopback. It needs root, overlayfs,
and Debian's systemd-container and debootstrap.
"""

import contextlib
import os
import pty
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

_LIMIT_S = 300.0  # five other tests may run at the same time
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as sudo sets it

# Each machine has its own cgroup; otherwise two of them would share the service's cgroup. nspawn is
# PID 1 of its own PID namespace, so every process ends with it.
_APART = """
for cgroup in $CGROUPS; do echo 0 > "$cgroup/cgroup.procs"; done
exec unshare --mount --pid --fork --kill-child=KILL --mount-proc "$@"
"""


class Container:
    """A machine that can be booted, used and switched off.

    Args:
        root: its mounted file system.
        folder: for files of the test.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self._folder = folder
        self._cgroups = [mount / folder.name for mount in _hierarchies()]
        self._unshare: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def boot(self) -> None:
        """Boot; return when its systemd has started."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            path = self._folder / "notify"
            path.unlink(missing_ok=True)
            notify.bind(str(path))
            argv = ["systemd-nspawn", f"--directory={self.root}", "--private-network", "--boot"]
            argv += ["--register=no", "--keep-unit", "--console=pipe", "--notify-ready=yes"]
            argv += ["--link-journal=no", "--resolv-conf=off", "--timezone=off", "--quiet"]
            argv += ["--machine=van-07"]
            for cgroup in self._cgroups:
                cgroup.mkdir()
            environment = {"NOTIFY_SOCKET": str(path), "CGROUPS": " ".join(map(str, self._cgroups))}
            with (self._folder / "console").open("ab") as log:
                # If the test's own process dies, the machine dies too.
                self._unshare = subprocess.Popen(
                    ["setpriv", "--pdeathsig=KILL", "sh", "-euc", _APART, "sh", *argv],
                    env=dict(os.environ) | environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self._wait_ready(notify)

    def _wait_ready(self, notify: socket.socket) -> None:
        deadline_s = time.monotonic() + _LIMIT_S
        said: list[str] = []
        while "READY=1" not in said:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([notify], [], [], left_s)[0]:
                pytest.fail(f"did not boot:\n{(self._folder / 'console').read_text()[-3000:]}")
            said += notify.recv(4096).decode().splitlines()
        assert self._unshare is not None
        (nspawn,) = _children(self._unshare.pid)
        (self._leader,) = _children(nspawn)

    def cut_power(self) -> None:
        """Kill all its processes at once; the file system stays as it is."""
        if self._unshare is None:
            return
        for nspawn in _children(self._unshare.pid):
            pidfd = os.pidfd_open(nspawn)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], _LIMIT_S)  # until the last process inside has ended
            os.close(pidfd)
        self._unshare.kill()
        self._unshare.wait(_LIMIT_S)
        self._unshare = None
        for cgroup in self._cgroups:
            for directory, _, _ in os.walk(cgroup, topdown=False):
                Path(directory).rmdir()

    def argv(self, *argv: str) -> list[str]:
        """The command line that runs a program inside as root."""
        inside = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8"]
        inside += ["DEBIAN_FRONTEND=noninteractive"]
        return ["nsenter", f"--target={self._leader}", "--all", *inside, *argv]

    def run(
        self, *argv: str, check: bool = True, limit_s: float = _LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; ``stdout`` of the result includes stderr."""
        done = subprocess.run(
            self.argv(*argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            check=False,
        )
        if check and done.returncode:
            journal = self._journal()
            pytest.fail(f"{argv} ended with {done.returncode}:\n{done.stdout}\n{journal}")
        return done

    def asked(self, *argv: str, answers: Sequence[tuple[str, str]]) -> str:
        """Run a program on a terminal, and type each answer when its question appears."""
        master, terminal = pty.openpty()
        with subprocess.Popen(
            self.argv(*argv), stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            os.close(terminal)
            assert process.stdout is not None
            text, left, deadline_s = "", list(answers), time.monotonic() + _LIMIT_S
            while select.select([process.stdout], [], [], deadline_s - time.monotonic())[0]:
                if not (data := os.read(process.stdout.fileno(), 1 << 16)):
                    break
                text += data.decode("utf-8", "replace")
                while left and left[0][0] in text.rpartition("\n")[2]:
                    _, answer = left.pop(0)
                    os.write(master, f"{answer}\n".encode())
                    text += f"{answer}\n"
            process.kill()
        os.close(master)
        if process.returncode or left:
            pytest.fail(f"{process.returncode}, never asked {left}:\n{text}\n{self._journal()}")
        return text

    def said(self, *argv: str) -> str:
        """The output of a program."""
        return self.run(*argv).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.said("systemctl", "show", "--value", f"--property={name}", unit)

    def start(self, unit: str, *argv: str) -> None:
        """Start a service of the test: a receiver, an endpoint."""
        self.run("systemd-run", f"--unit={unit}", "--collect", "--property=Type=exec", *argv)

    def wait_for(self, *argv: str, until: Callable[[str], bool]) -> str:
        """Follow a program's output until a line satisfies ``until``; return the line."""
        seen: list[str] = []
        with subprocess.Popen(
            self.argv(*argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                assert process.stdout is not None
                for line in _lines(process.stdout.fileno(), time.monotonic() + _LIMIT_S):
                    seen.append(line)
                    if until(line):
                        return line
            finally:
                process.kill()
        text = "\n".join(seen[-20:])
        return pytest.fail(f"{argv} never said so:\n{text}\n{self._journal()}")

    def wait_for_line(self, unit: str, text: str) -> str:
        """Wait until ``unit`` has logged the text since its last start."""
        started = self.show(unit, "InvocationID")
        return self.wait_for(
            *("journalctl", "--follow", "--lines=all", "--output=cat"),
            f"_SYSTEMD_INVOCATION_ID={started}",
            until=lambda line: text in line,
        )

    def _journal(self) -> str:
        argv = self.argv("journalctl", "--no-pager", "--lines=60", "--output=short")
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def _hierarchies() -> list[Path]:
    """The mount points of systemd's cgroups: unified hierarchy, systemd's older one, or both."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.split()[0] == "cgroup2" or kind.endswith("name=systemd"):
            found.append(Path(mount.split()[4]))
    return found


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _lines(file: int, deadline_s: float) -> Iterator[str]:
    rest = b""
    while (left_s := deadline_s - time.monotonic()) > 0:
        if not select.select([file], [], [], left_s)[0]:
            return
        if not (data := os.read(file, 1 << 16)):
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")


@contextlib.contextmanager
def container(lower: Path) -> Iterator[Container]:
    """A machine with this root file system, not booted yet."""
    with tempfile.TemporaryDirectory(prefix="machine-") as name:
        folder = Path(name)
        with _mounted("tmpfs", folder, "mode=0755", kind="tmpfs"):
            for part in ("upper", "work", "root"):
                (folder / part).mkdir()
            options = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
            with _mounted("overlay", folder / "root", options, kind="overlay"):
                machine = Container(folder / "root", folder)
                try:
                    yield machine
                finally:
                    machine.cut_power()


@contextlib.contextmanager
def _mounted(source: str, target: Path, options: str, kind: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", kind, "-o", options, source, str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)
