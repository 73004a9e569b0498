"""The commands of the control socket: each is a generator of answers, ready for JSON.

The control socket of a running daemon and the command line that reads a queue at rest call the same
functions, so both give the same answers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any, NamedTuple, Self

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.reading import QueueReader
from telemetry_agent.ackqueue.recovery.verify import verify
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.ackqueue.stats import Stored
from telemetry_agent.config.settings import SamplingSettings
from telemetry_agent.daemon.client import AGE_MAX_S, Answers
from telemetry_agent.daemon.control import Command
from telemetry_agent.errors import AgentError, StorageError, UsageError, counted
from telemetry_agent.export import FORMATS
from telemetry_agent.export.track import Gaps
from telemetry_agent.export.trips import ParkingRule, Trips
from telemetry_agent.fields import fix_fields, rfc3339
from telemetry_agent.model import is_stream

STATES = {state.name.lower(): state for state in State if state > 0}
"""The public states of the queue, by their names."""

_FIXES_PER_ANSWER = 1000
_UNDONE = "if the agent ends before the disk can be written again, give the command again"
_ALWAYS_MS = 2**62

Readable = AckQueue | QueueReader
"""A queue in use, or at rest."""
Asked = Mapping[str, Any]
"""A question, as the control socket takes it."""


class TrackRules(NamedTuple):
    """Where a track breaks into segments, and what ends a trip."""

    gaps: Gaps = Gaps()
    parking: ParkingRule = ParkingRule()

    @classmethod
    def of(cls, sampling: SamplingSettings) -> Self:
        """Of fixes that were recorded with these settings."""
        radius_m = sampling.parked_radius_m or ParkingRule().radius_m
        return cls(
            Gaps.of_sampling(sampling.interval_s, sampling.heartbeat_s),
            ParkingRule(radius_m, sampling.parked_after_s),
        )


Rules = Callable[[], TrackRules]
"""The rules in effect: a reload may change them."""


def _stats(queue: Readable, _asked: Asked) -> Answers:
    yield asdict(queue.stats())


def _list(queue: Readable, asked: Asked) -> Answers:
    word = value(asked, "state", _one_of(STATES), f"one of {', '.join(STATES)}", None)
    limit = value(asked, "limit", _whole(0), "a number from 0 on", None)
    for stored in islice(queue.stored(word and STATES[word]), limit):
        answer = {
            "stream": stored.record.stream,
            "seq": stored.record.seq,
            "device": stored.record.device,
            "time": rfc3339(stored.record.fix.time_ms),
            "state": stored.state.name.lower(),
        }
        yield answer if stored.reason is None else answer | {"reason": stored.reason}


def export(queue: Readable, asked: Asked, rules: TrackRules) -> Answers:
    """The fixes of a period or a trip as the pieces of a file: ``{"text": …}``.

    Each answer also has the number of ``fixes`` so far, and how many of those that are ``stored``
    were ``read``.
    """
    since_ms, until_ms = _period_ms(queue, asked, rules)
    name = value(asked, "format", _one_of(FORMATS), f"one of {', '.join(FORMATS)}")
    counts = queue.stats()
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

    for text in FORMATS[name].pieces(chunks(), rules.gaps):
        yield {"text": text, **progress}


def _newest(queue: AckQueue, asked: Asked) -> Answers:
    limit = value(asked, "limit", _whole(0, 1000), "a number from 0 to 1000")
    for stream, seq, device, fix in queue.newest(limit):
        yield {"stream": stream, "seq": seq, "device": device, **fix_fields(fix)}


def _retry(queue: AckQueue, asked: Asked) -> int:
    reason = asked.get("reason")
    if isinstance(reason, str):
        return queue.retry(reason=reason)
    return queue.retry(_names(asked))


def _discard(queue: AckQueue, asked: Asked) -> int:
    return queue.discard(_names(asked))


def _resend(queue: AckQueue, asked: Asked) -> int:
    if "stream" in asked:
        stream = value(asked, "stream", is_stream, "16 hex digits, as in `queue list`")
        first = value(asked, "from", _is_seq, "a whole number from 1 on")
        last = value(asked, "to", _whole(first), f"a whole number from {first} on")
        return queue.resend_names(stream, first, last)
    since_ms = _instant_ms(queue, asked, "since", -_ALWAYS_MS)
    until_ms = _instant_ms(queue, asked, "until", _ALWAYS_MS)
    return queue.resend(since_ms, until_ms)


def _changed(
    done: str, change: Callable[[AckQueue, Asked], int]
) -> Callable[[AckQueue, Asked], Answers]:
    """Answers how many fixes were changed. StorageError: the change is not on disk."""

    def answer(queue: AckQueue, asked: Asked) -> Answers:
        count = change(queue, asked)
        yield {done: count}
        if (refused := queue.disk_error()) is not None:
            raise StorageError(f"{counted(count, 'fix')} {done} in memory only: {refused}", _UNDONE)

    return answer


_OTHERS = {
    "queue newest": _newest,
    "queue retry": _changed("retried", _retry),
    "queue discard": _changed("discarded", _discard),
    "queue resend": _changed("resent", _resend),
    "queue verify": lambda queue, _asked: verify(queue.shared, queue.path),
}


def looking(rules: Rules) -> dict[str, Callable[[Readable, Asked], Answers]]:
    """What changes nothing, so that a queue at rest is enough."""
    return {
        "queue stats": _stats,
        "queue list": _list,
        "export": lambda queue, asked: export(queue, asked, rules()),
    }


def queue_commands(queue: AckQueue, rules: Rules = TrackRules) -> dict[str, Command]:
    """The commands that a queue in use can answer, by their names."""

    def command(answer: Callable[[AckQueue, Asked], Answers]) -> Command:
        return lambda asked, _bell: answer(queue, asked)

    return {name: command(answer) for name, answer in (looking(rules) | _OTHERS).items()}


_NEEDED = object()


def value(
    asked: Asked,
    name: str,
    is_right: Callable[[Any], bool],
    allowed: str,
    default: Any = _NEEDED,
) -> Any:
    """What a question has for ``name``, or the default.

    Raises:
        UsageError: it is not what ``allowed`` says.
    """
    found = asked.get(name)
    if found is None and default is not _NEEDED:
        return default
    if not is_right(found):
        raise UsageError(f"{name} {found!r}: {allowed}")
    return found


def is_seconds(found: object) -> bool:
    """Whether it is seconds, 50 years at most; JSON may also have ``NaN`` and ``Infinity``."""
    return isinstance(found, int | float) and abs(found) <= AGE_MAX_S


def _one_of(names: Mapping[str, Any]) -> Callable[[Any], bool]:
    return lambda found: isinstance(found, str) and found in names


def _whole(least: int, most: int = 2**62) -> Callable[[Any], bool]:
    return lambda found: type(found) is int and least <= found <= most


_is_seq = _whole(1)


def _names(asked: Asked) -> set[tuple[str, int]] | None:
    """From ``"names": [["9f0c2d…", 17], …]``; ``None`` for ``"all": true``."""
    if asked.get("all") is True:
        return None
    names = asked.get("names")
    if not isinstance(names, list) or not all(
        isinstance(name, list) and len(name) == 2 and is_stream(name[0]) and _is_seq(name[1])
        for name in names
    ):
        raise UsageError('"names" is a list of [stream, seq], or "all" is true')
    return {(stream, seq) for stream, seq in names}


def _instant_ms(queue: Readable, asked: Asked, edge: str, default: int) -> int:
    """From ``"since_ms"``, GNSS time, or ``"since_age_s"``, the time before the newest fix."""
    instant: int | None = value(asked, f"{edge}_ms", _whole(-_ALWAYS_MS), "a whole number", None)
    age_s = value(asked, f"{edge}_age_s", is_seconds, "seconds, 50 years at most", None)
    if instant is not None or age_s is None:
        return default if instant is None else instant
    newest_ms = queue.newest_ms()
    if newest_ms is None:
        raise AgentError("no fix with a known time was recorded yet", "give a time, not an age")
    return newest_ms - round(1000 * float(age_s))


def _period_ms(queue: Readable, asked: Asked, rules: TrackRules) -> tuple[int, int]:
    """The period of ``"since_…"`` and ``"until_…"``, or of a ``"trip"``: 1 is the newest."""
    if asked.get("trip") is None:
        since_ms = _instant_ms(queue, asked, "since", -_ALWAYS_MS)
        return since_ms, _instant_ms(queue, asked, "until", _ALWAYS_MS)
    number = value(asked, "trip", _is_seq, "a number from 1 on; 1 is the newest")
    trips = Trips(rules.gaps.between, rules.parking)
    for row, stored in enumerate(queue.stored()):
        trips.feed(row, stored.record)
    found = trips.all()
    if number > len(found):
        raise AgentError(f"there is no trip {number}: a trip ends when the device parks")
    return found[-number].start_ms, found[-number].end_ms + 1
