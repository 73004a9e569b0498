"""The agent, with a pause of 1 s after each portion that it carries over from a damaged file."""

from telemetry_agent.ackqueue.recovery.carry_over import Carrier
from telemetry_agent.cli import main

step = Carrier.step


def step_and_rest(self: Carrier, now_s: float) -> float | None:
    wait_s = step(self, now_s)
    return 1.0 if wait_s == 0 else wait_s


Carrier.step = step_and_rest  # type: ignore[method-assign]
main()
