"""Live: when a fix is out, and what the decoder tells of the receiver."""

import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nmea import gga, line, rmc

from telemetry_agent.fields import rfc3339
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.model import Fix

VTG = line("GPVTG,084.4,T,,M,010.0,N,018.5,K,A")
GSA = line("GPGSA,A,3,01,02,03,04,05,,,,,,,,1.9,0.9,1.7")


def live(wall_clock: Callable[[], int | None] = lambda: None, baud: int | None = None) -> Decoder:
    return Decoder(wall_clock=wall_clock, fix_rollover=True, baud=baud)


def times(fixes: list[Fix]) -> list[str]:
    return [rfc3339(fix.time_ms)[11:-1] for fix in fixes]


def wall(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def second(decoder: Decoder, n: int, *sentences: bytes) -> list[Fix]:
    """One second on the line: the sentences at its beginning, then quiet, with ticks when due."""
    fixes = decoder.feed(b"".join(sentences), float(n))
    due_s = decoder.due_s()
    return fixes if due_s is None else fixes + decoder.tick(due_s)


def test_a_quiet_line_completes_the_fix() -> None:
    decoder = live()
    assert decoder.due_s() is None
    assert decoder.feed(gga("123519"), 10.0) == []
    assert decoder.feed(rmc("123519"), 10.1) == []
    assert decoder.due_s() == pytest.approx(10.35)
    assert decoder.tick(10.34) == []
    (fix,) = decoder.tick(10.35)
    assert (fix.alt_mm, fix.speed_mm_s) == (545_400, 11_524)
    assert decoder.due_s() is None
    assert decoder.tick(11.0) == decoder.finish() == []


@pytest.mark.parametrize(("baud", "quiet_s"), [(4800, 0.5), (9600, 0.25), (115200, 0.25)])
def test_a_slow_line_is_given_more_time(baud: int, quiet_s: float) -> None:
    decoder = live(baud=baud)
    decoder.feed(rmc("123519"), 10.0)
    assert decoder.due_s() == pytest.approx(10.0 + quiet_s)


def test_any_byte_puts_the_quiet_gap_off() -> None:
    decoder = live()
    decoder.feed(rmc("123519"), 10.0)
    decoder.feed(b"\xb5", 10.2)
    assert decoder.due_s() == pytest.approx(10.45)


def test_the_last_sentence_of_the_cycle_is_learned_and_not_waited_for() -> None:
    decoder = live()
    for n in range(5):
        assert decoder.feed(rmc(f"12350{n}") + gga(f"12350{n}"), float(n)) == []
        assert times(decoder.tick(n + 0.3)) == [f"12:35:0{n}.000"]
    assert decoder.feed(rmc("123505"), 5.0) == []
    assert times(decoder.feed(gga("123505"), 5.1)) == ["12:35:05.000"]
    assert decoder.due_s() is None


def test_a_cycle_may_end_with_the_second_of_two_like_sentences() -> None:
    decoder = live()
    cycle = [second(decoder, n, rmc(f"12350{n}"), GSA, GSA) for n in range(6)]
    assert [len(fixes) for fixes in cycle] == [1] * 6
    assert decoder.feed(rmc("123506") + GSA, 6.0) == []
    assert len(decoder.feed(GSA, 6.1)) == 1


def test_what_comes_after_the_learned_end_unlearns_it() -> None:
    decoder = live()
    for n in range(6):
        second(decoder, n, rmc(f"12350{n}"))
    assert times(decoder.feed(rmc("123506"), 6.0)) == ["12:35:06.000"]
    assert decoder.feed(gga("123506"), 6.1) == []
    assert decoder.feed(VTG, 6.2) == []
    assert decoder.counts["late"] == 2
    assert decoder.feed(rmc("123507"), 7.0) == []
    assert decoder.feed(gga("123507"), 7.1) == []
    (fix,) = decoder.tick(7.4)
    assert fix.alt_mm == 545_400


def test_what_comes_without_a_time_after_the_learned_end_unlearns_it() -> None:
    decoder = live()
    for n in range(6):
        second(decoder, n, rmc(f"12350{n}"))
    assert len(decoder.feed(rmc("123506") + VTG, 6.0)) == 1
    assert decoder.counts["late"] == 1
    assert decoder.feed(rmc("123507"), 7.0) == []
    assert decoder.feed(VTG, 7.1) == []
    assert decoder.tick(7.4)[0].speed_mm_s == 5_144


def test_a_cycle_may_begin_with_a_sentence_without_a_time() -> None:
    decoder = live()
    for n in range(8):
        (fix,) = second(decoder, n, VTG, gga(f"12350{n}"), line(f"GPZDA,12350{n},23,11,2026,00,00"))
        assert fix.speed_mm_s == 5_144
    assert decoder.counts["late"] == 0


def test_a_late_sentence_opens_nothing_and_makes_the_quiet_gap_grow() -> None:
    decoder = live()
    decoder.feed(rmc("123519"), 10.0)
    assert len(decoder.tick(10.3)) == 1
    assert decoder.feed(gga("123519"), 10.4) == []
    assert decoder.due_s() is None
    assert decoder.counts["late"] == 1
    decoder.feed(rmc("123520"), 11.0)
    assert decoder.due_s() == pytest.approx(11.375)


def test_a_late_sentence_without_a_time_makes_the_quiet_gap_grow_up_to_a_limit() -> None:
    decoder = live()
    for n in range(9):
        decoder.feed(rmc(f"12350{n}"), n * 10.0)
        decoder.tick(n * 10.0 + 2)
        decoder.feed(VTG, n * 10.0 + 3)
        assert decoder.tick(n * 10.0 + 6) == []
    assert decoder.counts["late"] == 9
    decoder.feed(rmc("123510"), 100.0)
    assert decoder.due_s() == pytest.approx(101.0)


def test_another_talker_that_repeats_teaches_nothing() -> None:
    decoder = live()
    decoder.feed(rmc("123519"), 10.0)
    decoder.tick(10.3)
    decoder.feed(rmc("123519", talker="II"), 10.5)
    decoder.feed(rmc("123520"), 11.0)
    assert decoder.due_s() == pytest.approx(11.25)


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
    # As soon as the receiver says a date, it counts.
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
        ("2026-11-23T23:00:00", 0),  # within a day of it
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
            date, hour, start = "090407", "12", n + 1000  # it comes back after a long outage
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
    # Back to it, for example after its battery was empty: the known day goes on.
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
    assert second(decoder, 400, gga("121000")) == []  # 10 s at most, however long it was
    (fix,) = second(decoder, 402, gga("121002"))
    assert fix.flags == ("date",)


def test_an_implausible_date_on_a_live_line_is_replaced_by_that_of_the_clock() -> None:
    decoder = live(lambda: wall("2026-11-23T12:00:00"))
    fixes = [second(decoder, n, rmc(f"1235{n % 60:02}", date="060180")) for n in range(63)]
    assert [len(each) for each in fixes] == [0] * 61 + [1, 1]
    assert fixes[-1][0].flags == ("date",)


def test_state() -> None:
    decoder = live()
    assert decoder.state is None
    second(decoder, 0, line("GPTXT,01,01,02,u-blox AG - www.u-blox.com"))
    assert decoder.state is None
    second(decoder, 1, rmc("123519", status="V"))
    assert decoder.state == "no-fix"
    second(decoder, 2, rmc("123520"))
    assert decoder.state == "2d"
    second(decoder, 3, rmc("123521"), GSA)
    assert decoder.state == "3d"


def test_state_of_a_receiver_that_sends_no_position() -> None:
    decoder = live()
    for n in range(10):
        second(decoder, n, line("GPGSV,1,1,00"))
        assert decoder.state is None
    second(decoder, 10, line("GPGSV,1,1,00"))
    assert decoder.state == "no-fix"


def test_state_of_a_receiver_that_went_over_to_binary_frames() -> None:
    decoder = live()
    second(decoder, 0, rmc("123519"), GSA)
    for n in range(1, 12):
        second(decoder, n, b"\xb5\x62\x01\x07\x5c\x00" + bytes(94))
    assert decoder.state == "binary"


def test_state_of_a_line_of_noise_is_not_known() -> None:
    decoder = live()
    for n in range(12):
        second(decoder, n, b"\xf8\x80\x00\xfe" * 30)
    assert decoder.state is None


@pytest.mark.parametrize(
    ("texts", "antenna", "firmware", "overflows"),
    [
        (["01,01,01,ANTENNA OK"], "OK", None, 0),
        (["01,01,01,ANT_OPEN"], "OPEN", None, 0),
        (["01,01,02,ANTSTATUS=OK", "01,01,02,ANTSTATUS=OPEN"], "OPEN", None, 0),
        (["01,01,01,ANTENNA SHORT"], "SHORT", None, 0),
        (["01,01,02,ANTSUPERV=AC SD PDoS SR"], None, None, 0),
        (["01,01,02,FWVER=ADR 4.50", "01,01,02,PROTVER=19.20"], None, "ADR 4.50", 0),
        (["01,01,02,ROM BASE 3.01 (107888)"], None, "3.01 (107888)", 0),
        (["01,01,02,SW=URANUS5,V5.3.0.0"], None, "URANUS5,V5.3.0.0", 0),
        (["01,01,00,txbuf alloc", "01,01,00,txbuf alloc"], None, None, 2),
        (["01,01,02,u-blox AG - www.u-blox.com"], None, None, 0),
    ],
)
def test_texts_of_the_receiver(
    texts: list[str], antenna: str | None, firmware: str | None, overflows: int
) -> None:
    decoder = live()
    decoder.feed(b"".join(line(f"GNTXT,{text}") for text in texts), 0.0)
    assert (decoder.antenna, decoder.firmware) == (antenna, firmware)
    assert decoder.counts["receiver-overflow"] == overflows


def _at(lat: float, time: str, *, status: str = "A") -> bytes:
    return line(f"GPRMC,{time},{status},48{lat:06.3f},N,01131.000,E,022.4,084.4,231126,,,A")


def _alternating(n: int) -> bytes:
    return _at(7, f"1200{n:02}") + _at(7, f"1200{n + 20:02}")


def _one_without_a_fix(n: int) -> bytes:
    return _at(7, f"1200{n:02}") + line("GPRMC,,V,,,,,,,,,,N")


def _one_without_a_fix_at_the_same_time(n: int) -> bytes:
    return _at(7, f"1200{n:02}") + _at(7, f"1200{n:02}", status="V")


def _far_apart(n: int) -> bytes:
    return _at(7 + n / 1000, f"1200{n:02}") + _at(7.1 + n / 1000, f"1200{n:02}")


@pytest.mark.parametrize(
    "second_of",
    [_alternating, _one_without_a_fix, _one_without_a_fix_at_the_same_time, _far_apart],
)
def test_two_receivers_that_speak_as_one_talker_are_noticed(
    second_of: Callable[[int], bytes],
) -> None:
    decoder = Decoder(fix_rollover=False, eager=False)
    fixes = decoder.feed(b"".join(map(second_of, range(2))), 0.0)
    assert not any(decoder.notices)
    fixes += decoder.feed(b"".join(map(second_of, range(2, 15))), 0.0)
    (notice,) = decoder.notices
    assert "two receivers seem to speak as one talker" in notice
    assert len(fixes) > 10


def _steps_of_10_s(n: int) -> bytes:
    time = f"12{n // 60:02}{n // 10 * 10 % 60:02}"
    return _at(7 + n / 50, time)


def _flickering(n: int) -> bytes:
    return _at(7, f"12{n // 60:02}{n % 60:02}", status="A" if n % 7 else "V")


def _over_midnight(n: int) -> bytes:
    return _at(7, f"{(23 * 60 + 55 + n) // 60 % 24:02}{(55 + n) % 60:02}00")


@pytest.mark.parametrize("second_of", [_steps_of_10_s, _flickering, _over_midnight])
def test_one_receiver_is_not_taken_for_two(second_of: Callable[[int], bytes]) -> None:
    decoder = Decoder(fix_rollover=False, eager=False)
    decoder.feed(b"".join(map(second_of, range(200))), 0.0)
    assert decoder.notices == ()


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
    assert decoder.followed == "GN"


def test_many_talkers_cost_no_memory() -> None:
    decoder = live()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for n, talker in enumerate(f"{a}{b}" for a in letters.replace("P", "") for b in letters):
        decoder.feed(rmc("123519", talker=talker) + rmc(f"1236{n % 60:02}"), float(n))
    assert decoder.followed == "GN"
    assert decoder.counts["other-talker"] > 600
    assert len(decoder._line.assemblers) <= 8


def test_the_datum_is_told() -> None:
    decoder = live()
    decoder.feed(line("GPDTM,999,CH95,0.08,N,0.07,E,-47.7,W84"), 0.0)
    assert decoder.datum == "999"
    decoder.feed(line("GPDTM,W84,,0.0,N,0.0,E,0.0,W84"), 1.0)
    assert decoder.datum is None


_FIELDS = st.sampled_from(
    (
        *("", "A", "V", "N", "E", "1", "0", "3", "123519", "235960.5", "231126", "-1", "4807.038"),
        *("01131.000", "nan", "99999999999999999999", "1e9", "W84", "."),
    )
) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6)
_TYPES = ("RMC", "GGA", "GLL", "GNS", "GSA", "VTG", "GST", "ZDA", "GBS", "DTM", "TXT", "GSV")
_SENTENCES = st.builds(
    lambda talker, kind, fields: line(",".join([talker + kind, *fields])),
    st.sampled_from(("GP", "GN", "II", "P")),
    st.sampled_from(_TYPES),
    st.lists(_FIELDS, max_size=20),
)


@given(
    st.lists(_SENTENCES | st.binary(max_size=40) | st.just(rmc("123519")), max_size=40),
    st.booleans(),
    st.booleans(),
)
def test_nothing_raises_and_every_fix_is_storable(
    parts: list[bytes], fix_rollover: bool, eager: bool
) -> None:
    decoder = Decoder(wall_clock=lambda: 1_795_000_000_000, fix_rollover=fix_rollover, eager=eager)
    fixes: list[Fix] = []
    for n, part in enumerate(parts):
        fixes += decoder.feed(part, n * 0.1)
        if n % 5 == 0:
            fixes += decoder.tick(n * 0.1 + 0.3)
        assert decoder.state in {None, "binary", "no-date", "no-fix", "2d", "3d"}
    for fix in fixes + decoder.finish():
        assert abs(fix.lat_e9) <= 90 * 10**9
        assert abs(fix.lon_e9) <= 180 * 10**9
        assert all(abs(value) < 2**53 for value in fix if isinstance(value, int))
        rfc3339(fix.time_ms)


def test_memory_is_bounded() -> None:
    decoder = live()
    unit = rmc("123519") + b"$GPXXX," + b"x" * 500 + b"\xb5\x62" + bytes(500)
    unit += b"".join(
        line(f"{talker}GSA,A,3,{n:02}" + "," * 15) for n in range(99) for talker in ("GP", "GL")
    )
    decoder.feed(unit * 5, 0.0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for n in range(50):
            decoder.feed(unit, float(n))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000


def test_time_is_linear_in_the_sentences_of_one_epoch() -> None:
    def taken(sentences: int) -> float:
        data = (rmc("123519") + GSA) * (sentences // 2)
        best = 1e9
        for _ in range(3):
            decoder = live()
            start = time.process_time()
            decoder.feed(data, 0.0)
            best = min(best, time.process_time() - start)
        return best

    assert taken(8_000) < 40 * taken(1_000) + 0.02
