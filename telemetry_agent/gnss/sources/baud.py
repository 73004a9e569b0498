"""Detects the speed of a serial line by the bytes that arrive.

A speed is right when a whole sentence or binary frame arrives: both have a checksum. It is wrong
as soon as most bytes are not text. A pause shows nothing, because most receivers send once a second
and are silent in between.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from telemetry_agent.gnss.framing import Framer
from telemetry_agent.gnss.sources.protocols import may_be_binary, protocol

_log = logging.getLogger(__name__)

BAUD_RATES = (9600, 38400, 115200, 4800, 57600, 19200, 230400, 460800, 921600)
"""The most likely first."""

PATIENCE_S = 1.2
"""Longer than the second between two epochs of most receivers."""

_ENOUGH_BYTES = 64
_TOO_MANY_BYTES = 2048
_TEXT = bytes(range(0x20, 0x7F)) + b"\r\n"


class Trial:
    """The test of one speed."""

    def __init__(self) -> None:
        self.received = b""
        self._framer = Framer()

    def feed(self, data: bytes) -> bool | None:
        """Whether the speed is right; ``None`` while that is not decided."""
        self.received += data
        if self._framer.feed(data) or self._framer.unchecked or protocol(self.received):
            return True
        if len(self.received) < _ENOUGH_BYTES:
            return None
        noise = len(self.received.translate(None, _TEXT))
        if noise * 4 > len(self.received) and not may_be_binary(self.received):
            return False
        return False if len(self.received) > _TOO_MANY_BYTES else None


def in_order(known: int | None) -> Iterator[int]:
    """All speeds; the one that worked before comes first."""
    if known:
        yield known
    yield from (baud for baud in BAUD_RATES if baud != known)


class BaudMemory:
    """The speed that worked for each receiver, in a file that may disappear at any time.

    Args:
        path: the file, in a folder that survives a restart; ``None``: remember nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = self._load()

    def __getitem__(self, name: str) -> int | None:
        return self._known.get(name)

    def __setitem__(self, name: str, baud: int) -> None:
        if self._known.get(name) == baud:
            return
        self._known[name] = baud
        if self._path is None:
            return
        new = self._path.with_name(self._path.name + ".new")
        try:
            new.write_text(json.dumps(self._known))
            new.replace(self._path)
        except OSError as error:
            # The next start detects the speed again, which takes seconds.
            _log.debug("cannot remember the baud rate in %s: %s", self._path, error)

    def _load(self) -> dict[str, int]:
        try:
            known = json.loads(self._path.read_text()) if self._path else {}
        except (OSError, ValueError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {name: baud for name, baud in known.items() if baud in BAUD_RATES}
