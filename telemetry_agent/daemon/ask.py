"""How a command gets its answers: from the running agent, or else from the queue."""

from collections.abc import Mapping
from typing import Any

from telemetry_agent.config.settings import Settings
from telemetry_agent.daemon import client


def ask(settings: Settings, question: Mapping[str, Any], *, note: client.Note) -> client.Answers:
    """Ask the running agent; if none runs, read the queue at rest.

    Args:
        settings: the config.
        question: as the control socket takes it; ``ask`` names the command.
        note: takes a sentence for the user, about a damaged queue or an agent of another version.

    Raises:
        NoAgentError: none runs, and only a running agent can answer.
        AgentError: see ``client.ask`` and ``at_rest.answers``.
    """
    try:
        yield from client.ask(settings.queue.path, question, note)
    except client.NoAgentError:
        # It imports SQLite, which is not needed if an agent answers.
        from telemetry_agent.daemon import at_rest  # noqa: PLC0415

        yield from at_rest.answers(settings, question, note)
