"""From fixes to disk, and from disk to batches that are acknowledged."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telemetry_agent.ackqueue.queue import AckQueue

__all__ = ["AckQueue"]


def __getattr__(name: str) -> Any:
    """``AckQueue``, for other programs; who needs another module pays for that alone."""
    if name != "AckQueue":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from telemetry_agent.ackqueue.queue import AckQueue  # noqa: PLC0415 - see above

    return AckQueue
