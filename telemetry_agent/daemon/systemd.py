"""Messages to the service manager: readiness, status, signs of life.

Each message is one datagram to the socket that NOTIFY_SOCKET names. Without a service manager (on a
terminal, in a container) there is no such socket, and no message is sent.
"""

import logging
import os
import socket

log = logging.getLogger(__name__)

_SEND_LIMIT_S = 1.0  # the main thread must receive signals
_failing: set[str] = set()
"""Addresses that could not be reached, and were logged."""


def notify(**assignments: str | int) -> bool:
    """Notify the service manager, as in ``notify(READY=1, STATUS="recording")``.

    The names are those of sd_notify(3): READY, STATUS, WATCHDOG, STOPPING, and RELOADING before
    the READY that ends a reload. A line break in a value would begin another assignment, so it is
    sent as a space.

    Returns:
        Whether it was sent. A failure is logged once, and the agent continues.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    message = "\n".join(
        f"{name}={' '.join(str(value).splitlines())}" for name, value in assignments.items()
    )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(_SEND_LIMIT_S)
            # A name that begins with @ is in the kernel's abstract namespace, which spells it NUL.
            path = "\0" + address[1:] if address[0] == "@" else address
            manager.sendto(message.encode("utf-8", "replace"), path)
    except OSError as error:
        if address not in _failing:  # the watchdog's sign of life is due every few seconds
            _failing.add(address)
            log.warning("cannot notify the service manager at %s: %s", address, error)
        return False
    _failing.discard(address)
    return True


def watchdog_interval_s() -> float | None:
    """How often ``notify(WATCHDOG=1)`` is due: twice within the unit's WatchdogSec.

    Returns:
        ``None`` without a watchdog, or if it watches another process.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    return int(allowed_us) / 2e6 if allowed_us.isdecimal() and int(allowed_us) > 0 else None
