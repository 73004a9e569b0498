"""Finding sentences in arbitrary bytes."""

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nmea import line, rmc

from telemetry_agent.gnss.framing import MAX_SENTENCE, Framer

A, B = rmc("123519"), rmc("123520")
BODY_A, BODY_B = A[1:-5].decode(), B[1:-5].decode()
LOW = b"$GPRMC,120000,A,4807.038,N,01131.000,W,1.1,2.2,231126,,"  # its checksum is 0B
UBX = b"\xb5\x62\x01\x07\x04\x00$\x00*\n\x13\x37"
SIRF = b"\xa0\xa2\x00\x02!$\x00\x02\xb0\xb3"
CASIC = b"\xba\xce\x04\x00\x05\x01$GP\x00\x00\x00\x00"


def frame(data: bytes, size: int) -> tuple[list[str], Counter[str]]:
    framer = Framer()
    sentences: list[str] = []
    for start in range(0, len(data), size):
        sentences += framer.feed(data[start : start + size])
    sentences += framer.finish()
    return sentences, framer.rejected


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("data", "sentences", "rejected"),
    [
        (A + B, [BODY_A, BODY_B], {}),
        (A[:-2] + b"\n" + B[:-2] + b"\r\r\n" + A, [BODY_A, BODY_B, BODY_A], {}),
        (A[:-4] + A[-4:-2].lower() + b"\r\n", [BODY_A], {}),
        (b"$" + A + b"$$" + B, [BODY_A, BODY_B], {}),
        (A[:20] + B, [BODY_B], {"aborted": 1}),
        (A[:-2] + B, [BODY_A, BODY_B], {}),
        (A[:20] + b"\xff" + A[20:] + B, [BODY_B], {"aborted": 1, "garbage-bytes": len(A[20:]) - 1}),
        (A[:20] + b"\x00" + B, [BODY_B], {"aborted": 1, "garbage-bytes": 1}),
        (b"\xb5b$Z1\x00\x00$GP\xff" + B, [BODY_B], {"garbage-bytes": 11}),  # binary, not damage
        (A[:-5] + b"\r\n" + B, [BODY_B], {"no-checksum": 1}),
        (A[:-4] + b"Z0\r\n" + B, [BODY_B], {"no-checksum": 1}),
        (A[:-4] + b"7\r\n" + B, [BODY_B], {"no-checksum": 1}),
        (LOW + b"*B\r\n" + LOW + b"*b" + A, [LOW[1:].decode()] * 2 + [BODY_A], {}),
        (LOW + b"*C\r\n" + LOW + b"*B,\r\n" + A, [BODY_A], {"no-checksum": 2}),
        (A.replace(b"4807", b"4808") + B, [BODY_B], {"bad-checksum": 1}),
        (A[:-2] + b" trailing\r\n" + B, [BODY_A, BODY_B], {}),
        (line("GPTXT,01,01,02,a*b*c"), ["GPTXT,01,01,02,a*b*c"], {}),
        (b",1.7,-30.40,M*7D\r\n" + A, [BODY_A], {"garbage-bytes": 16}),
        (b"!AIVDM,1,1,,A,13u?etPv2;0n:dDPwUM1U1Cb069D,0*24\r\n" + A, [BODY_A], {}),
        (b"!AIVDM,1,1,,A,13u?et" + A, [BODY_A], {}),
        (line("GPTXT,01,01,02,hey!you"), ["GPTXT,01,01,02,hey!you"], {}),
        (b"\r\n\r\n" + A + b"\n\n", [BODY_A], {}),
        (b"$*00\r\n" + A, [BODY_A], {"no-checksum": 1}),
        (A[:-2], [BODY_A], {}),
        (A[:-3], [], {"no-checksum": 1}),
        (b"", [], {}),
    ],
)
def test_framing(data: bytes, sentences: list[str], rejected: dict[str, int], size: int) -> None:
    found, counts = frame(data, size)
    assert found == sentences
    assert dict(counts) == rejected


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\xef\xbb\xbf", b"\r"),
        (b"+GPSRD:", b"\r\n"),
        (b"\r\nOK\r\n+UGRMC: 1,", b"\r\n"),
        (b"\\s:GP0001,c:1795437319*0C\\", b"\r\n"),
        (b"\\g:1-2-77*5C\\", b""),
        (b"2026-11-23T12:00:01.123Z,NMEA0183,COM3 Port 1,", b"\n"),
        (b'"12:00:00","', b'"\r\n'),
        (b"NMEA,", b",1795437319000\n"),
        (b"07:11:15.871 R ", b",,,,\r\n"),
        (b"!AIVDM,1,1,,A,15RTgt0PAso;90TKcjM8h6g208CQ,0*4A\r\n", b"\\r\\n"),
        (b"#BESTNAVA,97,GPS,FINE;SOL_COMPUTED*3d781d55\r\n", b"<CR><LF>"),
        (b"\xff\xfe\x00", b"\x00\x00\x00"),
    ],
)
def test_what_others_write_around_a_sentence_is_no_part_of_it(
    before: bytes, after: bytes, size: int
) -> None:
    data = b"".join(before + sentence[:-2] + after for sentence in (A, B))
    found, counts = frame(data, size)
    assert found == [BODY_A, BODY_B]
    assert counts.keys() <= {"garbage-bytes"}


@pytest.mark.parametrize(
    ("data", "unchecked"),
    [
        (LOW + b"\r\n", {"no-checksum": 1}),
        (LOW + b"*0C\r\n" + LOW + b"*0C,,,,\r\n", {"bad-checksum": 2}),  # a table adds commas
        (LOW + b"* B\r\n", {"bad-checksum": 1}),  # printf("%2X")
        (LOW[:30] + LOW[:35] + b"\xff" + A, {}),  # damaged, as on a loose cable
        (b"$GPTXT,01,01,02,ok\r\n$PUBX,00*00\r\n", {}),
    ],
)
def test_whole_sentences_of_a_receiver_that_cannot_be_checked_are_counted(
    data: bytes, unchecked: dict[str, int]
) -> None:
    framer = Framer()
    framer.feed(data)
    assert framer.unchecked == unchecked


@pytest.mark.parametrize("checksum", [b"*1", b"* 01", b"*0 1", b"01", b"*"])
def test_a_checksum_is_a_star_and_two_digits(checksum: bytes) -> None:
    found, counts = frame(b"$GPRMC,120000,V" + checksum + b"\r\n" + A, 1000)
    assert found == [BODY_A]
    assert counts == {"no-checksum": 1}


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("binary", [UBX, SIRF, CASIC, b"\xd3\x00\x13\x3e\xd0\x00" + bytes(30)])
def test_binary_frames_between_sentences_break_nothing(binary: bytes, size: int) -> None:
    found, counts = frame(binary + A + binary + binary + B + binary, size)
    assert found == [BODY_A, BODY_B]
    assert counts["garbage-bytes"] > 0


@pytest.mark.parametrize("size", [1, 1000])
def test_a_sentence_may_have_130_characters_and_no_more(size: int) -> None:
    longest = line("GPTXT,01,01,02," + "x" * (MAX_SENTENCE - len("$GPTXT,01,01,02,*00")))
    assert len(longest.rstrip()) == 130
    assert frame(longest + A, size)[0] == [longest[1:-5].decode(), BODY_A]
    too_long = line(longest[1:-5].decode() + "x")
    found, counts = frame(too_long + A, size)
    assert found == [BODY_A]
    assert counts == {"too-long": 1}


def test_the_tail_is_bounded_on_a_line_that_never_ends() -> None:
    framer = Framer()
    for _ in range(100):
        assert framer.feed(b"$GPTXT," + b"x" * 10_000) == []
        assert len(framer.tail) <= MAX_SENTENCE + 1
    assert [*framer.feed(b"\r\n" + A)] == [BODY_A]
    assert framer.rejected == {"too-long": 100}


@given(
    st.lists(
        st.sampled_from([A, B, UBX, b"$", b"!", b"*", b"\n", b"*4", b"\xb5", A[:30], b"x" * 140])
    ),
    st.data(),
)
def test_the_cut_into_chunks_never_matters(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    framer = Framer()
    sentences = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        sentences += framer.feed(stream[start:end])
    sentences += framer.finish()
    assert (sentences, framer.rejected) == frame(stream, len(stream) + 1)


@given(st.binary(max_size=400))
def test_any_bytes_are_survived_and_the_next_sentence_is_found(junk: bytes) -> None:
    assert frame(junk + b"\n" + A, 1000)[0][-1] == BODY_A


@pytest.mark.parametrize("unit", [A, b"$", b"$GPRMC,", b"x" * 80, b"\xb5\x62", b"$*", b"!"])
def test_time_is_linear_however_the_bytes_are_cut(unit: bytes) -> None:
    def taken(size: int, chunk: int) -> float:
        data = unit * (size // len(unit))
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            frame(data, chunk)
            best = min(best, time.process_time() - start)
        return best

    assert taken(80_000, 80_000) < 40 * taken(10_000, 10_000) + 0.02
    assert taken(8_000, 1) < 40 * taken(1_000, 1) + 0.02
