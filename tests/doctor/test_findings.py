"""Order, limits and dependence of checks; the checks themselves are made up."""

import threading
from collections.abc import Callable, Iterator

import pytest

from telemetry_agent.clock import Clock
from telemetry_agent.doctor.findings import Check, Finding, failed, passed, run_checks, skipped

HUNG = ("the bus does not answer", "restart it")


def well(*names: str) -> Callable[[], list[Finding]]:
    return lambda: [passed(name, "well") for name in names]


def told(*checks: Check, limit_s: float = 5) -> list[tuple[str, str, str]]:
    return [(f.name, f.verdict, f.said) for f in run_checks(checks, limit_s=limit_s)]


def test_findings_come_in_order_whichever_is_ready_first() -> None:
    second_is_done = threading.Event()

    def first() -> Iterator[Finding]:
        assert second_is_done.wait(5)
        yield passed("a", "well")

    def second() -> Iterator[Finding]:
        yield passed("b", "well")
        second_is_done.set()

    assert told(Check(("a",), first), Check(("b",), second)) == [
        ("a", "pass", "well"),
        ("b", "pass", "well"),
    ]


def test_what_needs_a_failed_check_is_skipped_and_so_is_what_needs_that() -> None:
    bad = Check(("a", "b"), lambda: [passed("a", "well"), failed("b", "broken", "mend it")])
    assert told(
        bad,
        Check(("c", "d"), well("c", "d"), needs=("b",)),
        Check(("e",), well("e"), needs=("c",)),
        Check(("f",), well("f"), needs=("a",)),
    ) == [
        ("a", "pass", "well"),
        ("b", "fail", "broken"),
        ("c", "skip", "needs b"),
        ("d", "skip", "needs b"),
        ("e", "skip", "needs c"),
        ("f", "pass", "well"),
    ]


def test_what_has_nothing_to_say_stops_nobody() -> None:
    quiet = Check(("a",), lambda: [skipped("a", "plain http")])
    assert told(quiet, Check(("b",), well("b"), needs=("a",)))[1] == ("b", "pass", "well")


def test_a_check_that_hangs_is_left_behind() -> None:
    over = threading.Event()

    def hangs() -> Iterator[Finding]:
        over.wait(30)
        yield passed("a", "late")

    clock = Clock()
    began_s = clock.monotonic_s()
    checks = (
        Check(("a", "b"), hangs, limit_s=0.2, overdue=HUNG),
        Check(("c",), well("c"), needs=("a",)),
        Check(("d",), hangs, limit_s=20, overdue=HUNG),
    )
    assert told(*checks, limit_s=0.5) == [
        ("a", "fail", "the bus does not answer within 0 s"),
        ("b", "skip", "needs a"),
        ("c", "skip", "needs a"),
        ("d", "fail", "the bus does not answer within 0 s"),
    ]
    assert clock.monotonic_s() - began_s < 15
    over.set()


def test_what_may_not_be_looked_at_is_a_warning_and_what_was_found_before_counts() -> None:
    def forbidden() -> Iterator[Finding]:
        yield passed("a", "well")
        raise PermissionError(13, "Permission denied", "/root/x")

    assert told(Check(("a", "b", "c"), forbidden)) == [
        ("a", "pass", "well"),
        ("b", "warn", "no permission to access /root/x"),
        ("c", "skip", "needs b"),
    ]


def test_a_check_that_breaks_silences_no_other() -> None:
    def breaks() -> list[Finding]:
        raise ZeroDivisionError("oh")

    found = told(Check(("a", "b"), breaks), Check(("c",), well("c")))
    assert found[0] == (
        "a",
        "fail",
        "this check crashed: ZeroDivisionError('oh')",
    )
    assert found[1:] == [("b", "skip", "needs a"), ("c", "pass", "well")]


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
    no_thread = "the system refuses a thread for this check"
    # The first has none; the second has one, and none for what may hang.
    first, second = Check(("a",), well("a")), Check(("b",), well("b"))
    assert told(first, second) == [("a", "fail", no_thread), ("b", "fail", no_thread)]
    needing = Check(("c",), well("c"), needs=("a",))
    refused.clear()
    assert told(first, needing) == [("a", "fail", no_thread), ("c", "skip", "needs a")]
