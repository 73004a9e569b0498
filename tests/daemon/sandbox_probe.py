"""Try what the agent must and must not be able to do, and log the results.

Then listen on a socket in the state directory, and send each caller the kernel's data about it.
"""

import ctypes
import errno
import json
import logging
import mmap
import os
import resource
import socket
import sqlite3
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from telemetry_agent.clock import Clock
from telemetry_agent.daemon import logs
from telemetry_agent.daemon.service import notify

STATE = Path(os.environ["STATE_DIRECTORY"])
RUNTIME = Path(os.environ["RUNTIME_DIRECTORY"])
SO_PEERGROUPS = 59
CLONE_NEWUSER = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def call(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def queue() -> str:
    database = sqlite3.connect(STATE / "queue.db", check_same_thread=False)
    mode: str = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    database.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (42);")
    kept.append(database)
    return mode


def callback() -> int:
    answer: int = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)()
    return answer


def receiver() -> None:
    os.close(os.open(os.environ["RECEIVER"], os.O_RDWR | os.O_NOCTTY))


def thread() -> None:
    worker = threading.Thread(target=lambda: None)
    worker.start()
    worker.join()


kept: list[sqlite3.Connection] = []
attempts: dict[str, Callable[[], object]] = {
    "write /etc": lambda: Path("/etc/x").touch(),
    "write /usr": lambda: Path("/usr/x").touch(),
    "write /proc/sys": lambda: Path("/proc/sys/kernel/core_pattern").write_text("x"),
    "write cgroup": lambda: Path("/sys/fs/cgroup/x").mkdir(),
    "write state": (STATE / "x").touch,
    "write runtime": lambda: Path(os.environ["RUNTIME_DIRECTORY"], "x").touch(),
    "list /root": lambda: list(Path("/root").iterdir()),
    "list /home": lambda: list(Path("/home").iterdir()),
    "others in /tmp": lambda: len(list(Path("/tmp").iterdir())),
    "others in /proc": lambda: sum(path.name.isdigit() for path in Path("/proc").iterdir()) - 1,
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "route socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
    "read /proc/net": lambda: Path("/proc/net/route").open().close(),
    "writable code": lambda: mmap.mmap(
        -1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ),
    "ctypes callback": callback,
    "user namespace": lambda: call(libc.unshare(CLONE_NEWUSER)),
    "adjtimex": lambda: call(libc.adjtimex(ctypes.create_string_buffer(512))),
    "synchronised": Clock().synchronised,
    "host name": lambda: socket.sethostname("x"),
    "foreign device": lambda: os.open("/dev/foreign", os.O_RDWR),
    "serial port": lambda: os.open("/dev/ttyS191", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK),
    "receiver": receiver,
    "queue": queue,
    "thread": thread,
    "core dump": lambda: resource.getrlimit(resource.RLIMIT_CORE),
}


def tried(attempt: Callable[[], object]) -> object:
    try:
        result = attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return result if isinstance(result, (int, str, tuple)) else "ok"


logs.configure("info", "auto", "van-07")
facts: dict[str, object] = {name: tried(attempt) for name, attempt in attempts.items()}
status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
facts |= {name: status[name].strip() for name in ("CapBnd", "CapEff", "NoNewPrivs", "Seccomp")}
logging.getLogger("telemetry_agent").info("tried", extra={"fields": {"FACTS": json.dumps(facts)}})

with socket.socket(socket.AF_UNIX) as control:
    control.bind(str(RUNTIME / "control.sock"))
    (RUNTIME / "control.sock").chmod(0o666)
    control.listen()
    notify(READY=1)
    while True:
        caller, _ = control.accept()
        with caller:
            _, uid, _ = struct.unpack(
                "3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )
            raw = caller.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * 64)
            groups = struct.unpack(f"{len(raw) // 4}i", raw)
            may = uid in (0, os.geteuid()) or os.getegid() in groups
            caller.sendall(b"all" if may else b"status")
