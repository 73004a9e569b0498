"""The agent on a kernel without netlink, as in some containers."""

import errno
import os
import socket

from telemetry_agent.cli import main


class NoNetlink(socket.socket):
    def __init__(
        self, family: int = -1, kind: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        if family == socket.AF_NETLINK:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, kind, proto, fileno)


socket.socket = NoNetlink  # type: ignore[assignment, misc]  # this is the fault
main()
