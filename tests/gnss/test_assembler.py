"""Start and end of an epoch on a live line and in a recording; the cycle of the receiver."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_line import live, second, times
from nmea import gga, line, rmc

from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.field_values import DAY_MS

VTG = line("GPVTG,084.4,T,,M,010.0,N,018.5,K,A")
GSA = line("GPGSA,A,3,01,02,03,04,05,,,,,,,,1.9,0.9,1.7")


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


def test_a_position_is_not_late_after_the_line_was_quiet_without_one() -> None:
    decoder = live()
    decoder.feed(line("GPRMC,123519,V,,,,,,,231126,,"), 10.0)
    assert decoder.tick(10.3) == []
    decoder.feed(rmc("123519"), 10.5)
    assert times(decoder.tick(10.8)) == ["12:35:19.000"]
    assert decoder.counts == {"no-fix": 1}


def test_a_time_that_comes_again_after_a_later_one_makes_no_fix_on_a_live_line_either() -> None:
    decoder = live()
    fixes = []
    for now_s, (time, minutes) in enumerate(
        [("123510", "038"), ("123511", "039"), ("123510", "040"), ("123512", "041")]
    ):
        position = f"4807.{minutes},N,01131.000,E"
        decoder.feed(line(f"GPRMC,{time},A,{position},5.2,218.0,231126,,,A"), float(now_s))
        fixes += decoder.tick(now_s + 0.3)
    assert times(fixes) == ["12:35:10.000", "12:35:11.000", "12:35:12.000"]
    assert decoder.counts == {"late": 1}


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


def test_a_receiver_that_sends_fewer_sentences_without_a_fix_keeps_its_cycle() -> None:
    decoder = live()
    whole = [second(decoder, n, rmc(f"12350{n}"), gga(f"12350{n}")) for n in range(5)]
    for n in range(10, 20):
        assert second(decoder, n, rmc(f"1235{n}", status="V")) == []
    whole += [second(decoder, n, rmc(f"1235{n}"), gga(f"1235{n}")) for n in range(20, 22)]
    assert [fix.alt_mm for fixes in whole for fix in fixes] == [545_400] * 7
    assert decoder.counts == {"no-fix": 10}


def test_the_first_fix_does_not_end_where_a_cycle_without_a_fix_ended() -> None:
    decoder = live()
    for n in range(10, 20):
        assert second(decoder, n, rmc(f"1235{n}", status="V"), VTG) == []
    (fix,) = second(decoder, 20, gga("123520"), VTG, rmc("123520"))  # the date comes last
    assert fix.alt_mm == 545_400


def test_a_cycle_may_end_with_the_second_of_two_like_sentences() -> None:
    decoder = live()
    cycle = [second(decoder, n, rmc(f"12350{n}"), GSA, GSA) for n in range(6)]
    assert [len(fixes) for fixes in cycle] == [1] * 6
    assert decoder.feed(rmc("123506") + GSA, 6.0) == []
    assert len(decoder.feed(GSA, 6.1)) == 1


def test_a_sentence_that_is_lost_now_and_then_is_learned_as_part_of_the_cycle() -> None:
    decoder = live()
    for n in range(40):
        second(decoder, n, rmc(f"1235{n:02}"), *[gga(f"1235{n:02}")] * (n % 7 != 6))
    assert decoder.feed(rmc("123540"), 40.0) == []
    assert [fix.alt_mm for fix in decoder.feed(gga("123540"), 40.1)] == [545_400]
    assert decoder.counts["late"] == 0


def test_a_sentence_that_the_line_repeats_after_the_end_changes_nothing() -> None:
    decoder = live()
    for n in range(8):
        second(decoder, n, GSA, gga(f"12350{n}"), rmc(f"12350{n}"))
    second(decoder, 8, GSA, gga("123508"), rmc("123508") * 2)
    assert decoder.counts["late"] == 1
    (fix,) = decoder.feed(GSA + gga("123509") + rmc("123509"), 9.0)
    assert fix.pdop_e2 == 190


def test_a_sentence_without_a_time_that_the_line_repeats_changes_nothing_either() -> None:
    decoder = live()
    for n in range(8):
        second(decoder, n, GSA, rmc(f"12350{n}"), VTG)
    second(decoder, 8, GSA, rmc("123508"), VTG, VTG)
    assert decoder.counts["late"] == 1
    (fix,) = decoder.feed(GSA + rmc("123509") + VTG, 9.0)
    assert fix.pdop_e2 == 190


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


def test_a_gap_shows_that_a_cycle_does_not_begin_with_what_came_before_it() -> None:
    decoder = live()
    place = "4807.038,N,01131.000,E"
    for n, hdop in enumerate((0.9, 1.0, 1.1, 1.2)):  # without gaps; GSA comes first
        gsa = line(f"GPGSA,A,3,01,02,03,04,,,,,,,,,1.9,{hdop},1.7")
        gga = line(f"GPGGA,12350{n},{place},1,08,{hdop},545.4,M,46.9,M,,")
        decoder.feed(gsa + gga + rmc(f"12350{n}"), n / 10)
    (fix,) = second(decoder, 4, line("GPGSA,A,3,01,02,03,04,,,,,,,,,2.9,1.9,1.7"))
    assert fix.pdop_e2 == 290


def _vtg(n: int) -> bytes:
    return line(f"GPVTG,084.4,T,,M,01{n}.0,N,,K,A")


def test_a_gap_shows_what_begins_the_cycle_also_if_its_first_sentence_was_lost() -> None:
    decoder = live()
    for n in range(6):
        second(decoder, n, gga(f"12350{n}"), GSA, rmc(f"12350{n}"))
    (fix,) = second(decoder, 6, GSA, rmc("123506"))
    assert (fix.mode, fix.hdop_e2) == (3, 90)
    decoder.feed(GSA, 6.3)
    assert len(decoder.feed(rmc("123507"), 6.3)) == 1
    assert decoder.counts["late"] == 0


def test_above_4_hz_a_gap_of_half_the_cycle_shows_it() -> None:
    decoder = live()
    for n in range(7):
        decoder.feed(gga(f"123500.{n}") + GSA + rmc(f"123500.{n}"), n / 10)
    (fix,) = decoder.feed(GSA + rmc("123500.7"), 0.7)
    assert (fix.mode, fix.hdop_e2) == (3, 90)
    assert decoder.counts["late"] == 0
    decoder.feed(VTG, 0.72)
    assert decoder.counts["late"] == 1


def test_a_live_line_may_begin_with_the_end_of_a_cycle() -> None:
    decoder = Decoder(fix_rollover=False, day=20_000)
    data = _vtg(0) + b"".join(gga(f"12350{n}") + _vtg(n) for n in range(1, 4))
    fixes = decoder.feed(data, 0.0) + decoder.finish()
    assert [fix.speed_mm_s for fix in fixes] == [5_659, 6_173, 6_688]


def test_a_recording_that_begins_within_a_sentence_begins_within_a_cycle() -> None:
    decoder = Decoder(fix_rollover=False, eager=False, day=20_000)
    data = b"".join(_vtg(n) + gga(f"12350{n}") for n in range(4))
    fixes = decoder.feed(b"*47\r\n" + data, 0.0) + decoder.finish()
    assert [fix.speed_mm_s for fix in fixes] == [5_659, 6_173, 6_688, None]


def test_a_late_sentence_opens_nothing_and_makes_the_quiet_gap_grow() -> None:
    decoder = live()
    decoder.feed(rmc("123519"), 10.0)
    assert len(decoder.tick(10.3)) == 1
    assert decoder.feed(gga("123519"), 10.4) == []
    assert decoder.due_s() is None
    assert decoder.counts["late"] == 1
    decoder.feed(rmc("123520"), 11.0)
    assert decoder.due_s() == pytest.approx(11.375)


def test_a_cycle_that_repeats_after_its_fix_leaves_the_quiet_gap() -> None:
    decoder = live()
    for n in range(3):
        fixes = second(decoder, n, rmc("123510"), gga("123510"), VTG)
        assert len(fixes) == (n == 0)
    decoder.feed(rmc("123520"), 10.0)
    assert decoder.due_s() == pytest.approx(10.25)


def test_what_waits_for_a_time_beside_a_late_sentence_is_late_too() -> None:
    decoder = live()
    place = "4807.038,N,01131.000,E"
    second(decoder, 0, rmc("123500"))
    (fix,) = second(decoder, 1, VTG, line(f"GPGLL,{place},123500,A,A"), gga("123501"))
    assert fix.speed_mm_s is None


def test_a_sentence_one_instant_behind_delays_nothing() -> None:
    decoder = live()
    for n in range(1, 7):
        fixes = second(decoder, n, gga(f"12350{n}"), GSA, rmc(f"12350{n - 1}"))
    assert times(fixes) == ["12:35:06.000"]
    assert times(decoder.feed(gga("123507") + GSA, 7.0)) == ["12:35:07.000"]
    assert decoder.feed(rmc("123506"), 7.1) == []
    assert decoder.due_s() is None


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


# ---- a recording without pauses

TYPES = ("RMC", "GGA", "GLL", "GNS", "GSA", "VTG", "GST", "ZDA")


def epoch(ms: int, types: list[str]) -> list[bytes]:
    """The sentences of one instant of 2026-11-23. Their values are derived from its time."""
    s = ms // 1000
    knots, hdop, pdop, error = ms // 100 % 359, *dilutions_e2(ms), ms // 100 % 97
    at = f"{s // 3600 % 24:02}{s // 60 % 60:02}{s % 60:02}.{ms % 1000:03}"
    place = f"48{ms // 100 % 60_000 / 1000:07.4f},N,01131.0000,E"
    body = {
        "RMC": f"GNRMC,{at},A,{place},{knots},{knots}.0,231126,,,A",
        "GGA": f"GNGGA,{at},{place},1,08,{hdop / 100},{s % 60}.0,M,46.9,M,,",
        "GLL": f"GNGLL,{place},{at},A,A",
        "GNS": f"GNGNS,{at},{place},AA,08,{hdop / 100},{s % 60}.0,46.9,,",
        "GSA": f"GNGSA,A,3,01,02,03,04,05,,,,,,,,{pdop / 100},{hdop / 100},1.7",
        "VTG": f"GNVTG,{knots}.0,T,,M,{knots},N,,K,A",
        "GST": f"GNGST,{at},,,,,3.0,4.0,{error}",
        "ZDA": f"GNZDA,{at},23,11,2026,00,00",
    }
    return [line(body[kind]) for kind in types]


def dilutions_e2(ms: int) -> tuple[int, int]:
    """HDOP and PDOP."""
    hdop_e2 = 50 + 10 * (ms // 100 % 499)
    return hdop_e2, hdop_e2 + 70


def decoded(data: bytes, size: int | None = None) -> list[int]:
    """The times of the fixes, in milliseconds of the day."""
    decoder = Decoder(fix_rollover=False, eager=False)
    fixes = []
    for start in range(0, len(data), size or len(data) or 1):
        fixes += decoder.feed(data[start : start + (size or len(data))], 0.0)
    fixes += decoder.finish()
    for fix in fixes:
        ms = fix.time_ms % DAY_MS
        assert fix.lat_e9 == 48 * 10**9 + round(ms // 100 % 60_000 * 10**6 / 60)
        assert fix.alt_mm in {None, ms // 1000 % 60 * 1000}
    return [fix.time_ms % DAY_MS for fix in fixes]


# RMC is always sent: it has the date. Times differ by more than the 50 ms that ZDA may be off.
@given(
    st.permutations(TYPES[1:]).flatmap(lambda t: st.integers(0, 7).map(lambda n: [*t[:n], "RMC"])),
    st.sampled_from([100, 200, 500, 960, 1000, 10_000]),
    st.integers(0, 86_000_000 // 40),
    st.sampled_from([None, 1, 50]),
    st.randoms(use_true_random=False),
)
def test_any_cycle_in_any_order_gives_each_instant_once(
    types: list[str], step_ms: int, start: int, size: int | None, draw: random.Random
) -> None:
    draw.shuffle(types)
    instants = [(start * 40 // 10 * 10 + n * step_ms) % DAY_MS for n in range(6)]
    data = b"".join(sentence for ms in instants for sentence in epoch(ms, types))
    assert decoded(data, size) == instants


@given(
    st.sets(st.sampled_from(TYPES)).map(lambda types: [*types | {"RMC", "GGA"}]),
    st.sampled_from([100, 200, 1000, 10_000]),
    st.integers(0, 860_000),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_no_instant_takes_a_value_of_another_one_whatever_begins_the_cycle(
    types: list[str], step_ms: int, start: int, eager: bool, draw: random.Random
) -> None:
    draw.shuffle(types)
    data = [b"".join(epoch((start * 100 + n * step_ms) % DAY_MS, types)) for n in range(9)]
    decoder = Decoder(fix_rollover=False, eager=eager)
    fixes = [fix for each in data for fix in decoder.feed(each, 0.0)] + decoder.finish()
    assert len(fixes) == 9
    for fix in fixes:
        ms = fix.time_ms % DAY_MS
        hdop_e2, pdop_e2 = dilutions_e2(ms)
        assert (fix.hdop_e2, fix.course_mdeg) == (hdop_e2, ms // 100 % 359 * 1000)
        assert fix.pdop_e2 in {None, pdop_e2}
        assert fix.err_v_mm in {None, ms // 100 % 97 * 1000}
        if fix.time_ms != fixes[-1].time_ms:
            assert (fix.pdop_e2 is None) == ("GSA" not in types)
            assert (fix.err_v_mm is None) == ("GST" not in types)


@given(st.lists(st.integers(0, 863_999), min_size=1, max_size=20))
def test_time_may_go_anywhere_and_no_instant_is_lost(tenths: list[int]) -> None:
    instants = [tenth * 100 for tenth in tenths]
    data = b"".join(sentence for ms in instants for sentence in epoch(ms, ["RMC", "GGA"]))
    changes: list[int] = []
    for ms in instants:
        if ms not in changes[-3:]:  # otherwise the same sentences came before
            changes.append(ms)
    assert decoded(data) == changes


@given(st.lists(st.sampled_from(TYPES), min_size=1, max_size=30), st.integers(0, 400_000))
def test_no_instant_gives_two_fixes_whatever_is_missing(kinds: list[str], start: int) -> None:
    data, ms = b"".join(epoch(start * 100, ["RMC"])), start * 100
    for kind in kinds:
        ms += 100 if kind == "RMC" else 0
        data += b"".join(epoch(ms, [kind]))
    found = decoded(data)
    assert found == sorted(set(found))
