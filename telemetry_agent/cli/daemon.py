"""What ``run`` does, without click."""

from pathlib import Path
from typing import TYPE_CHECKING

from telemetry_agent.clock import Clock
from telemetry_agent.config import subprocess_loader
from telemetry_agent.config.last_good import StartConfig
from telemetry_agent.daemon import service

if TYPE_CHECKING:
    from telemetry_agent.doctor.running_agent import AgentDoctor


def run(config_path: Path | None) -> int:
    """Run the daemon. Returns the exit status."""

    def load(*, fall_back: bool) -> StartConfig:
        return subprocess_loader.load(config_path, fall_back=fall_back)

    def doctor() -> "AgentDoctor":
        from telemetry_agent.doctor.running_agent import AgentDoctor  # noqa: PLC0415 - for the page only

        return AgentDoctor(config_path)

    return service.run(load, config_path, Clock(), doctor)
