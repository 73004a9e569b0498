"""Notices serial ports that are plugged in, by the messages of the kernel and udev.

Each port causes two messages: the kernel's when its node exists, and udev's when its stable name
and its group exist. Both only mean "look again".
"""

from telemetry_agent.tasks import KernelBell

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL, _UDEV = 1, 2  # multicast groups


class PortBell(KernelBell):
    """A bell that the kernel and udev ring when a device comes or goes."""

    def __init__(self) -> None:
        super().__init__(
            _NETLINK_KOBJECT_UEVENT,
            _KERNEL | _UDEV,
            "devices",
            "a receiver that is plugged in is found within half a minute, not at once",
        )

    def port_was_added(self) -> bool:
        """Whether a serial port may have been plugged in since the last call."""
        return any(map(_may_be_new_port, self.messages()))


def _may_be_new_port(message: bytes) -> bool:
    if not message:
        return True  # messages were lost: one of them may be of a port
    message += b"\0"
    # udev's messages begin with a binary header without a final zero: do not expect one before
    # the first property.
    return b"ACTION=add\0" in message and b"\0SUBSYSTEM=tty\0" in message
