"""What a check finds, and the run of all checks side by side.

Theory of operation. A check may need others: it starts when they are done, and is skipped if one of
them failed, so that a dead name server is reported once and not five times. A check that ends early
leaves out names; they are skipped. A call to the system (a look-up, a hung network file system) may
never return and cannot be interrupted: so each check runs in a daemon thread, which is left behind
when its time is over.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal, NamedTuple

from telemetry_agent.clock import Clock
from telemetry_agent.errors import Advice, refused_thread

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
    """One look at the machine, which may answer several questions at once."""

    names: tuple[str, ...]
    """What it reports, in this order."""
    run: Callable[[], Finding | Iterable[Finding]]
    """Gives a finding for each of the names; the last ones may be missing.

    A ``PermissionError`` is reported as a warning under the next name.
    """
    needs: tuple[str, ...] = ()
    """Names of earlier checks, without which it makes no sense."""
    overdue: Advice = OVERDUE
    """What to report when its time has passed."""
    limit_s: float = math.inf
    """A shorter limit than that of all checks; counted from the same moment."""


def run_checks(checks: Sequence[Check], *, limit_s: float) -> Iterator[Finding]:
    """Run all checks; yield each finding as soon as it and all before it are ready.

    Args:
        checks: in the order of the report.
        limit_s: for all of them together.
    """
    clock = Clock()
    began_s = clock.monotonic_s()
    results: dict[str, _Result] = {}
    for check in checks:
        result = _Result(check, {name: results[name] for name in check.needs})
        results |= dict.fromkeys(check.names, result)
        try:
            threading.Thread(target=result.perform, daemon=True).start()
        except RuntimeError:
            error = refused_thread("this check")
            result.settle([failed(error.message, error.remedy)])
    for check in checks:
        result, within_s = results[check.names[0]], min(limit_s, check.limit_s)
        wait([result.future], max(0.0, began_s + within_s - clock.monotonic_s()))
        said, remedy = check.overdue
        result.settle([failed(f"{said} within {within_s:.0f} s", remedy)])
        found, needs = result.future.result()
        for name, finding in zip_longest(check.names, found):
            yield replace(finding or skipped(f"needs {needs}"), name=name)


class _Result:
    """The findings of one check."""

    def __init__(self, check: Check, needed: dict[str, "_Result"]) -> None:
        self.future: Future[tuple[list[Finding], str]] = Future()
        """The findings, and what each name without one needs."""
        self._check = check
        self._needed = needed

    def settle(self, found: list[Finding], needs: str = "") -> None:
        """Set the findings, unless they are set: the check may end as its time passes."""
        with suppress(InvalidStateError):
            self.future.set_result((found, needs or self._check.names[len(found) - 1]))

    def perform(self) -> None:
        """Run the check as soon as what it needs is there."""
        for name, its in self._needed.items():
            if its.stops(name):
                self.settle([], name)
                return
        names, found = self._check.names, list[Finding]()
        try:
            given = self._check.run()
            for finding in (given,) if isinstance(given, Finding) else given:
                found.append(finding)  # what was found before an error counts
        except Exception as error:  # noqa: BLE001 - one broken check must not silence the others
            found = found[: len(names) - 1]
            found.append(_error(error, names[len(found)]))
        self.settle(found)

    def stops(self, name: str) -> bool:
        """Whether what needs this name is skipped. Waits."""
        found, _ = self.future.result()
        at = self._check.names.index(name)
        return not found or (at < len(found) and found[at].verdict == "fail")


def _error(error: Exception, name: str) -> Finding:
    match error:
        case PermissionError():
            return warned(f"no permission to access {error.filename or name}", "use sudo")
        case OSError(filename=str(), strerror=str()):
            return failed(f"{error.filename}: {error.strerror}", OVERDUE.remedy)
        case _:
            return failed(f"this check crashed: {error!r}", "please report this line as a bug")
