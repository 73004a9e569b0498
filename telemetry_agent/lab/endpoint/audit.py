"""Is everything here? What an endpoint can say from its rows and the agents' own accounts.

An agent accounts for each of its streams: every fix with a seq up to ``through`` was acknowledged,
or is counted in ``not_coming`` by its reason. So the rows of the stream up to ``through`` must be
``recorded`` less the sum of ``not_coming``. Gaps in seq are legal, so a gap alone says nothing; but
where rows are missing, they are in the gaps, and those are named.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from telemetry_agent.model import StreamAccount

_GAPS_NAMED = 20


@dataclass(frozen=True, slots=True)
class StreamVerdict:
    """One stream, compared with the stored rows."""

    account: StreamAccount
    stored: int
    """Rows up to ``through``."""
    complete_until: str | None
    """The time of the last fix before the first gap in which a fix may be missing."""
    gaps: tuple[tuple[int, int], ...]
    """Where the missing rows are, as first and last seq; empty where none is missing."""

    @property
    def missing(self) -> int:
        """How many acknowledged rows are not stored; below 0: too many are stored."""
        return self.account.expected - self.stored


def account_of(said: object) -> StreamAccount | None:
    """One entry of ``streams`` in an agent's report; ``None``: it is invalid."""
    if not isinstance(said, dict):
        return None
    damaged_in = said.get("damaged_in")
    account = StreamAccount(
        said.get("stream", ""),
        said.get("through", -1),
        said.get("recorded", -1),
        said.get("not_coming", {}),
        tuple(damaged_in) if isinstance(damaged_in, list) and len(damaged_in) == 2 else None,
    )
    if not isinstance(account.stream, str) or not isinstance(account.not_coming, dict):
        return None
    counts = (account.through, account.recorded, *account.not_coming.values())
    counts += account.damaged_in or ()
    return account if all(type(count) is int and count >= 0 for count in counts) else None


def judge(account: StreamAccount, rows: Sequence[tuple[int, str]]) -> StreamVerdict:
    """Compare an account with the rows of its stream.

    Args:
        account: of the agent.
        rows: (seq, time) of each row, ascending.
    """
    here = [row for row in rows if row[0] <= account.through]
    last_time = here[-1][1] if here else None
    if len(here) >= account.expected:
        return StreamVerdict(account, len(here), last_time, ())
    gaps = tuple(_gaps([seq for seq, _ in here], account.through))[:_GAPS_NAMED]
    before = [time for seq, time in here if seq < gaps[0][0]]
    return StreamVerdict(account, len(here), before[-1] if before else None, gaps)


def as_json(device: str, verdicts: Iterable[StreamVerdict]) -> dict[str, Any]:
    """The answer of ``GET /v1/audit`` for one device."""
    verdicts = list(verdicts)
    holes = [verdict for verdict in verdicts if verdict.missing > 0]
    times = [v.complete_until for v in holes or verdicts if v.complete_until is not None]
    return {
        "device": device,
        "complete": not holes,
        # If fixes are missing, only the time before all holes is certain.
        "complete_until": (min if holes else max)(times, default=None),
        "streams": [
            {
                "stream": verdict.account.stream,
                "through": verdict.account.through,
                "expected": verdict.account.expected,
                "stored": verdict.stored,
                "missing": max(0, verdict.missing),
                "gaps": [list(gap) for gap in verdict.gaps],
                "not_coming": dict(verdict.account.not_coming),
                "damaged_in": verdict.account.damaged_in,
            }
            for verdict in verdicts
        ],
    }


def lines(audit: Mapping[str, Any]) -> list[str]:
    """The same in plain words."""
    until = audit["complete_until"] or ("now" if audit["complete"] else "no fix")
    sure = "" if audit["complete"] else "not complete; "
    said = [f"{audit['device']}: {sure}complete until {until}"]
    for stream in audit["streams"]:
        name = f"  stream {stream['stream']}:"
        if stream["missing"]:
            ranges = ", ".join(f"{first} to {last}" for first, last in stream["gaps"])
            said.append(
                f"{name} {stream['missing']} of {stream['expected']} fixes are missing, in seq "
                f"{ranges}"
            )
        if stream["not_coming"]:
            counts = ", ".join(f"{n} {reason}" for reason, n in stream["not_coming"].items())
            where = stream["damaged_in"]
            place = f" (damage in seq {where[0]} to {where[1]})" if where else ""
            said.append(f"{name} never coming: {counts}{place}")
    return said


def _gaps(seqs: Sequence[int], through: int) -> Iterable[tuple[int, int]]:
    expected = 1
    for seq in (*seqs, through + 1):
        if seq > expected:
            yield expected, seq - 1
        expected = seq + 1
