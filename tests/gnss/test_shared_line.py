"""Several devices on one line, and the one whose positions count."""

from collections import Counter

import pytest
from live_line import live, second
from nmea import gga, line, rmc

from telemetry_agent.gnss.assembler import Assembler
from telemetry_agent.gnss.dates import Dates
from telemetry_agent.gnss.shared_line import SharedLine


def test_another_talker_that_repeats_teaches_nothing() -> None:
    decoder = live()
    decoder.feed(rmc("123519"), 10.0)
    decoder.tick(10.3)
    decoder.feed(rmc("123519", talker="II"), 10.5)
    decoder.feed(rmc("123520"), 11.0)
    assert decoder.due_s() == pytest.approx(11.25)


def test_the_antenna_of_another_device_says_nothing_about_the_receiver() -> None:
    decoder = live()
    decoder.feed(line("AITXT,01,01,01,ANTENNA OPEN") + rmc("123519"), 0.0)
    decoder.feed(line("AITXT,01,01,01,ANTENNA OPEN") + rmc("123520"), 1.0)
    assert decoder.antenna is None
    decoder.feed(line("GPTXT,01,01,01,ANTENNA OK"), 2.0)
    assert decoder.antenna == "OK"


def test_a_device_that_speaks_late_does_not_keep_the_followed_one_waiting() -> None:
    decoder = live()
    for n in range(20):
        second(decoder, n, rmc(f"1235{n:02}"), gga(f"1235{n:02}"))
        decoder.feed(line(f"IIGLL,4807.038,N,01131.000,E,1235{n:02},A,A"), n + 0.5)
        decoder.tick(n + 0.9)
        decoder.feed(line(f"IIRMC,1235{n:02},V,,,,,,,231126,,,N"), n + 0.95)
    decoder.feed(rmc("123600"), 60.0)
    assert len(decoder.feed(gga("123600"), 60.1)) == 1
    assert decoder.counts["late"] == 0
    assert decoder.line.followed == "GN"


def test_many_talkers_cost_no_memory_and_no_date() -> None:
    decoder = live()
    fixes = decoder.feed(rmc("123518"), 0.0)  # its only date
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for n, talker in enumerate(f"{a}{b}" for a in letters.replace("P", "") for b in letters):
        data = rmc("123519", talker=talker) + gga(f"1236{n % 60:02}")
        fixes += decoder.feed(data, float(n))
    assert decoder.line.followed == "GN"
    assert decoder.counts["other-talker"] > 600
    assert len(decoder.line.assemblers) <= 8
    assert len(fixes) > 640
    assert {fix.flags for fix in fixes} == {()}


def test_a_bus_that_steps_its_time_by_10_s_takes_over_only_when_the_receiver_is_silent() -> None:
    decoder = live()
    followed = []
    for quarter in range(4 * 90):
        now_s, n = quarter / 4, quarter // 4
        step = (quarter + 2) // 40 * 10
        bus = f"12{step // 60:02}{step % 60:02}"
        data = gga(bus, talker="EC") + rmc(bus, talker="EC")
        if quarter % 4 == 0 and n < 50:
            data = rmc(f"12{n // 60:02}{n % 60:02}") + data
        decoder.feed(data, now_s)
        decoder.tick(now_s + 0.249)
        followed.append(decoder.line.followed)
    assert set(followed[8 : 4 * 50]) == {"GN"}
    assert set(followed[4 * 75 :]) == {"EC"}


def test_a_thread_that_asks_for_satellites_may_meet_a_talker_that_has_just_come() -> None:
    """The page reads the satellites while the thread of the reader adds another device."""

    class AsIfMeanwhile(Assembler):
        @property
        def judged_s(self) -> float | None:
            owners.adder(f"X{len(owners.assemblers)}")
            return None

        @judged_s.setter
        def judged_s(self, _: float | None) -> None: ...

    def assembler(*_: object) -> Assembler:
        dates = Dates(wall_clock=lambda: None, fix_rollover=False)
        return AsIfMeanwhile(dates, lambda _: True, eager=True, baud=None, whole=False)

    owners = SharedLine(assembler, Counter())
    owners.adder("II")
    owners.adder("GN")
    assert owners.current is not None


def test_a_damaged_talker_now_and_then_takes_nothing_from_the_device() -> None:
    """A multiplexer wrote GP instead of II in one of 20 sentences."""
    decoder, fixes = live(), []
    for n in range(1, 180):
        time = f"12{n // 60:02}{n % 60:02}"
        fixes += decoder.feed(rmc(time, talker="GP" if n % 20 == 0 else "II"), float(n))
        fixes += decoder.feed(line(f"IIGLL,4807.038,N,01131.000,E,{time},A,A"), n + 0.1)
        fixes += decoder.tick(n + 0.9)
    assert [fix.time_ms // 1000 % 3600 for fix in fixes] == list(range(1, 180))
    assert decoder.line.followed == "II"
