"""Is everything here? An endpoint compares its rows with the agents' own accounts.

An agent accounts for each of its streams: every fix with a seq up to ``through`` was acknowledged,
or is counted in ``not_coming`` by its reason. So the stream must have ``recorded`` less the sum of
``not_coming`` rows up to ``through``. Gaps in seq are legal, so a gap alone proves nothing. But if
rows are missing, they are in the gaps, and those are named.

A stream that is not finished may get more rows. So a device is complete until the first of its
streams that is in doubt; later rows prove nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from telemetry_agent.errors import counted
from telemetry_agent.model import StreamAccount, is_stream


@dataclass(frozen=True, slots=True)
class StreamVerdict:
    """One stream, compared with the stored rows."""

    account: StreamAccount
    stored: int
    """Rows up to ``through``."""
    complete_until: str | None
    """The time of the last fix before the first gap in which a fix may be missing."""
    gaps: Sequence[tuple[int, int]]
    """Where missing rows can be, as first and last seq; of many, the last one covers the rest."""

    @property
    def missing(self) -> int:
        """How many acknowledged rows are not stored; below 0: more are stored than expected."""
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
        finished=said.get("finished") is True,
    )
    if not is_stream(account.stream) or not isinstance(account.not_coming, dict):
        return None
    counts = (account.through, account.recorded, *account.not_coming.values())
    counts += account.damaged_in or ()
    if not all(map(str.isprintable, account.not_coming)) or not all(
        type(count) is int and 0 <= count < 2**63 for count in counts
    ):
        return None
    is_possible = account.expected >= 0 and account.recorded <= account.through
    return account if is_possible else None


def as_json(
    device: str, verdicts: Sequence[StreamVerdict], unaccounted: tuple[int, str] | None = None
) -> dict[str, Any]:
    """The answer of ``GET /v1/audit`` for one device; ``verdicts``: the oldest stream first.

    ``unaccounted``: how many rows are of streams without an account, and the newest time.
    """
    return {
        "device": device,
        "complete": bool(verdicts) and all(verdict.missing <= 0 for verdict in verdicts),
        "complete_until": _complete_until(verdicts),
        "unaccounted": unaccounted and {"fixes": unaccounted[0], "until": unaccounted[1]},
        "streams": [
            {
                "stream": verdict.account.stream,
                "through": verdict.account.through,
                "expected": verdict.account.expected,
                "stored": verdict.stored,
                "missing": max(0, verdict.missing),
                "gaps": list(map(list, verdict.gaps)),
                "not_coming": dict(verdict.account.not_coming),
                "damaged_in": verdict.account.damaged_in,
            }
            for verdict in verdicts
        ],
    }


def lines(audit: Mapping[str, Any]) -> list[str]:
    """The same as text."""
    said = []
    if audit["streams"]:
        said += ["not complete"] * (not audit["complete"])
        said.append(f"complete until {audit['complete_until'] or 'no fix'}")
    if unaccounted := audit["unaccounted"]:
        fixes = counted(unaccounted["fixes"], "fix")
        said.append(f"no account of {fixes} until {unaccounted['until']}")
    said = [f"{audit['device']}: {'; '.join(said)}"]
    for stream in audit["streams"]:
        name = f"  stream {stream['stream']}:"
        if stream["missing"]:
            ranges = ", ".join(f"{first} to {last}" for first, last in stream["gaps"])
            expected = counted(stream["expected"], "fix is", "fixes are")
            said.append(f"{name} {stream['missing']:,} of {expected} missing, in seq {ranges}")
        if stream["not_coming"]:
            counts = ", ".join(f"{n} {reason}" for reason, n in stream["not_coming"].items())
            where = stream["damaged_in"]
            place = f" (damage in seq {where[0]} to {where[1]})" if where else ""
            said.append(f"{name} never coming: {counts}{place}")
    return said


def _complete_until(verdicts: Iterable[StreamVerdict]) -> str | None:
    """The time up to which nothing is missing or still to come."""
    before = ""  # the newest time of the earlier streams
    doubts: list[str] = []
    for verdict in verdicts:
        until = verdict.complete_until or ""
        if verdict.missing > 0 or not verdict.account.finished:
            doubts.append(until or before)
        before = max(before, until)
    return min(doubts, default=before) or None
