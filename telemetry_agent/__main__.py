"""``python -m telemetry_agent`` is ``telemetry-agent``."""

from telemetry_agent.cli import main

main()
