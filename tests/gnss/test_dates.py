"""The day to which a time of day belongs."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from live_line import live, second, wall
from nmea import gga, line, rmc

from telemetry_agent.fields import rfc3339
from telemetry_agent.gnss.dates import Dates
from telemetry_agent.gnss.field_values import DAY_MS, Instant, ddmmyy_day, instant


def test_a_receiver_that_never_says_the_date_gets_the_day_of_a_clock_that_is_right() -> None:
    decoder = live(lambda: wall("2026-11-24T00:00:30"))
    for n in range(60):
        assert second(decoder, n, gga(f"2359{n:02}")) == []
        assert decoder.state == "no-date"
    assert decoder.counts["no-date"] == 60
    (before,) = second(decoder, 61, gga("235959.50"))
    (after,) = second(decoder, 62, gga("000000.50"))
    assert (rfc3339(before.time_ms), before.flags) == ("2026-11-23T23:59:59.500Z", ("date",))
    assert (rfc3339(after.time_ms), after.flags) == ("2026-11-24T00:00:00.500Z", ("date",))
    # A date of the receiver counts as soon as it arrives.
    (fix,) = second(decoder, 63, rmc("000002", date="251126"))
    assert (rfc3339(fix.time_ms), fix.flags) == ("2026-11-25T00:00:02.000Z", ())


def test_without_a_clock_that_is_right_a_fix_without_a_date_is_never_recorded() -> None:
    decoder = live()
    assert [second(decoder, n, gga(f"12{n // 60:02}{n % 60:02}")) for n in range(200)] == [[]] * 200
    assert decoder.counts["no-date"] == 200
    assert decoder.state == "no-date"


@pytest.mark.parametrize(
    ("now", "flags"),
    [
        ("2026-11-22T12:35:19", ()),
        ("2026-11-22T12:35:18", ("time",)),
        ("2030-01-01T00:00:00", ()),
        (None, ()),
    ],
)
def test_a_fix_more_than_a_day_ahead_of_a_clock_that_is_right_is_flagged(
    now: str | None, flags: tuple[str, ...]
) -> None:
    decoder = live(lambda: wall(now) if now else None)
    assert second(decoder, 0, rmc("123519"))[0].flags == flags


@pytest.mark.parametrize(
    ("now", "proven_after_s"),
    [
        ("2026-11-23T23:00:00", 0),  # within a day of the date
        ("2026-11-22T12:36:00", 0),
        ("2026-11-25T12:00:00", 61),
        (None, 61),
    ],
)
def test_a_date_from_before_the_release_is_moved_once_that_is_proven(
    now: str | None, proven_after_s: int
) -> None:
    decoder = live(lambda: wall(now) if now else None)
    fixes = [second(decoder, n, rmc(f"1235{n:02}", date="090407")) for n in range(60)]
    fixes += [second(decoder, 60 + n, rmc(f"1236{n:02}", date="090407")) for n in range(10)]
    given = [n for n, each in enumerate(fixes) if each]
    assert given == list(range(proven_after_s, 70))
    assert {rfc3339(fix.time_ms)[:10] for each in fixes for fix in each} == {"2026-11-23"}
    assert decoder.counts["no-date"] == proven_after_s
    assert decoder.counts["rollover"] == 70
    (notice,) = decoder.notices
    assert "its dates are 1024 or 2048 weeks" in notice


def test_positions_that_are_25_s_apart_prove_a_date_too() -> None:
    decoder = live()
    times = [f"12{35 + 25 * n // 60}{25 * n % 60:02}" for n in range(9)]
    fixes = [second(decoder, 25 * n, rmc(time, date="090407")) for n, time in enumerate(times)]
    assert [len(each) for each in fixes] == [0] * 6 + [1] * 3  # each counts as 10 s


@pytest.mark.parametrize("jump", ["date", "time", "away"])
def test_a_jump_begins_the_proof_again(jump: str) -> None:
    decoder = live()
    n = 0
    for n in range(50):
        assert second(decoder, n, rmc(f"1235{n:02}", date="090407")) == []
    match jump:
        case "date":
            date, hour, start = "100407", "12", n + 1
        case "time":
            date, hour, start = "090407", "17", n + 1
        case _:
            date, hour, start = "090407", "12", n + 1000  # after a long outage
    said = [second(decoder, start + i, rmc(f"{hour}36{i:02}", date=date)) for i in range(60)]
    assert said == [[]] * 60
    said = [second(decoder, start + 60 + i, rmc(f"{hour}37{i:02}", date=date)) for i in range(3)]
    assert said[-1]


@pytest.mark.parametrize("date", ["010913", "060180", "050180", "060136"])
def test_what_a_receiver_has_until_it_hears_the_sky_is_no_date(date: str) -> None:
    decoder = live()
    for n in range(200):
        assert second(decoder, n, rmc(f"12{n // 60:02}{n % 60:02}", date=date)) == []
    assert decoder.state == "no-date"
    (fix,) = second(decoder, 200, rmc("120320"))
    assert (rfc3339(fix.time_ms), fix.flags) == ("2026-11-23T12:03:20.000Z", ())
    # The default date again, for example after an empty battery: the known day continues.
    (fix,) = second(decoder, 201, rmc("120321", date=date))
    assert (rfc3339(fix.time_ms), fix.flags) == ("2026-11-23T12:03:21.000Z", ())


def test_a_zda_of_2080_is_no_date() -> None:
    decoder = live()
    for n in range(100):
        time = f"12{n // 60:02}{n % 60:02}"
        assert second(decoder, n, line(f"GNZDA,{time},06,01,2080,,"), gga(time)) == []
    assert decoder.state == "no-date"
    assert decoder.counts["future-date"] == 100


def test_seconds_without_a_fix_prove_nothing_and_date_nothing() -> None:
    decoder = live(lambda: wall("2026-11-24T12:00:30"))
    for n in range(50):
        assert second(decoder, n, gga(f"1159{n:02}")) == []
    for n in range(50, 400):
        second(decoder, n, gga(f"12{n // 60:02}{n % 60:02}", quality="0"))
    assert second(decoder, 400, gga("121000")) == []  # counts as 10 s at most
    (fix,) = second(decoder, 402, gga("121002"))
    assert fix.flags == ("date",)


def test_an_implausible_date_on_a_live_line_is_replaced_by_that_of_the_clock() -> None:
    decoder = live(lambda: wall("2026-11-23T12:00:00"))
    fixes = [second(decoder, n, rmc(f"1235{n % 60:02}", date="060180")) for n in range(63)]
    assert [len(each) for each in fixes] == [0] * 61 + [1, 1]
    assert fixes[-1][0].flags == ("date",)


# ---- without a line: the dates of one receiver

KNOWN = st.integers(min_value=20_454, max_value=24_000)  # 2026-01-01 to 2035
TIMES = st.integers(min_value=0, max_value=DAY_MS - 1).map(Instant)
HALF_DAY_MS = DAY_MS // 2


def dates(
    *, fix_rollover: bool = False, wall_ms: int | None = None, day: int | None = None
) -> Dates:
    return Dates(wall_clock=lambda: wall_ms, fix_rollover=fix_rollover, day=day)


def placed(known: Dates, time: Instant, now_s: float = 0.0) -> int:
    found = known.resolve(time, now_s)
    assert found is not None
    return found[0]


@given(KNOWN, TIMES, st.lists(st.integers(-HALF_DAY_MS + 1, HALF_DAY_MS - 1), max_size=20))
def test_a_time_gets_the_day_nearest_to_the_last_known_instant(
    day: int, start: Instant, steps_ms: list[int]
) -> None:
    known = dates()
    known.learn(day, start)
    true_ms = day * DAY_MS + start
    for step_ms in steps_ms:
        true_ms += step_ms
        assert placed(known, Instant(true_ms % DAY_MS)) == true_ms


@given(KNOWN, st.lists(st.booleans(), min_size=1, max_size=200), st.integers(1, 39_600))
def test_a_receiver_that_sends_its_date_now_and_then_is_followed_for_weeks(
    day: int, sends: list[bool], step_s: int
) -> None:
    known = dates()
    known.learn(day, Instant(0))
    for n, sent in enumerate(sends):
        true_ms = day * DAY_MS + n * step_s * 1000
        if sent:
            known.learn(true_ms // DAY_MS, Instant(true_ms % DAY_MS))
        assert placed(known, Instant(true_ms % DAY_MS)) == true_ms


@pytest.mark.parametrize("off_days", [-1, 1])
@pytest.mark.parametrize("off_s", range(1, 60, 7))
@given(day=KNOWN)
def test_in_the_minute_round_midnight_the_day_that_goes_on_wins(
    off_days: int, off_s: int, day: int
) -> None:
    known = dates()
    known.learn(day, Instant(DAY_MS - 120_000))
    true_ms = (day + 1) * DAY_MS + (off_s if off_days < 0 else -off_s) * 1000
    known.learn(true_ms // DAY_MS + off_days, Instant(true_ms % DAY_MS))
    assert known.known_ms == true_ms
    assert known.counts["late-date"] == 1
    # More than a minute from midnight, the date of the receiver counts.
    far_ms = (day + 1) * DAY_MS + (61_000 if off_days < 0 else -61_000)
    if off_days < 0:
        known.learn(far_ms // DAY_MS + off_days, Instant(far_ms % DAY_MS))
        assert known.known_ms == far_ms - DAY_MS


@given(KNOWN, TIMES.filter(bool), st.integers(1, 3000), st.sampled_from([-1, 1]))
def test_a_receiver_may_change_its_mind_by_days(
    day: int, time: Instant, days: int, sign: int
) -> None:
    known = dates()
    known.learn(day, Instant(HALF_DAY_MS))
    other = max(0, min(day + sign * days, 24_100))
    known.learn(other, Instant(HALF_DAY_MS))
    assert placed(known, time) == other * DAY_MS + time


@pytest.mark.parametrize(
    ("date", "before", "after", "expected"),
    [
        ("311226", "235959.9", "000000.1", "2027-01-01T00:00:00.100Z"),
        ("280227", "235959", "000000", "2027-03-01T00:00:00.000Z"),
        ("280228", "235959", "000000", "2028-02-29T00:00:00.000Z"),
        ("311226", "235960", "000000", "2027-01-01T00:00:00.000Z"),
        ("311226", "235959", "235960.5", "2027-01-01T00:00:00.500Z"),
        ("010127", "000000.2", "235959.8", "2026-12-31T23:59:59.800Z"),
    ],
)
def test_over_midnight(date: str, before: str, after: str, expected: str) -> None:
    day, first, second_ = ddmmyy_day(date), instant(before), instant(after)
    assert day is not None
    assert first is not None
    assert second_ is not None
    known = dates()
    known.learn(day, first)
    assert rfc3339(placed(known, second_)) == expected


@given(KNOWN, TIMES)
@example(23117, Instant(0))  # 1024 weeks after 2013-09-01
def test_1024_or_2048_weeks_lead_back_on_a_live_line_and_never_in_a_recording(
    day: int, time: Instant
) -> None:
    for weeks in (1024, 2048):
        behind = day - weeks * 7
        if behind < 0:
            continue
        recorded = dates()
        recorded.learn(behind, time)
        assert recorded.known_ms == behind * DAY_MS + time
        if any(behind + n * 7168 in range(20_454, 24_107) for n in (1, 2) if n * 1024 != weeks):
            continue  # both corrections give a plausible date
        line_ = dates(fix_rollover=True, wall_ms=day * DAY_MS + time)
        line_.learn(behind, time)
        if behind == ddmmyy_day("010913"):  # the date of a receiver without satellites
            assert line_.known_ms is None
            continue
        assert line_.known_ms == day * DAY_MS + time
        assert line_.corrected


@given(TIMES, st.integers(-30 * DAY_MS, 30 * DAY_MS))
def test_without_a_date_none_is_invented(time: Instant, off_ms: int) -> None:
    unknown = dates()
    assert unknown.resolve(time, 0.0) is None
    assert unknown.counts["no-date"] == 1
    clock_only = dates(wall_ms=20_780 * DAY_MS + off_ms)
    assert clock_only.resolve(time, 0.0) is None, "the receiver has had no time to send one"


@given(KNOWN, st.lists(st.integers(0, HALF_DAY_MS - 1), max_size=9))
def test_a_recording_gets_its_day_by_hand(day: int, steps_ms: list[int]) -> None:
    by_hand = dates(day=day)
    true_ms = day * DAY_MS
    for step_ms in steps_ms:
        true_ms += step_ms
        assert by_hand.resolve(Instant(true_ms % DAY_MS), 0.0) == (true_ms, ())
