"""Where a receiver's bytes come from: serial ports, gpsd, the network, recordings.

A source belongs to one thread, which opens, reads and closes it. Other threads may only call
``cancel``. After a ``SourceError`` from ``read`` the owner closes the source and may open it again,
which finds the receiver by its name even if its device node has changed.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from telemetry_agent.errors import Advice, SourceError
from telemetry_agent.model import ReceiverState


class BusyError(SourceError):
    """The receiver exists, but another program uses it."""


class ForbiddenError(SourceError):
    """The system does not let this user open the receiver."""


class EndOfSourceError(Exception):
    """The source has no more bytes and never will."""


class Source(Protocol):
    """A receiver, or a recording of one."""

    name: str
    """Its name in messages."""
    baud: int | None = None
    """The baud rate of a serial line; ``None``: no serial line, or not known yet."""
    live: bool = True
    """Whether its positions are current, unlike those of a recording."""
    rejected: Mapping[str, int] = MappingProxyType({})
    """How often it dropped input that the decoder never saw, by reason."""

    def open(self) -> None:
        """Open the device or connection.

        Raises:
            SourceError: it cannot be opened; says why and what to do. ``BusyError`` if another
                program has it.
        """

    def read(self, timeout_s: float) -> bytes:
        """Return the bytes that have arrived, as soon as there are any.

        Returns:
            ``b""`` if no bytes arrived within ``timeout_s``, or the read was cancelled.

        Raises:
            SourceError: the receiver went away.
            EndOfSourceError: there is no more data.
        """

    def cancel(self) -> None:
        """End the blocked open or read at once, or else the next one. Any thread may call."""

    def close(self) -> None:
        """Free the device for others. Idempotent."""

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:
        """Describe what is wrong with a source that was closed as useless, and what to do.

        Args:
            state: silent, wrong-baud or binary.
            heard: the last bytes, without a valid sentence.
        """
