"""The live decoder: what it reports about the receiver, and that no input breaks it."""

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_line import live, second
from nmea import line, rmc

from telemetry_agent.fields import rfc3339
from telemetry_agent.gnss.decoder import Decoder

GSA = line("GPGSA,A,3,01,02,03,04,05,,,,,,,,1.9,0.9,1.7")


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


def test_state_of_a_line_of_noise_is_not_known() -> None:
    decoder = live()
    for n in range(12):
        second(decoder, n, b"\xf8\x80\x00\xfe" * 30)
    assert decoder.state is None


@pytest.mark.parametrize(
    ("texts", "antenna", "overflows"),
    [
        (["01,01,01,ANTENNA OK"], "OK", 0),
        (["01,01,01,ANT_OPEN"], "OPEN", 0),
        (["01,01,02,ANTSTATUS=OK", "01,01,02,ANTSTATUS=OPEN"], "OPEN", 0),
        (["01,01,01,ANTENNA SHORT"], "SHORT", 0),
        (["01,01,02,ANTSUPERV=AC SD PDoS SR"], None, 0),
        (["01,01,02,FWVER=ADR 4.50", "01,01,02,PROTVER=19.20"], None, 0),
        (["01,01,02,ROM BASE 3.01 (107888)"], None, 0),
        (["01,01,02,SW=URANUS5,V5.3.0.0"], None, 0),
        (["01,01,00,txbuf alloc", "01,01,00,txbuf alloc"], None, 2),
        (["01,01,02,u-blox AG - www.u-blox.com"], None, 0),
    ],
)
def test_texts_of_the_receiver(texts: list[str], antenna: str | None, overflows: int) -> None:
    decoder = live()
    decoder.feed(b"".join(line(f"GNTXT,{text}") for text in texts), 0.0)
    assert decoder.antenna == antenna
    assert decoder.counts["receiver-overflow"] == overflows


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
    fixes = []
    for n, part in enumerate(parts):
        fixes += decoder.feed(part, n * 0.1)
        if n % 5 == 0:
            fixes += decoder.tick(n * 0.1 + 0.3)
        assert decoder.state in {None, "no-date", "no-fix", "2d", "3d"}
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
