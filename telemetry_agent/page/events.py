"""What the page shows, as the events that browsers get.

All viewers get the same text, made once: twenty of them cost little more than one. An event holds
the state of everything, and of the track only what is new: the positions behind those of the last
event, and where the rows are, if that is not as it was. Who has just come, or missed an event,
gets the positions packed (``Trail``) and goes on from there.

``hello`` begins a stream of events, ``news`` goes on. Both are JSON objects:

- what ``Status.snapshot`` tells, without ``pid``;
- ``stream``: of the row numbers: with another one all positions are to be read again, for the
  agent began anew, or thinning has moved the rows;
- ``position``: the last fix as in an export, with ``age_s``; absent: there was none;
- ``network``: ``word``, since ``since_s``, ``error``;
- ``first`` and ``last``: the oldest position kept, and how far the rows were looked through;
- ``after``: ``points`` are those behind this row; each is row, latitude and longitude in 1e-7
  degrees, seconds since 1970, and 1 where a segment of the track begins;
- ``places``: where the rows are, as first row, last row, place; absent: as before;
- ``gone``: rows, as first and last, that are there no more since the last event;
- ``away``: whether the demo's network is cut; absent: it is no demo.
"""

import json
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from telemetry_agent.ackqueue.places import Place
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.clock import Clock
from telemetry_agent.errors import StorageError
from telemetry_agent.export.track import Gaps
from telemetry_agent.page.history import History, Sample
from telemetry_agent.page.trail import LIMIT, Point, Trail
from telemetry_agent.snapshot import Snapshot, as_json


class Switch(Protocol):
    """Cuts the network of a demo. Any thread may use it."""

    def is_away(self) -> bool:
        """Whether it is cut."""

    def set_away(self, away: bool) -> None:
        """Cut it, or mend it."""


@dataclass(frozen=True)
class AgentView:
    """What the page sees of the agent; any thread may look."""

    queue: AckQueue
    snapshot: Callable[[], Snapshot]
    position: Callable[[], dict[str, Any] | None]
    network: Callable[[], dict[str, Any]]
    gaps: Gaps
    """Where a segment of the track ends."""
    ask: Callable[[str, Mapping[str, Any]], Generator[dict[str, Any], None, None]]
    """Asks one of the daemon's commands."""
    clock: Clock = field(default_factory=Clock)
    switch: Switch | None = None


class EventSource:
    """Makes the events. One thread at a time may call each method; ``packed`` any."""

    def __init__(self, sight: AgentView) -> None:
        self._sight = sight
        self._began_s = sight.clock.monotonic_s()
        self._lock = threading.Lock()  # of the trail
        self._stream = ""
        self._thinned = self._thinned_before = 0
        self._trail = Trail(sight.gaps.between)
        self._history = History()
        self._latest: dict[str, Any] = {}
        self._gone: set[tuple[int, int]] = set()

    def sample(self) -> float:
        """Take down how the queue does, if that is due. Returns in how many seconds it is again."""
        uptime_s = self._sight.clock.monotonic_s() - self._began_s
        if self._history.due_s() <= uptime_s:
            state = self._sight.snapshot()
            self._history.add(
                Sample(
                    round(uptime_s, 1),
                    state.queue.pending,
                    state.upload.delivered,
                )
            )
        return max(0.0, self._history.due_s() - uptime_s)

    def history(self) -> str:
        """The samples: ``now_s`` on their time scale, and three lists."""
        now_s = self._sight.clock.monotonic_s() - self._began_s
        columns = (
            zip(*self._history.samples, strict=True) if self._history.samples else ([], [], [])
        )
        return json.dumps(
            {
                "now_s": round(now_s, 1),
                **dict(zip(Sample._fields, map(list, columns), strict=True)),
            }
        )

    def news(self) -> str:
        """The next event for those who have all before it. Reads what is new from the disk."""
        after, points = self._read()
        spans = self._sight.queue.places(self._trail.first)
        gone, places = self._forget(spans), _runs(spans)
        before, self._latest = self._latest, self._look() | {"places": places}
        event = self._latest | {"after": after, "points": points}
        if before and (places, self._latest["stream"]) == (before["places"], before["stream"]):
            del event["places"]
        return _text(event | {"gone": gone} if gone else event)

    def hello(self) -> str:
        """The first event for one who has nothing; ``news`` was called before."""
        latest = self._latest
        return _text(latest | {"after": latest["last"], "points": []})

    def packed(self, row: int) -> tuple[int, bytes]:
        """How far the rows were looked through, and the positions behind that row."""
        with self._lock:
            return self._trail.last, self._trail.after(row)

    def _look(self) -> dict[str, Any]:
        sight = self._sight
        state: dict[str, Any] = as_json(sight.snapshot())
        del state["pid"]
        state |= {
            "stream": f"{self._stream}.{self._thinned}",
            "network": sight.network(),
            "first": self._trail.first,
            "last": self._trail.last,
        }
        position = sight.position()
        if position is not None:
            state["position"] = position
        if sight.switch is not None:
            state["away"] = sight.switch.is_away()
        return state

    def _read(self) -> tuple[int, list[Point]]:
        """Go on with the trail. Returns the points behind a row, up to now.

        There are none where many came at once: they are cheaper packed. What the disk does not
        give now it may give later.
        """
        queue = self._sight.queue
        newest = queue.last_row()
        with self._lock:
            thinned = queue.stats().lost.get("thinned", 0)
            moved = thinned == self._thinned_before != self._thinned  # and it is at rest again
            self._thinned_before = thinned
            if queue.stream != self._stream or newest < self._trail.last or moved:
                self._stream, self._thinned = queue.stream, thinned
                self._trail = Trail(self._sight.gaps.between)
                self._trail.extend(max(0, newest - LIMIT), [])
        after, points = self._trail.last, []
        with suppress(StorageError):
            while (read := queue.after(self._trail.last))[0] != self._trail.last:
                with self._lock:
                    after, points = self._trail.last, self._trail.extend(*read)
        return after, points

    def _forget(self, spans: Iterable[Span[Place]]) -> list[tuple[int, int]]:
        """Drop the positions of rows that are gone. Returns which of them are so just now."""
        gone = {(lo, hi) for lo, hi, place in spans if place == "gone"}
        new = sorted(gone - self._gone)
        self._gone = gone
        if new:
            with self._lock:
                self._trail.forget(new)
        return new


def _runs(spans: Iterable[Span[Place]]) -> list[list[Any]]:
    """The spans without what is gone, and as long as can be: a thinned backlog is one run."""
    runs: list[list[Any]] = []
    end = 0
    for lo, hi, place in spans:
        if place != "gone":
            if runs and runs[-1][2] == place and end + 1 == lo:
                runs[-1][1] = hi
            else:
                runs.append([lo, hi, place])
        end = hi
    return runs


def _text(state: Mapping[str, Any]) -> str:
    return json.dumps(state, separators=(",", ":"))
