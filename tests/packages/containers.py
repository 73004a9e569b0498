"""A whole Debian that boots with its own systemd, for packages to be installed in.

The root file system is one of ``roots`` under an overlay in memory, so it is as new for each test,
and nothing reaches the machine. It has a network of its own with nothing but loopback. It needs
root, overlayfs, and Debian's systemd-container and debootstrap.
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

_LIMIT_S = 300.0  # five other tests may use the machine
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as sudo has it

# Each machine has a cgroup of its own, else two of them would share that of the service. In a
# namespace of process numbers whose first is nspawn, everything ends with that.
_APART = """
for cgroup in $CGROUPS; do echo 0 > "$cgroup/cgroup.procs"; done
exec unshare --mount --pid --fork --kill-child=KILL --mount-proc "$@"
"""


class Container:
    """One machine: it can be switched on, used, and have its power cut.

    Args:
        root: its file system, mounted.
        folder: for what belongs to the test.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self._folder = folder
        self._cgroups = [mount / folder.name for mount in _hierarchies()]
        self._unshare: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def boot(self) -> None:
        """Switch it on; returns when its systemd is done with starting."""
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
                # If the test's own process dies, so does the machine.
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
        """Everything in it is gone at once; the file system is as it is."""
        if self._unshare is None:
            return
        for nspawn in _children(self._unshare.pid):
            pidfd = os.pidfd_open(nspawn)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], _LIMIT_S)  # when the last process in there is gone
            os.close(pidfd)
        self._unshare.kill()
        self._unshare.wait(_LIMIT_S)
        self._unshare = None
        for cgroup in self._cgroups:
            for directory, _, _ in os.walk(cgroup, topdown=False):
                Path(directory).rmdir()

    def argv(self, *argv: str) -> list[str]:
        """How a program is run in there, as root."""
        inside = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8"]
        inside += ["DEBIAN_FRONTEND=noninteractive"]
        return ["nsenter", f"--target={self._leader}", "--all", *inside, *argv]

    def run(
        self, *argv: str, check: bool = True, limit_s: float = _LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; both its streams are in ``stdout``."""
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
        """Run a program on a terminal, and type each answer when its question is there."""
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
        """What a program prints."""
        return self.run(*argv).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.said("systemctl", "show", "--value", f"--property={name}", unit)

    def start(self, unit: str, *argv: str) -> None:
        """A service of the test: a receiver, an endpoint."""
        self.run("systemd-run", f"--unit={unit}", "--collect", "--property=Type=exec", *argv)

    def wait_for(self, *argv: str, until: Callable[[str], bool]) -> str:
        """Follow what a program prints until a line is right; returns the line."""
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
        """Until ``unit``, as it was started last, has said this."""
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
    """Where systemd keeps its cgroups: the unified hierarchy, an older one of its own, or both."""
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
    """A machine with this root file system, switched off."""
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
