"""What a check finds, and the run of all checks side by side.

Theory of operation. A check looks at one part of the data's path, and gives a finding for each of
its names in turn. Where a fault makes the rest senseless it ends, and its other names are skipped,
so that a dead name server is reported once and not five times. A call to the system (a look-up, a
hung network file system) may never return and cannot be interrupted: so each check runs in a daemon
thread, which is left behind when its time is over.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Literal, NamedTuple

from telemetry_agent.clock import Clock
from telemetry_agent.errors import Advice, refused_thread
from telemetry_agent.tasks import started

Verdict = Literal["pass", "warn", "fail", "skip"]
OVERDUE = Advice("no answer", "try again; if it stays so, restart the machine")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, in words for a user who has never seen the program."""

    name: str
    """Of the check: set by the run."""
    verdict: Verdict
    said: str
    """What was found."""
    remedy: str = ""
    """What to do about it, in one line; empty if there is nothing to do."""


def passed(said: str) -> Finding:
    """No fault."""
    return Finding("", "pass", said)


def warned(said: str, remedy: str) -> Finding:
    """Positions are recorded and delivered, but this may become a fault."""
    return Finding("", "warn", said, remedy)


def failed(said: str, remedy: str) -> Finding:
    """Positions are not recorded, not delivered, or not safe."""
    return Finding("", "fail", said, remedy)


def skipped(why: str) -> Finding:
    """Not checked, or not applicable."""
    return Finding("", "skip", why)


class Check(NamedTuple):
    """A look at one part of the machine, which answers several questions."""

    names: tuple[str, ...]
    """What it reports, in this order."""
    run: Callable[[], Iterator[Finding]]
    """Gives a finding for each of the names; the last ones may be missing."""
    overdue: Advice = OVERDUE
    """What to report when its time has passed."""


def run_checks(checks: Sequence[Check], *, limit_s: float) -> Iterator[Finding]:
    """Run all checks; yield each finding as soon as it and all before it are ready.

    Args:
        checks: in the order of the report.
        limit_s: for all of them together.
    """
    clock = Clock()
    until_s = clock.monotonic_s() + limit_s
    running = [_start(check) for check in checks]
    for check, found in zip(checks, running, strict=True):
        needs, last = "", ""
        for name in check.names:
            finding = None
            if not needs:
                try:
                    finding = found.get(timeout=max(0.0, until_s - clock.monotonic_s()))
                    needs = "" if finding else last
                except Empty:
                    said, remedy = check.overdue
                    finding = failed(f"{said} within {limit_s:.0f} s", remedy)
                    needs = name
            yield replace(finding or skipped(f"needs {needs}"), name=name)
            last = name


def _start(check: Check) -> "SimpleQueue[Finding | None]":
    """What it finds; ``None``: it has ended."""
    found: SimpleQueue[Finding | None] = SimpleQueue()

    def run() -> None:
        try:
            for finding in check.run():
                found.put(finding)
        except Exception as error:  # noqa: BLE001 - one broken check must not silence the others
            found.put(_error(error))
        found.put(None)

    if started(run, check.names[0]) is None:
        found.put(failed(*refused_thread("this check").args))
        found.put(None)
    return found


def single(name: str, look: Callable[[], Finding], overdue: Advice = OVERDUE) -> Check:
    """A check that answers one question."""
    return Check((name,), lambda: iter((look(),)), overdue)


def guarded(look: Callable[[], Finding]) -> Finding:
    """What a part of a check finds, also if it cannot look."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - the rest of the check goes on
        return _error(error)


def in_turn(*looks: Callable[[], Finding]) -> Generator[Finding, None, bool]:
    """What the parts of a check find, up to the first fault. Returns whether there was none."""
    for look in looks:
        found = guarded(look)
        yield found
        if found.verdict == "fail":
            return False
    return True


def _error(error: Exception) -> Finding:
    match error:
        case PermissionError():
            return warned(f"no permission to access {error.filename or 'it'}", "use sudo")
        case OSError(filename=str(), strerror=str()):
            return failed(f"{error.filename}: {error.strerror}", OVERDUE.remedy)
        case _:
            return failed(f"this check crashed: {error!r}", "please report this line as a bug")
