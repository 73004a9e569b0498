"""Notices serial ports that are plugged in, by the messages of the kernel and udev.

Each port causes two messages: the kernel's when its node exists, and udev's when its stable name
and its group exist. Both only mean "look again".
"""

from collections.abc import Callable

from telemetry_agent.tasks import KernelBell

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL, _UDEV = 1, 2  # multicast groups


def port_bell() -> KernelBell:
    """A bell that the kernel and udev ring when a device comes or goes."""
    return KernelBell(
        _NETLINK_KOBJECT_UEVENT,
        _KERNEL | _UDEV,
        "devices",
        "a receiver that is plugged in is found within half a minute, not at once",
    )


class Hotplug:
    """The task that listens.

    Args:
        ring: called after each arrival, in the task's thread.
        bell: what the loop waits on. Without messages the reader still tries again by itself.
    """

    name = "hotplug"
    max_step_s = 5.0

    def __init__(self, ring: Callable[[], object], bell: KernelBell | None = None) -> None:
        self.bell = bell or port_bell()
        self.arrivals = 0
        """Arrivals so far; a port may count twice."""
        self._ring = ring

    def step(self, now_s: float) -> float | None:  # noqa: ARG002 - a message has no due time
        """See ``Task.step``: read the messages that have come."""
        if any(map(_may_be_new_port, self.bell.messages())):
            self.arrivals += 1
            self._ring()
        return None

    def wake(self) -> None:
        """See ``Task.wake``."""
        self.bell.ring()

    def close(self) -> None:
        """See ``Task.close``."""
        self.bell.close()


def _may_be_new_port(message: bytes) -> bool:
    if not message:
        return True  # messages were lost: one of them may be of a port
    message += b"\0"
    # udev's messages begin with a binary header without a final zero: do not expect one before
    # the first property.
    return b"ACTION=add\0" in message and b"\0SUBSYSTEM=tty\0" in message
