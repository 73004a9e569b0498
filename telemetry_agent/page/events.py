"""What the page shows, as the events that browsers get.

All viewers get the same text, made once: twenty of them cost little more than one. An event holds
the state of everything, and of the track only what is new: the positions behind those of the last
event, and where the rows are, if that is not as it was. Who has just come, or missed an event,
gets the positions packed (``Trail``) and goes on from there.

``hello`` begins a stream of events, ``news`` goes on. Both are JSON objects:

- the fields of ``Status.snapshot``, without ``pid``;
- ``stream``: of the row numbers: with another one all positions are to be read again, for the
  agent was restarted, or thinning has moved the rows;
- ``position``: the last fix as in an export, with ``age_s``; absent: there was none;
- ``findings``: what is wrong, in the doctor's words: ``name``, ``verdict``, ``said``, ``remedy``;
- ``network``: ``word``, since ``since_s``, ``error``;
- ``first`` and ``last``: the oldest position kept, and how far the rows were looked through;
- ``whole``: whether the earlier track was read, too;
- ``after``: ``points`` are those behind this row; each is row, latitude and longitude in 1e-7
  degrees, seconds since 1970, and the sum of 1 where a segment of the track begins and 2 where the
  device cannot have been;
- ``places``: where the rows are, as first row, last row, place; absent: as before;
- ``gone``: rows, as first and last, that are there no more since the last event;
- ``away``: whether the demo's network is cut; absent: this is not a demo.
"""

import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from telemetry_agent.ackqueue.contents import Place
from telemetry_agent.ackqueue.ranges import Span
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import fix_fields
from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.points import NEWEST, Point, Trail
from telemetry_agent.page.track_index import TrackIndex, Wanted
from telemetry_agent.snapshot import as_json


class EventSource:
    """Makes the events. One thread at a time may call each method; ``packed`` any."""

    def __init__(self, agent: AgentView) -> None:
        self._agent = agent
        self._lock = threading.Lock()  # of the trail
        self._stream = ""
        self._moves = self._moves_before = 0
        self._trail = Trail(agent.gaps.between)
        self._index = self._new_index()
        self._latest: dict[str, Any] = {}
        self._gone: set[tuple[int, int]] = set()

    def news(self) -> str:
        """The next event for those who have all before it. Reads what is new from the disk."""
        after, points = self._read()
        first = self._index.first
        spans = self._agent.queue.places(min(first or self._trail.first, self._trail.first))
        if first is not None:
            kept = next((lo for lo, _, place in sorted(spans) if place != "gone"), first)
            if kept > first:
                self._index.forget_before(kept)
        gone = self._forget([span for span in spans if span.hi >= self._trail.first])
        places = _runs(spans)
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

    def scan(self) -> bool:
        """Read a little more of the track that nobody has seen yet. Returns whether there is more.

        Raises:
            StorageError: the disk does not give it now.
        """
        return self._index.scan()

    def shown(self, wanted: Wanted) -> tuple[int, bytes, int]:
        """How far the rows were looked through, the points to draw, and how exact they are.

        Raises:
            StorageError: the disk does not give them.
        """
        with self._lock:
            last, recent, index = self._trail.last, self._trail.after(0), self._index
        return last, *index.shown(wanted, recent)

    def trips(self) -> str:
        """The trips, whether all rows were read for them, how far they were, and the last row."""
        index = self._index
        done, current = index.known_trips()
        trips = [asdict(trip) for trip in done]
        if current is not None:
            trips.append(asdict(current))
            silent_s = (self._agent.utc_ms() - current.end_ms) / 1000
            if index.is_complete and silent_s < self._agent.parking.after_s:
                trips[-1]["open"] = True  # it goes on now
        for trip in trips:
            trip["stops"] = [stop._asdict() for stop in trip["stops"]]
        last = self._agent.queue.last_row()
        return json.dumps(
            {"trips": trips, "complete": index.is_complete, "read": index.last, "last": last}
        )

    def fix(self, row: int) -> dict[str, Any] | None:
        """The stored fix of that row, as in an export; ``None``: it is not there.

        Raises:
            StorageError: the disk does not give it.
        """
        _, found = self._agent.queue.after(row - 1)
        if not found or found[0][0] != row:
            return None
        record = found[0][1]
        return {"stream": record.stream, "seq": record.seq, **fix_fields(record.fix)}

    def _new_index(self) -> TrackIndex:
        return TrackIndex(self._agent.queue, self._agent.gaps.between, self._agent.parking)

    def _look(self) -> dict[str, Any]:
        agent = self._agent
        snapshot = agent.snapshot()
        state: dict[str, Any] = as_json(snapshot)
        del state["pid"]
        doctor = agent.doctor
        state |= {
            "findings": doctor.findings(snapshot, agent.queue.path) if doctor is not None else [],
            "stream": f"{self._stream}.{self._moves}",
            "network": agent.network(),
            "first": min(self._index.first or self._trail.first, self._trail.first),
            "last": self._trail.last,
            "whole": self._index.is_complete,
        }
        position = agent.position()
        if position is not None:
            state["position"] = position
        if agent.switch is not None:
            state["away"] = agent.switch.is_away()
        return state

    def _read(self) -> tuple[int, list[Point]]:
        """Go on with the trail. Returns the points behind a row, up to now.

        There are none where many came at once: they are cheaper packed. What the disk does not
        give now it may give later.
        """
        queue = self._agent.queue
        newest = queue.last_row()
        with self._lock:
            moves = queue.moves()
            moved = moves == self._moves_before != self._moves  # and it is at rest again
            self._moves_before = moves
            if queue.stream != self._stream or newest < self._trail.last or moved:
                self._stream, self._moves = queue.stream, moves
                self._trail = Trail(self._agent.gaps.between)
                self._index = self._new_index()
                self._trail.extend(max(0, newest - NEWEST), [])
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
