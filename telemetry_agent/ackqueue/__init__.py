"""From fixes to disk, and from disk to batches that are acknowledged.

``AckQueue`` is the public class of this room; ``docs/ackqueue.md`` shows its use.
"""

from telemetry_agent.ackqueue.queue import AckQueue

__all__ = ["AckQueue"]
