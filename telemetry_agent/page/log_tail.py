"""The newest lines of the log, for the page."""

import logging
from collections import deque
from collections.abc import Collection

from telemetry_agent.fields import rfc3339
from telemetry_agent.secrecy import masked

_LINES = 200
_LONGEST = 1000


class LogTail(logging.Handler):
    """Keeps them in memory. Any thread may log and look.

    Args:
        secrets: what no line may show, also what is added to it later.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__(logging.INFO)
        self._secrets = secrets
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, without a traceback."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a record that cannot be rendered must not end its thread
            self.handleError(record)
            return
        self._lines.append((record.created, record.levelname.lower(), text[:_LONGEST]))

    def lines(self) -> list[str]:
        """The oldest first: time in UTC, level, text."""
        return [
            f"{rfc3339(int(when) * 1000)[:19]}Z {level}: {masked(text, self._secrets)}"
            for when, level, text in list(self._lines)
        ]
