"""What ``run`` does, without click."""

from pathlib import Path
from typing import TYPE_CHECKING

from telemetry_agent.clock import Clock
from telemetry_agent.daemon import logs
from telemetry_agent.daemon.service import Service

if TYPE_CHECKING:
    from telemetry_agent.doctor.page_doctor import PageDoctor


def run(config_path: Path | None) -> int:
    """Run the daemon. Returns the exit status."""

    def doctor() -> "PageDoctor":
        from telemetry_agent.doctor.page_doctor import PageDoctor  # noqa: PLC0415 - for the page only

        return PageDoctor(config_path)

    logs.standard_error()  # a pipe that nobody reads must not stop a start that fails
    return Service(config_path, Clock(), doctor).run()
