"""The commands of the control socket: each is a generator of answers, ready for JSON.

The control socket of a running daemon and the command line that reads a queue at rest call the same
functions, so both give the same answers.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any, Generic, ParamSpec, TypeGuard

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.reading import QueueReader
from telemetry_agent.ackqueue.recovery.verify import verify
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.ackqueue.stats import Stored
from telemetry_agent.clock import Clock
from telemetry_agent.daemon.client import Answers
from telemetry_agent.daemon.control import Command
from telemetry_agent.errors import AgentError, UnavailableError, UsageError
from telemetry_agent.export import FORMATS
from telemetry_agent.export.track import Gaps
from telemetry_agent.export.trips import ParkingRule, Trips
from telemetry_agent.fields import fix_fields, rfc3339
from telemetry_agent.gnss.reader import ReceiverStatus
from telemetry_agent.tasks import Bell
from telemetry_agent.upload.upload_status import UploadStatus

STATES = {state.name.lower(): state for state in State if state > 0}
"""The public states of the queue, by their names."""

_FIXES_PER_ANSWER = 1000
_TAP_BUFFER_BYTES = 256 * 1024
_ATTEMPTS = 3
_LONGEST_WAIT_S = 60.0
_ALWAYS_MS = 2**62

Readable = AckQueue | QueueReader
"""A queue in use, or at rest."""

P = ParamSpec("P")


class Listeners(Generic[P]):
    """Calls all listeners that have joined. Any thread may call, join and leave."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Callable[P, object]] = []

    @contextmanager
    def joined(self, listener: Callable[P, object]) -> Iterator[None]:
        """Call ``listener`` while the block runs; it must not wait."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call all of them."""
        with self._lock:
            for listener in self._listeners:
                listener(*args, **kwargs)

    def __bool__(self) -> bool:
        return bool(self._listeners)


def looking_commands(queue: Readable) -> dict[str, Command]:
    """``queue stats | list`` and ``export``, which change nothing."""

    def stats(_asked: Mapping[str, Any], _bell: Bell) -> Answers:
        yield asdict(queue.stats())

    def fixes(asked: Mapping[str, Any], _bell: Bell) -> Answers:
        word, limit = asked.get("state"), asked.get("limit")
        if word is not None and (not isinstance(word, str) or word not in STATES):
            raise UsageError(f"state {word!r}: one of {', '.join(STATES)}")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise UsageError(f"limit {limit!r}: a number from 0 on")
        for stored in islice(queue.stored(STATES[word] if word else None), limit):
            answer = {
                "stream": stored.record.stream,
                "seq": stored.record.seq,
                "device": stored.record.device,
                "time": rfc3339(stored.record.fix.time_ms),
                "state": stored.state.name.lower(),
            }
            yield answer if stored.reason is None else answer | {"reason": stored.reason}

    return {
        "queue stats": Command(stats, public=lambda counts: counts | _reasonless(counts)),
        "queue list": Command(fixes),
        "export": Command(lambda asked, _bell: export(asked, queue)),
    }


def _reasonless(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The dead letters without their reasons, which may quote the endpoint."""
    total = sum(counts["dead_letters"].values())
    return {"dead_letters": {"refused": total} if total else {}}


def status_for_strangers(answer: dict[str, Any]) -> dict[str, Any]:
    """A snapshot without errors and reasons: they may quote the endpoint, a path or the config."""
    without = {
        section: {name: value for name, value in part.items() if name != "last_error"}
        for section, part in answer.items()
        if isinstance(part, dict)
    }
    without["queue"] |= _reasonless(without["queue"])
    return answer | without


def queue_commands(queue: AckQueue) -> dict[str, Command]:
    """All of these, and ``queue newest | retry | discard | resend | verify``."""

    def retry(asked: Mapping[str, Any], _bell: Bell) -> Answers:
        reason = asked.get("reason")
        if isinstance(reason, str):
            yield {"retried": queue.retry(reason=reason)}
        else:
            yield {"retried": queue.retry(_names(asked))}

    def discard(asked: Mapping[str, Any], _bell: Bell) -> Answers:
        yield {"discarded": queue.discard(_names(asked))}

    def resend(asked: Mapping[str, Any], _bell: Bell) -> Answers:
        if "stream" in asked:
            yield {"resent": queue.resend_names(*_run(asked))}
            return
        since_ms = _instant_ms(queue, asked, "since", -_ALWAYS_MS)
        until_ms = _instant_ms(queue, asked, "until", _ALWAYS_MS)
        yield {"resent": queue.resend(since_ms, until_ms)}

    def newest(asked: Mapping[str, Any], _bell: Bell) -> Answers:
        limit = asked.get("limit")
        if type(limit) is not int or not 0 <= limit <= _FIXES_PER_ANSWER:
            raise UsageError(f"limit {limit!r}: a number from 0 to {_FIXES_PER_ANSWER}")
        for stream, seq, device, fix in queue.newest(limit):
            yield {"stream": stream, "seq": seq, "device": device, **fix_fields(fix)}

    return looking_commands(queue) | {
        "queue newest": Command(newest),
        "queue retry": Command(retry),
        "queue discard": Command(discard),
        "queue resend": Command(resend),
        "queue verify": Command(lambda _asked, _bell: verify(queue.shared)),
    }


def export(asked: Mapping[str, Any], queue: Readable) -> Answers:
    """The fixes of a period or a trip as the pieces of a file: ``{"text": …}``.

    Each answer also has the number of ``fixes`` so far, and how many of those that are ``stored``
    were ``read``.
    """
    since_ms, until_ms = _period_ms(queue, asked)
    name, counts = asked.get("format"), queue.stats()
    if not isinstance(name, str) or name not in FORMATS:
        raise UsageError(f"format {name!r}: one of {', '.join(FORMATS)}")
    progress = {
        "fixes": 0,
        "read": 0,
        "stored": counts.ready + counts.unack + counts.acked + counts.ack_failed,
    }

    def chunks() -> Iterator[list[Stored]]:
        stored = queue.stored()
        while chunk := list(islice(stored, _FIXES_PER_ANSWER)):
            chosen = [one for one in chunk if since_ms <= one.record.fix.time_ms < until_ms]
            progress["read"] += len(chunk)
            progress["fixes"] += len(chosen)
            yield chosen

    for text in FORMATS[name].pieces(chunks(), _gaps(asked)):
        yield {"text": text, **progress}


def _gaps(asked: Mapping[str, Any]) -> Gaps:
    """From ``"gap_s"`` and ``"standing_gap_s"``."""
    default = Gaps()
    gaps = Gaps(
        asked.get("gap_s", default.moving_s), asked.get("standing_gap_s", default.standing_s)
    )
    if not all(isinstance(gap_s, int | float) for gap_s in gaps):
        raise UsageError("gap_s and standing_gap_s are numbers of seconds")
    return gaps


def _period_ms(queue: Readable, asked: Mapping[str, Any]) -> tuple[int, int]:
    """The period of ``"since_…"`` and ``"until_…"``, or of a ``"trip"``.

    1 is the newest trip. ``"parking"``, a radius in m and a time in s, ends a trip.
    """
    number = asked.get("trip")
    if number is None:
        since_ms = _instant_ms(queue, asked, "since", -_ALWAYS_MS)
        return since_ms, _instant_ms(queue, asked, "until", _ALWAYS_MS)
    if type(number) is not int or number < 1:
        raise UsageError(f"trip {number!r}: a number from 1 on; 1 is the newest")
    parking = asked.get("parking", [*ParkingRule()])
    if not (isinstance(parking, list) and list(map(type, parking)) == [float, float]):
        raise UsageError("parking is two numbers: metres and seconds")
    trips = Trips(_gaps(asked).between, ParkingRule(*parking))
    for row, stored in enumerate(queue.stored()):
        trips.feed(row, stored.record)
    found = trips.all()
    if number > len(found):
        raise AgentError(f"there is no trip {number}: a trip ends when the device parks")
    return found[-number].start_ms, found[-number].end_ms + 1


def _run(asked: Mapping[str, Any]) -> tuple[str, int, int]:
    """From ``"stream"``, ``"from"`` and ``"to"``, the first and the last seq."""
    stream, first, last = (asked.get(name) for name in ("stream", "from", "to"))
    if not _is_stream(stream):
        raise UsageError(f"stream {stream!r}: 16 hex digits, as in `queue list`")
    if not (_is_seq(first) and _is_seq(last) and first <= last):
        raise UsageError(f"from {first!r} to {last!r}: two whole numbers from 1 on, ascending")
    return stream, first, last


def _names(asked: Mapping[str, Any]) -> set[tuple[str, int]] | None:
    """From ``"names": [["9f0c2d…", 17], …]``; ``None`` for ``"all": true``."""
    if asked.get("all") is True:
        return None
    names = asked.get("names")
    if not isinstance(names, list) or not all(
        isinstance(name, list) and len(name) == 2 and _is_stream(name[0]) and _is_seq(name[1])
        for name in names
    ):
        raise UsageError('"names" is a list of [stream, seq], or "all" is true')
    return {(stream, seq) for stream, seq in names}


def _is_stream(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None


def _is_seq(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and value is not True and 0 < value < 1 << 62


def _instant_ms(queue: Readable, asked: Mapping[str, Any], edge: str, default: int) -> int:
    """From ``"since_ms"``, GNSS time, or ``"since_age_s"``, the time before the newest fix."""
    instant, age_s = asked.get(f"{edge}_ms"), asked.get(f"{edge}_age_s")
    if isinstance(instant, int):
        return instant
    if isinstance(age_s, int | float):
        newest_ms = queue.newest_ms()
        if newest_ms is None:
            raise AgentError("no fix with a known time was recorded yet", "give a time, not an age")
        return newest_ms - round(age_s * 1000)
    if instant is not None or age_s is not None:
        raise UsageError(f"{edge}_ms is a whole number, {edge}_age_s a number of seconds")
    return default


def drain(
    queue: AckQueue,
    upload: Callable[[], UploadStatus],
    hurry: Callable[[], None],
    clock: Clock,
    bell: Bell,
) -> Answers:
    """Send everything that is recorded by now. Each answer reports the progress.

    It ends when nothing is left. It gives up if three attempts in a row delivered nothing, or if
    the next attempt is more than a minute away.

    Args:
        queue: has the fixes.
        upload: the state of uploads.
        hurry: ends a wait of the uploader.
        clock: measures the wait until the next attempt.
        bell: must ring after each step of the uploader.

    Raises:
        UnavailableError: the endpoint cannot be reached, or accepts nothing now.
        AgentError: uploads are held: the set-up is wrong.
    """
    last_row = queue.last_row()
    start = before = upload()
    bell.clear()
    hurry()
    while True:
        now, pending = upload(), queue.pending(last_row)
        yield {
            "pending": pending,
            "delivered": now.delivered - start.delivered,
            "state": now.state,
        }
        if not pending and queue.stats().carrying_over:
            raise AgentError(
                "the queue is sent, but fixes are still being carried over from a damaged file",
                "drain again later",
            )
        if not pending:
            return
        if now.delivered != before.delivered or now.waits < before.waits:
            before = now
        attempts = now.waits - before.waits
        if attempts and now.state == "held":
            raise AgentError(f"uploads are held, {pending} fixes wait: {now.last_error}")
        wait_s = (now.next_attempt_s or 0.0) - clock.monotonic_s()
        # Until the uploader has noticed the hurry, this is still the wait that the hurry ends.
        is_noticed = now.hurries != start.hurries
        if attempts >= _ATTEMPTS or (is_noticed and wait_s > _LONGEST_WAIT_S):
            raise UnavailableError(f"{pending} fixes wait: {now.last_error}")
        bell.wait(None)
        bell.clear()


def tap(
    asked: Mapping[str, Any],
    listeners: Listeners[[bytes]],
    receiver: ReceiverStatus,
    clock: Clock,
    bell: Bell,
) -> Answers:
    """The bytes of the receiver: ``{"raw": …}``, one character for each byte.

    The first answer has the ``source`` and its ``state``. If the client reads too slowly, bytes are
    dropped, and ``{"dropped_bytes": …}`` is sent in their place.
    """
    for_s = asked.get("for_s")
    if for_s is not None and not isinstance(for_s, int | float):
        raise UsageError(f"for_s {for_s!r}: a number of seconds")
    end_s = None if for_s is None else clock.monotonic_s() + for_s
    buffer = _TapBuffer(bell)
    with listeners.joined(buffer.add):
        yield {"source": receiver.source, "state": receiver.state}
        while True:
            bell.clear()
            data, dropped = buffer.take()
            if data:
                yield {"raw": data.decode("latin-1")}
            if dropped:
                yield {"dropped_bytes": dropped}
            left_s = None if end_s is None else end_s - clock.monotonic_s()
            if left_s is not None and left_s <= 0:
                return
            bell.wait(left_s)


class _TapBuffer:
    """Passes bytes from the reader, which must never wait, to a client that may be slow."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._lock = threading.Lock()
        self._data = bytearray()
        self._dropped = 0

    def add(self, data: bytes) -> None:
        with self._lock:
            # After a gap, nothing may follow until the gap is reported.
            if self._dropped or len(self._data) + len(data) > _TAP_BUFFER_BYTES:
                self._dropped += len(data)
            else:
                self._data += data
        self._bell.ring()

    def take(self) -> tuple[bytes, int]:
        with self._lock:
            data, dropped = bytes(self._data), self._dropped
            self._data.clear()
            self._dropped = 0
        return data, dropped
