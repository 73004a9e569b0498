"""Ports for servers that a test starts."""

import itertools
import os
import socket

_PORTS = range(12_000, 32_000)
"""Below the kernel's ephemeral ports."""
_claims: list[socket.socket] = []
_numbers = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """An unused port of 127.0.0.1, reserved for this process until the process ends.

    Two tests that run at the same time never get the same port.
    """
    for number in _numbers:
        port = _PORTS[number % len(_PORTS)]
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0telemetry-agent-tests-port-{port}")
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise AssertionError
