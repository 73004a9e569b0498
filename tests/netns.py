"""Private networks for fault tests: namespaces, veth pairs between them, processes inside.

::

    with network() as net:
        device, far = net.namespace("device"), net.namespace("far")
        net.cable(device, "eth0", far, "eth0")
        device.ip("addr add 10.1.0.1/24 dev eth0")
        with running(*device.command("sleep", "9")): ...

It needs root and iproute2. The name of a namespace contains our pid. At the end, namespaces are
removed with their links, addresses and routes.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_IP_LIMIT_S = 60


class Namespace:
    """A separate machine for the network; its loopback is up."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, command: str) -> None:
        """Run ``ip COMMAND`` here."""
        _ip("-n", self.name, *command.split())

    def tc(self, command: str) -> None:
        """Run ``tc COMMAND`` here."""
        _run("tc", "-n", self.name, *command.split())

    def command(self, *args: str) -> tuple[str, ...]:
        """The command line that runs ``args`` here, without an extra process."""
        return ("ip", "netns", "exec", self.name, *args)

    def sysctl(self, name: str, value: str) -> None:
        """Set ``net.NAME`` here."""
        setting = Path("/proc/sys/net", *name.split("."))
        self.inside(lambda: setting.write_text(value))

    def file(self, name: str, text: str) -> None:
        """Set the content of ``/etc/NAME`` for processes that are started here later."""
        folder = Path("/etc/netns", self.name)
        while not folder.exists():
            with contextlib.suppress(FileNotFoundError):  # another run just removed the parent
                folder.mkdir(parents=True, exist_ok=True)
        folder.joinpath(name).write_text(text)

    def hosts(self, names: Mapping[str, Sequence[str]]) -> None:
        """Set its ``/etc/hosts``."""
        lines = [f"{address} {name}\n" for name, found in names.items() for address in found]
        self.file("hosts", "".join(lines))

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in a thread of this namespace; its sockets stay in the namespace."""

        def call() -> T:
            with Path("/run/netns", self.name).open("rb") as handle:
                _enter(handle.fileno())
            return function()

        with ThreadPoolExecutor(1) as thread_of_its_own:
            return thread_of_its_own.submit(call).result(_IP_LIMIT_S)

    def remove(self) -> None:
        _ip("netns", "del", self.name)
        shutil.rmtree(Path("/etc/netns", self.name), ignore_errors=True)
        with contextlib.suppress(OSError):
            Path("/etc/netns").rmdir()  # ours, if it is empty


class Network:
    """Namespaces that are removed together."""

    def __init__(self) -> None:
        self.namespaces: list[Namespace] = []

    def namespace(self, name: str) -> Namespace:
        """Add a namespace; its full name is unique on the machine."""
        made = Namespace(f"ta{os.getpid()}-{name}")
        _ip("netns", "add", made.name)
        self.namespaces.append(made)
        made.ip("link set lo up")
        return made

    def cable(self, a: Namespace, a_device: str, b: Namespace, b_device: str) -> None:
        """Join two namespaces by a veth pair, both ends up. Taking one down cuts the carrier."""
        _ip("link", "add", a_device, "netns", a.name, "type", "veth",
            "peer", "name", b_device, "netns", b.name)  # fmt: skip
        a.ip(f"link set {a_device} up")
        b.ip(f"link set {b_device} up")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network, removed at the end of the block. Skip the test if it cannot be created."""
    if lack := _lack():
        if os.environ.get("CI"):
            pytest.fail(f"network namespaces cannot be made: {lack}")
        pytest.skip(f"network namespaces cannot be made: {lack}")
    made = Network()
    try:
        yield made
    finally:
        for namespace in made.namespaces:
            namespace.remove()


@cache
def _lack() -> str:
    """The reason why a namespace with a veth pair cannot be created; empty if it can."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("ip") is None:
        return "no ip command (package iproute2)"
    tried = Network()
    try:
        a, b = tried.namespace("try-a"), tried.namespace("try-b")
        tried.cable(a, "eth0", b, "eth0")
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()
    finally:
        for namespace in tried.namespaces:
            namespace.remove()
    return ""


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*args: str) -> None:
    _run("ip", *args)


def _run(*args: str) -> None:
    subprocess.run(args, check=True, capture_output=True, text=True, timeout=_IP_LIMIT_S)
