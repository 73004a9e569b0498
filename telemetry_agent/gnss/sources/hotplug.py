"""Notices serial ports that come, by what the kernel and udev tell everybody.

Two messages come for each port: the kernel's when the node is there, and udev's when its lasting
name and its group are. Each only means "look again", so who sent it does not matter.
"""

import logging
import select
import socket
from collections.abc import Callable

from telemetry_agent.tasks import Bell

_log = logging.getLogger(__name__)

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL, _UDEV = 1, 2  # multicast groups
_MESSAGE_BYTES = 16384
_LONGEST_WAIT_S = 30.0


def uevent_socket() -> socket.socket:
    """A listener to uevents.

    Raises:
        OSError: this machine, or what confines us, allows none.
    """
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_KOBJECT_UEVENT)
    try:
        listener.bind((0, _KERNEL | _UDEV))
    except OSError:
        listener.close()
        raise
    return listener


class Hotplug:
    """The task that listens.

    Args:
        ring: called after each arrival, from the task's thread.
        listen: makes the listener. Without one the reader still tries again by itself.
    """

    name = "hotplug"
    max_step_s = _LONGEST_WAIT_S + 5.0

    def __init__(
        self,
        ring: Callable[[], object],
        *,
        listen: Callable[[], socket.socket] = uevent_socket,
    ) -> None:
        self.bell = Bell()
        self.arrivals = 0
        """How many came, each perhaps twice."""
        self._ring = ring
        self._listen = listen
        self._listener: socket.socket | None = None
        self._woken = Bell()

    def step(self, now_s: float) -> float | None:  # noqa: ARG002 - a message needs no clock
        """See ``Task.step``: wait for one message."""
        if self._listener is None:
            try:
                self._listener = self._listen()
            except OSError as error:
                _log.info(
                    "a receiver that is plugged in is found within half a minute, not at once: "
                    "no messages from the kernel (%s)",
                    error.strerror,
                )
                return None
        ready = self._woken.wait(_LONGEST_WAIT_S, [(self._listener.fileno(), select.POLLIN)])
        self._woken.clear()
        if ready and _tells_of_a_port(self._listener):
            self.arrivals += 1
            self._ring()
        return 0

    def wake(self) -> None:
        """See ``Task.wake``."""
        self.bell.ring()
        self._woken.ring()

    def close(self) -> None:
        """See ``Task.close``."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _tells_of_a_port(listener: socket.socket) -> bool:
    try:
        message = listener.recv(_MESSAGE_BYTES) + b"\0"
    except OSError:
        return True  # messages were lost: one of them may have
    # udev's messages begin with a binary header, so the first property has no end before it.
    return b"ACTION=add\0" in message and b"\0SUBSYSTEM=tty\0" in message
