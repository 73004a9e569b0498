import resource
import socket

from telemetry_agent.addresses import Address
from telemetry_agent.connectivity.routes import Path, path


def test_loopback_has_a_way() -> None:
    way = path(Address(socket.AF_INET, ("127.0.0.1", 80)))
    assert way is not None
    assert way.source == "127.0.0.1"
    assert way.route


def test_a_process_out_of_files_takes_that_for_no_lack_of_a_route() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        way = path(Address(socket.AF_INET, ("127.0.0.1", 80)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert way == Path("")
