"""The reference endpoint: accepts the native format and stores each fix once."""

from telemetry_agent.lab.endpoint.endpoint import Endpoint, Fault
from telemetry_agent.lab.endpoint.http_server import AGENTS_PATH, PATH
from telemetry_agent.lab.endpoint.tokens import Tokens

__all__ = ["AGENTS_PATH", "PATH", "Endpoint", "Fault", "Tokens"]
