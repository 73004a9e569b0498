"""A recorded file in place of a receiver."""

import stat
from pathlib import Path
from typing import BinaryIO

from telemetry_agent.errors import Advice, SourceError
from telemetry_agent.gnss.sources import EndOfSourceError, Source
from telemetry_agent.model import ReceiverState

_CHUNK_BYTES = 4096


class ReplaySource(Source):
    """Reads a file from its beginning to its end, as fast as the caller reads.

    It does not remember its place in the file: a restart replays it, and its fixes are new.
    """

    live = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """See ``Source.open``."""
        try:
            # Opening a pipe would wait for its writer, and no caller could end that wait.
            if not stat.S_ISREG(self._path.stat().st_mode):
                raise SourceError(f"{self.name} is not a file", "file:// replays a recorded one")
            self._file = self._path.open("rb")
        except OSError as error:
            raise SourceError(
                f"{self.name} cannot be replayed: {error.strerror}", "check gps.source"
            ) from error

    def read(self, timeout_s: float) -> bytes:  # noqa: ARG002 - a file does not block
        """See ``Source.read``."""
        if self._file is None:
            raise SourceError(f"{self.name} is not open")
        try:
            data = self._file.read(_CHUNK_BYTES)
        except OSError as error:
            raise SourceError(f"{self.name} cannot be read: {error.strerror}") from error
        if not data:
            raise EndOfSourceError
        return data

    def cancel(self) -> None:
        """See ``Source.cancel``: no read ever blocks."""

    def close(self) -> None:
        """See ``Source.close``."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:  # noqa: ARG002
        """See ``Source.advice``."""
        return Advice(f"{self.name} does not contain NMEA", "file:// replays what a receiver sent")
