"""The reference endpoint: accepts the native format and stores each fix once."""

from telemetry_agent.lab.endpoint.endpoint import Endpoint, Fault, Tokens

__all__ = ["Endpoint", "Fault", "Tokens"]
