"""What the page is given: the agent as it may see it, the user's settings, and the log.

The agent imports this module. It imports the rest of the page only when the page is on.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.clock import Clock
from telemetry_agent.export.track import Gaps
from telemetry_agent.export.trips import ParkingRule
from telemetry_agent.fields import rfc3339
from telemetry_agent.secrecy import masked
from telemetry_agent.snapshot import Snapshot

_FRESH_S = 10.0
_LOG_LINES = 200
_LONGEST_LINE = 1000


class Switch(Protocol):
    """Cuts the network of a demo. Any thread may use it."""

    def is_away(self) -> bool:
        """Whether the network is cut."""

    def set_away(self, away: bool) -> None:
        """Cut it, or restore it."""


class Doctor(Protocol):
    """Finds what is wrong, and the remedy. Any thread may ask."""

    def findings(self, state: Snapshot, queue_path: Path) -> list[dict[str, Any]]:
        """By snapshot and disk: ``name``, ``verdict`` (warn, fail), ``said`` and ``remedy``."""

    def check(self) -> dict[str, Any]:
        """Run every check: ``verdict`` and ``checks``. Raises ``AgentError``."""


@dataclass(frozen=True)
class AgentView:
    """What the page knows of the agent and of the user's settings; any thread may look."""

    queue: AckQueue
    snapshot: Callable[[], Snapshot]
    position: Callable[[], dict[str, Any] | None]
    network: Callable[[], dict[str, Any]]
    gaps: Gaps
    """Where the track breaks into segments."""
    ask: Callable[[str, Mapping[str, Any]], Generator[dict[str, Any], None, None]]
    """Runs one of the daemon's commands."""
    gnss_ms: Callable[[], int | None] = lambda: None
    """UTC by the last fix whose time is sure, in milliseconds since 1970; ``None``: not known."""
    clock: Clock = field(default_factory=Clock)
    switch: Switch | None = None
    doctor: Doctor | None = None
    log_lines: Callable[[], list[str]] = list
    """The newest lines of the log, secrets masked."""
    config: Callable[[], dict[str, Any]] = dict
    """Each key with its effective value, secrets masked."""
    parking: ParkingRule = field(default_factory=ParkingRule)
    """What ends a trip."""
    listen: tuple[str, int] | None = None
    """Host and port of the page; ``None``: it is off."""
    token_file: Path | None = None
    """Holds the token that admits viewers."""
    secrets: set[str] = field(default_factory=set)
    """Every secret that is read is added to it."""
    names: tuple[str, ...] = ()
    """Names, or names with ports, under which a reverse proxy serves the page."""
    tiles: str = ""
    """The template of a tile server's URLs; empty: none."""
    tiles_credit: str = ""
    """The attribution that the tile server's licence asks for."""
    map: Path | None = None
    """A PMTiles file."""
    history_file: Path | None = None
    """Where the history is kept."""

    def utc_ms(self) -> int:
        """UTC by GNSS, else by the system clock, which may be years off."""
        gnss_ms = self.gnss_ms()
        return self.clock.wall_ms() if gnss_ms is None else gnss_ms

    def clock_offset_s(self) -> float | None:
        """By how much the system clock is ahead of GNSS time; ``None``: that is not known."""
        position, gnss_ms = self.position(), self.gnss_ms()
        if gnss_ms is None or position is None or position["age_s"] >= _FRESH_S:
            return None
        return round((self.clock.wall_ms() - gnss_ms) / 1000, 1)


class LogTail(logging.Handler):
    """Keeps the newest lines of the log in memory. Any thread may log and look.

    Args:
        secrets: what no line may show, also what is added to it later.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__(logging.INFO)
        self._secrets = secrets
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=_LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, without a traceback."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a record that cannot be rendered must not end its thread
            self.handleError(record)
            return
        self._lines.append((record.created, record.levelname.lower(), text[:_LONGEST_LINE]))

    def lines(self) -> list[str]:
        """The oldest first: time in UTC, level, text."""
        return [
            f"{rfc3339(int(when) * 1000)[:19]}Z {level}: {masked(text, self._secrets)}"
            for when, level, text in list(self._lines)
        ]
