"""Ports for servers that a test starts."""

import itertools
import os
import socket

_PORTS = range(12_000, 32_000)
"""Below those that the kernel gives to whoever connects or asks for any."""
_claims: list[socket.socket] = []
_numbers = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens, and which nobody else gets from here.

    It is this process's until that ends: two tests at the same time never have the same one.
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
