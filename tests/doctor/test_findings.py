"""Order, limits and end of checks; the checks are made up."""

import threading
from collections.abc import Callable, Iterator

import pytest

from telemetry_agent.clock import Clock
from telemetry_agent.doctor.findings import (
    Check,
    Finding,
    failed,
    guarded,
    in_turn,
    passed,
    run_checks,
    single,
)
from telemetry_agent.errors import Advice

HUNG = Advice("the bus does not answer", "restart it")


def well() -> Finding:
    return passed("well")


def broken() -> Finding:
    return failed("broken", "mend it")


def raising(error: Exception) -> Callable[[], Finding]:
    def look() -> Finding:
        raise error

    return look


def told(*checks: Check, limit_s: float = 60) -> list[tuple[str, str, str]]:
    return [(f.name, f.verdict, f.said) for f in run_checks(checks, limit_s=limit_s)]


def test_findings_come_in_order_whichever_is_ready_first() -> None:
    second_is_done = threading.Event()

    def first() -> Finding:
        assert second_is_done.wait(60)
        return well()

    def second() -> Iterator[Finding]:
        yield well()
        second_is_done.set()

    assert told(single("a", first), Check(("b",), second)) == [
        ("a", "pass", "well"),
        ("b", "pass", "well"),
    ]


def test_a_finding_is_shown_before_its_check_has_ended() -> None:
    shown = threading.Event()

    def check() -> Iterator[Finding]:
        yield well()
        assert shown.wait(60)
        yield well()

    run = run_checks([Check(("a", "b"), check)], limit_s=60)
    assert next(run).name == "a"
    shown.set()
    assert next(run).verdict == "pass"


def test_what_needs_a_failed_check_is_skipped() -> None:
    def check() -> Iterator[Finding]:
        if (yield from in_turn(well, broken, well)):
            yield well()

    assert told(Check(("a", "b", "c", "d"), check), single("e", well)) == [
        ("a", "pass", "well"),
        ("b", "fail", "broken"),
        ("c", "skip", "needs b"),
        ("d", "skip", "needs b"),
        ("e", "pass", "well"),
    ]
    assert told(Check(("a", "b", "c"), lambda: in_turn(well, well, well)))[2][1] == "pass"


def test_a_check_that_hangs_is_left_behind() -> None:
    over = threading.Event()

    def hangs() -> Iterator[Finding]:
        over.wait(60)
        yield passed("late")

    clock = Clock()
    began_s = clock.monotonic_s()
    checks = (Check(("a", "b"), hangs, HUNG), single("c", well), Check(("d",), hangs, HUNG))
    assert told(*checks, limit_s=2) == [
        ("a", "fail", "the bus does not answer within 2 s"),
        ("b", "skip", "needs a"),
        ("c", "pass", "well"),
        ("d", "fail", "the bus does not answer within 2 s"),
    ]
    assert clock.monotonic_s() - began_s < 40
    over.set()


def test_what_may_not_be_looked_at_is_a_warning_and_what_was_found_before_counts() -> None:
    denied = PermissionError(13, "Permission denied", "/root/x")

    def check() -> Iterator[Finding]:
        yield well()
        raise denied

    assert told(Check(("a", "b", "c"), check)) == [
        ("a", "pass", "well"),
        ("b", "warn", "no permission to access /root/x"),
        ("c", "skip", "needs b"),
    ]
    assert guarded(raising(denied)).verdict == "warn"
    nameless = guarded(raising(PermissionError(13, "Permission denied")))
    assert (nameless.said, nameless.remedy) == ("no permission to access it", "use sudo")


def test_a_check_that_breaks_silences_no_other() -> None:
    breaks = raising(ZeroDivisionError("oh"))
    assert told(single("a", breaks), single("b", well)) == [
        ("a", "fail", "this check crashed: ZeroDivisionError('oh')"),
        ("b", "pass", "well"),
    ]


def test_what_the_disk_refuses_is_a_fault_and_no_crash() -> None:
    refused = raising(OSError(5, "Input/output error", "/srv/x"))
    assert told(single("a", refused)) == [("a", "fail", "/srv/x: Input/output error")]


def test_a_check_for_which_the_system_has_no_thread_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start
    refused: list[threading.Thread] = []

    def refuse(self: threading.Thread) -> None:
        refused.append(self)
        if len(refused) % 2:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert told(Check(("a", "b"), lambda: in_turn(well, well)), single("c", well)) == [
        ("a", "fail", "the system refuses a thread for this check"),
        ("b", "skip", "needs a"),
        ("c", "pass", "well"),
    ]
