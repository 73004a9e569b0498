"""Notices serial ports that are plugged in, by the messages of the kernel and udev.

Each port causes two messages: the kernel's when its node exists, and udev's when its stable name
and its group exist. Both only mean "look again".
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
    """Return a socket that receives uevents.

    Raises:
        OSError: the machine, or the sandbox of the service, does not allow it.
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
        ring: called after each arrival, in the task's thread.
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
        """Arrivals so far; a port may count twice."""
        self._ring = ring
        self._listen = listen
        self._listener: socket.socket | None = None

    def step(self, now_s: float) -> float | None:  # noqa: ARG002 - a message has no due time
        """See ``Task.step``: wait for one message."""
        if self._listener is None:
            try:
                self._listener = self._listen()
            except OSError as error:
                _log.info(
                    "cannot receive messages from the kernel (%s): a receiver that is plugged in "
                    "is found within half a minute, not at once",
                    error.strerror,
                )
                return None
        ready = self.bell.wait(_LONGEST_WAIT_S, [(self._listener.fileno(), select.POLLIN)])
        if ready and _is_new_port(self._listener):
            self.arrivals += 1
            self._ring()
        return 0

    def wake(self) -> None:
        """See ``Task.wake``."""
        self.bell.ring()

    def close(self) -> None:
        """See ``Task.close``."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _is_new_port(listener: socket.socket) -> bool:
    try:
        message = listener.recv(_MESSAGE_BYTES) + b"\0"
    except OSError:
        return True  # messages were lost: one of them may be of a port
    # udev's messages begin with a binary header without a final zero: do not expect one before
    # the first property.
    return b"ACTION=add\0" in message and b"\0SUBSYSTEM=tty\0" in message
