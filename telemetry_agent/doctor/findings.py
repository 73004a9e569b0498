"""What a check finds, and the run of all checks side by side.

Theory of operation. A check may need others: it starts when they are done, and is skipped if one of
them failed, so that a dead name server is reported once and not five times. A check that ends early
leaves out names; they are skipped. A call to the system (a look-up, a hung network file system) may
never return and cannot be interrupted: so each check runs in a daemon thread, which is left behind
when its time is over.
"""

import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, NamedTuple

from telemetry_agent.clock import Clock
from telemetry_agent.errors import refused_thread

Verdict = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, in words for a user who has never seen the program."""

    name: str
    verdict: Verdict
    said: str
    """What was found."""
    remedy: str = ""
    """What to do about it, in one line; empty if there is nothing to do."""


def passed(name: str, said: str) -> Finding:
    """No fault."""
    return Finding(name, "pass", said)


def warned(name: str, said: str, remedy: str) -> Finding:
    """Positions are recorded and delivered, but this may become a fault."""
    return Finding(name, "warn", said, remedy)


def failed(name: str, said: str, remedy: str) -> Finding:
    """Positions are not recorded, not delivered, or not safe."""
    return Finding(name, "fail", said, remedy)


def skipped(name: str, why: str) -> Finding:
    """Not checked, or not applicable."""
    return Finding(name, "skip", why)


class Check(NamedTuple):
    """One look at the machine, which may answer several questions at once."""

    names: tuple[str, ...]
    """What it reports, in this order."""
    run: Callable[[], Iterable[Finding]]
    """Gives a finding for each of the names; the last ones may be missing.

    A ``PermissionError`` is reported as a warning under the next name.
    """
    needs: tuple[str, ...] = ()
    """Names of earlier checks, without which it makes no sense."""
    limit_s: float = 3.0
    overdue: tuple[str, str] = ("no answer", "try again; if it stays so, restart the machine")
    """What to report, and the remedy, when the limit has passed."""


def run_checks(checks: Sequence[Check], *, limit_s: float) -> Iterator[Finding]:
    """Run all checks; yield each finding as soon as it and all before it are ready.

    Args:
        checks: in the order of the report.
        limit_s: for all of them together.
    """
    run = _Run(checks, limit_s)
    for check in checks:
        for name in check.names:
            yield run.results[name].result()


class _Run:
    def __init__(self, checks: Sequence[Check], limit_s: float) -> None:
        self.results: dict[str, Future[Finding]] = {
            name: Future() for check in checks for name in check.names
        }
        self._stopped: set[str] = set()  # failed, or skipped because another failed
        self._clock = Clock()
        self._end_s = self._clock.monotonic_s() + limit_s
        for check in checks:
            try:
                threading.Thread(target=self._perform, args=(check,), daemon=True).start()
            except RuntimeError:
                self._report(check, [_no_thread(check)])

    def _perform(self, check: Check) -> None:
        for need in check.needs:
            self.results[need].result()
            if need in self._stopped:
                self._report(check, [skipped(check.names[0], f"needs {need}")], need)
                return
        left_s = self._end_s - self._clock.monotonic_s()
        self._report(check, _within(max(0.0, min(check.limit_s, left_s)), check))

    def _report(self, check: Check, found: list[Finding], need: str = "") -> None:
        by_name = {finding.name: finding for finding in found}
        last = need or found[-1].name  # each finds something
        for name in check.names:
            finding = by_name.get(name) or skipped(name, f"needs {last}")
            # Before the result is set: a check that waits for it looks at the set next.
            if need or finding.verdict == "fail":
                self._stopped.add(name)
            self.results[name].set_result(finding)


def _no_thread(check: Check) -> Finding:
    error = refused_thread("this check")
    return failed(check.names[0], error.message, error.remedy)


def _within(limit_s: float, check: Check) -> list[Finding]:
    """The findings of a check, or that it was not done in time."""
    answer: Future[list[Finding]] = Future()
    try:
        threading.Thread(target=_answer, args=(check, answer), daemon=True).start()
    except RuntimeError:
        return [_no_thread(check)]
    concurrent.futures.wait([answer], limit_s)
    if answer.done():
        return answer.result()
    said, remedy = check.overdue
    return [failed(check.names[0], f"{said} within {limit_s:.0f} s", remedy)]


def _answer(check: Check, answer: Future[list[Finding]]) -> None:
    found: list[Finding] = []
    try:
        for finding in check.run():
            found.append(finding)  # noqa: PERF402 - what was found before an error counts
    except Exception as error:  # noqa: BLE001 - one broken check must not silence the others
        name = check.names[min(len(found), len(check.names) - 1)]
        if isinstance(error, PermissionError):
            said = f"no permission to access {error.filename or name}"
            found.append(warned(name, said, "use sudo"))
        else:
            said = f"this check crashed: {error!r}"
            found.append(failed(name, said, "please report this line as a bug"))
    answer.set_result(found)
