"""Where a receiver's bytes come from.

A source has one owner, the thread that opens, reads and closes it. Only ``cancel`` is for other
threads. After a ``SourceError`` from ``read`` the owner closes the source, and may open it again:
that finds the receiver under its name, on whatever node it is by then.
"""

from typing import Protocol

from telemetry_agent.errors import SourceError
from telemetry_agent.model import ReceiverState


class BusyError(SourceError):
    """The receiver is there, and another program has it."""


class EndOfSourceError(Exception):
    """The source holds no more bytes and never will."""


class Source(Protocol):
    """A receiver, or what stands in for one."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def baud(self) -> int | None:
        """The speed of the serial line; ``None`` where there is none, or it is not known yet."""

    @property
    def live(self) -> bool:
        """Whether the positions are of now; not those of a recording."""

    def open(self) -> None:
        """Make it ready to be read.

        Raises:
            SourceError: it cannot be opened; says why and what to do. ``BusyError`` where
                another program has it.
        """

    def read(self, timeout_s: float) -> bytes:
        """Return what has come in, as soon as there is anything.

        Returns:
            ``b""`` when nothing came within ``timeout_s``, or when the read was cancelled.

        Raises:
            SourceError: the receiver went away.
            EndOfSourceError: there is nothing more to come.
        """

    def cancel(self) -> None:
        """End the open or read that blocks, or else the next one, at once. From any thread."""

    def close(self) -> None:
        """Free the device for others. Idempotent."""

    def remedy(self, state: ReceiverState, heard: bytes) -> str:
        """What to tell the user of a source that was closed because it was of no use.

        Args:
            state: silent, wrong-baud or binary.
            heard: what came last, without a valid sentence in it.
        """
