"""The reference endpoint: accepts the native format and stores each fix once."""

from telemetry_agent.lab.endpoint.endpoint import Endpoint, Fault
from telemetry_agent.lab.endpoint.tokens import Tokens

__all__ = ["Endpoint", "Fault", "Tokens"]
