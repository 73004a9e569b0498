"""Two receivers with the same talker, and one receiver that looks like two."""

from collections.abc import Callable

import pytest
from nmea import line

from telemetry_agent.gnss.decoder import Decoder


def _at(lat: float, time: str, *, status: str = "A") -> bytes:
    return line(f"GPRMC,{time},{status},48{lat:06.3f},N,01131.000,E,022.4,084.4,231126,,,A")


def _half_a_second_apart(n: int) -> bytes:
    return _at(7 + n / 50, f"1200{n:02}.00") + _at(8 + n / 50, f"1200{n:02}.50")


def _of_distant_times(n: int) -> bytes:
    return _at(7, f"0100{n:02}") + _at(8, f"1500{n:02}")


def _one_without_a_fix(n: int) -> bytes:
    return _at(7, f"1200{n:02}") + line("GPRMC,,V,,,,,,,,,,N")


def _one_without_a_fix_at_the_same_time(n: int) -> bytes:
    return _at(7, f"1200{n:02}") + _at(7, f"1200{n:02}", status="V")


def _far_apart(n: int) -> bytes:
    return _at(7 + n / 1000, f"1200{n:02}") + _at(7.1 + n / 1000, f"1200{n:02}")


def _of_two_systems(n: int) -> bytes:
    other = _at(8, f"1200{n:02}.20").decode()[3:].partition("*")[0]
    return _at(7, f"1200{n:02}") + line(f"GN{other}")


def test_two_receivers_whose_sentences_of_one_time_come_apart_are_noticed() -> None:
    decoder = Decoder(fix_rollover=True)
    for n in range(15):
        decoder.feed(_at(7, f"1200{n:02}"), float(n))
        decoder.tick(n + 0.3)
        decoder.feed(_at(8, f"1200{n:02}"), n + 0.5)
    (notice,) = decoder.notices
    assert "two receivers seem to share the line" in notice


@pytest.mark.parametrize(
    "second_of",
    [
        _of_two_systems,
        _half_a_second_apart,
        _of_distant_times,
        _one_without_a_fix,
        _one_without_a_fix_at_the_same_time,
        _far_apart,
    ],
)
def test_two_receivers_that_speak_as_one_talker_are_noticed(
    second_of: Callable[[int], bytes],
) -> None:
    decoder = Decoder(fix_rollover=False, eager=False)
    fixes = decoder.feed(b"".join(map(second_of, range(2))), 0.0)
    assert not any(decoder.notices)
    fixes += decoder.feed(b"".join(map(second_of, range(2, 15))), 0.0)
    (notice,) = decoder.notices
    assert "two receivers seem to share the line" in notice
    assert len(fixes) > 10


def _steps_of_10_s(n: int) -> bytes:
    time = f"12{n // 60:02}{n // 10 * 10 % 60:02}"
    return _at(7 + n / 50, time)


def _of_two_systems_at_once(n: int) -> bytes:
    other = _at(7, f"1200{n % 60:02}").decode()[3:].partition("*")[0]
    return _at(7, f"1200{n % 60:02}") + line(f"GN{other}") * (n % 3 == 0)


def _flickering(n: int) -> bytes:
    return _at(7, f"12{n // 60:02}{n % 60:02}", status="A" if n % 7 else "V")


def _over_midnight(n: int) -> bytes:
    return _at(7, f"{(23 * 60 + 55 + n) // 60 % 24:02}{(55 + n) % 60:02}00")


def _clock_that_is_set(n: int) -> bytes:
    # The clock was wrong before the receiver had satellites, and once more after a tunnel.
    hour = 1 if n < 50 or n == 100 else 15
    return _at(7, f"{hour:02}{n // 60:02}{n % 60:02}")


def _repeated(n: int) -> bytes:
    return _at(7 + n / 50, f"12{n // 60:02}{n % 60:02}") * 2


def _each_second_another_sentence(n: int) -> bytes:
    place = f"48{7 + n / 50:06.3f},N,01131.000,E"
    time = f"12{n // 60:02}{n % 60:02}"
    return (
        line(f"GPRMC,{time},A,{place},022.4,084.4,231126,,"),
        line(f"GPGGA,{time},{place},1,05,2.1,14.7,M,1.1,M,,") + line("GPGSA,A,3" + "," * 15),
        line(f"GPGLL,{place},{time},A"),
    )[n % 3]


def _rmc_one_instant_behind(n: int) -> bytes:
    time, before = (f"12{m // 60:02}{m % 60:02}" for m in (n + 1, n))
    gga = f"GPGGA,{time},48{7 + n / 50:06.3f},N,01131.000,E,1,08,2.1,14.7,M,1.1,M,,"
    return line(gga) + line("GPGSA,A,3" + "," * 15) + _at(7 + (n - 1) / 50, before)


@pytest.mark.parametrize(
    "second_of",
    [
        _rmc_one_instant_behind,
        _each_second_another_sentence,
        _of_two_systems_at_once,
        _steps_of_10_s,
        _flickering,
        _over_midnight,
        _clock_that_is_set,
        _repeated,
    ],
)
def test_one_receiver_is_not_taken_for_two(second_of: Callable[[int], bytes]) -> None:
    decoder = Decoder(fix_rollover=False, eager=False)
    decoder.feed(b"".join(map(second_of, range(200))), 0.0)
    assert decoder.notices == ()
