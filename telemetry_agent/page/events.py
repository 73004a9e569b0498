"""What the page shows, as the events that browsers get.

All viewers get the same text, which is made once: twenty of them cost little more than one. An
event holds the whole state, and of the track only what is new: the positions behind those of the
last event, and the places of the rows if they have changed. A viewer that is new or missed an
event gets the packed positions (``TrackIndex``) and continues from there.

``hello`` begins a stream of events, each ``news`` continues it. Both are JSON objects:

- the fields of ``Agent.snapshot``, without ``pid``;
- ``stream``: names the row numbers. If it changes, all positions must be read again: the agent was
  restarted, thinning has moved the rows, or a damaged file was carried over;
- ``position``: the last fix as in an export, with ``age_s``; absent: there was none;
- ``findings``: what is wrong, in the doctor's words: ``name``, ``verdict``, ``said``, ``remedy``;
- ``network``: ``word``, since ``since_s``, ``error``;
- ``first`` and ``last``: the row of the oldest position, and the row up to which all were read;
- ``whole``: whether the earlier track was read, too;
- ``after``: ``points`` are those behind this row. Each is row, latitude and longitude in 1e-7
  degrees, seconds since 1970, and the sum of 1 where a segment of the track begins and 2 where the
  device cannot have been;
- ``places``: where the rows are, as first row, last row, place; absent: as before. Of more than
  4,000 runs, short ones that are next to each other are one, in the worst of their places;
- ``gone``: rows, as first and last, that were removed since the last event;
- ``away``: whether the demo's network is cut; absent: this is not a demo.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from telemetry_agent.ackqueue.contents import Place
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import fix_fields
from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.track_index import NEWEST, POINT, Point, TrackIndex
from telemetry_agent.snapshot import as_json

_POINTS_MAX = 1000
_LOOK_SHARE = 5
"""Until the next look at the places of all rows: so many times what this one took."""
_RUNS_MAX = 4000
"""About 100 kB in an event."""
_WORST_FIRST: tuple[Place, ...] = ("dead-letter", "stored", "in-flight", "delivered")


class EventSource:
    """Makes the events. One thread at a time may call each method; ``index`` has its own rule."""

    def __init__(self, agent: AgentView) -> None:
        self._agent = agent
        self._stream = ""
        self._moves = self._moves_before = 0
        self._last = 0
        self.index = self._new_index()
        self._latest: dict[str, Any] = {}
        self._gone: set[tuple[int, int]] = set()
        self._runs: list[list[Any]] = []
        self._look_again_s = 0.0

    def news(self) -> str:
        """The next event, for viewers that have all before it. Reads what is new from the disk."""
        after, points = self._read()
        gone = self._look_at_places()
        before, self._latest = self._latest, self._state()
        event = self._latest | {"after": after, "points": points}
        if all(before.get(name) == event[name] for name in ("places", "stream")):
            del event["places"]
        return _text(event | {"gone": gone} if gone else event)

    def hello(self) -> str:
        """The first event for a new viewer. ``news`` must have been called before."""
        latest = self._latest
        return _text(latest | {"after": latest["last"], "points": []})

    def trips(self) -> str:
        """The trips, whether all rows were read for them, and how many of those that are stored."""
        index = self.index
        found, goes_on = index.trips()
        trips = [asdict(trip) for trip in found]
        if goes_on and index.is_complete:
            silent_s = (self._agent.utc_ms() - found[-1].end_ms) / 1000
            if silent_s < self._agent.parking.after_s:
                trips[-1]["open"] = True
        counts = self._agent.queue.stats()
        stored = counts.ready + counts.unack + counts.acked + counts.ack_failed
        return json.dumps(
            {"trips": trips, "complete": index.is_complete, "read": index.read, "stored": stored}
        )

    def fix(self, row: int) -> dict[str, Any] | None:
        """The stored fix of that row, as in an export; ``None``: there is none.

        Raises:
            StorageError: the disk cannot be read.
        """
        _, found = self._agent.queue.after(row - 1)
        if not found or found[0][0] != row:
            return None
        record = found[0][1]
        place = next((span.value for span in self._agent.queue.places(row)), "stored")
        names = {"stream": record.stream, "seq": record.seq, "place": place}
        return names | fix_fields(record.fix)

    def _new_index(self) -> TrackIndex:
        return TrackIndex(self._agent.queue, self._agent.gaps.between, self._agent.parking)

    def _state(self) -> dict[str, Any]:
        agent = self._agent
        snapshot = agent.snapshot()
        state: dict[str, Any] = as_json(snapshot)
        del state["pid"]
        doctor = agent.doctor
        state |= {
            "findings": doctor.findings(snapshot, agent.queue.path) if doctor is not None else [],
            "stream": f"{self._stream}.{self._moves}",
            "network": agent.network(),
            "first": self._runs[0][0] if self._runs else self._last + 1,
            "last": self._last,
            "whole": self.index.is_complete,
            "places": self._runs,
        }
        position = agent.position()
        if position is not None:
            state["position"] = position
        if agent.switch is not None:
            state["away"] = agent.switch.is_away()
        return state

    def _read(self) -> tuple[int, list[Point]]:
        """Read the new rows. Returns a row, and the new points behind it.

        Of many new points these are only the last ones: a viewer gets the others packed, which is
        cheaper. If the disk cannot be read now, a later call reads the same rows.
        """
        queue = self._agent.queue
        newest, moves = queue.last_row(), 2 * queue.moves() + queue.stats().carrying_over
        # While the queue thins a backlog, rows move each second; while it carries over a damaged
        # file, rows come before others. The track is read again once that has come to rest.
        moved = moves == self._moves_before != self._moves
        self._moves_before = moves
        if queue.stream != self._stream or newest < self._last or moved:
            self._stream, self._moves = queue.stream, moves
            self._last = newest
            self._look_again_s = 0.0
            self.index = self._new_index()
        after = max(self._last, newest - _POINTS_MAX)
        packed = b""
        with suppress(StorageError):
            self._last, packed = self.index.behind(after)
        return after, list(POINT.iter_unpack(packed))

    def _look_at_places(self) -> list[tuple[int, int]]:
        """Where the rows are now. Returns those of the newest that are newly gone.

        If the endpoint refused every other fix, to look takes long. Then it is done less often.
        """
        clock = self._agent.clock
        began_s = clock.monotonic_s()
        if began_s < self._look_again_s:
            return []
        runs = Runs()
        gone: set[tuple[int, int]] = set()
        for lo, hi, place in self._agent.queue.places(1):
            if place != "gone":
                runs.add(lo, hi, place)
            elif hi > self._last - NEWEST:
                gone.add((lo, hi))
        new, self._gone, self._runs = sorted(gone - self._gone), gone, runs.found
        if self._runs:
            self.index.forget(self._runs[0][0], new)
        end_s = clock.monotonic_s()
        self._look_again_s = end_s + _LOOK_SHARE * (end_s - began_s)
        return new


class Runs:
    """Rows as runs, ascending and not too many, for an event that goes to every viewer.

    Rows that are gone are left out, and a run continues behind them: a thinned backlog is one run.
    If there are too many runs, the short ones of a part of the rows become one, in the worst of
    their places.
    """

    def __init__(self, limit: int = _RUNS_MAX) -> None:
        self.found: list[list[Any]] = []  # first row, last row, place
        self._limit = limit
        self._part = 1  # a power of two; runs that have fewer rows are short

    def add(self, lo: int, hi: int, place: Place) -> None:
        """Add the next run."""
        self._join([lo, hi, place])
        while len(self.found) > self._limit:
            self._part *= 2
            found, self.found = self.found, []
            for run in found:
                self._join(run)

    def _join(self, run: list[Any]) -> None:
        last = self.found[-1] if self.found else None
        if last is not None and (last[2] == run[2] or self._are_one_part(last, run)):
            last[1:] = run[1], min(last[2], run[2], key=_WORST_FIRST.index)
        else:
            self.found.append(run)

    def _are_one_part(self, *runs: list[Any]) -> bool:
        first, other = (lo // self._part for lo, *_ in runs)
        return first == other and all(hi - lo < self._part for lo, hi, _ in runs)


def _text(state: Mapping[str, Any]) -> str:
    return json.dumps(state, separators=(",", ":"))
