"""The drive of the demo, read by the decoder of the agent."""

from itertools import islice, pairwise

import pynmea2

from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.geodesy import distance_m, place_of
from telemetry_agent.lab.drive import Drive
from telemetry_agent.model import Fix

START_MS = 1_795_435_200_000
NEW_YEAR_MS = 1_798_761_600_000  # 2027-01-01T00:00:00Z
ROUND = 264  # epochs


def sentences(epoch: bytes) -> dict[str, pynmea2.NMEASentence]:
    parsed = [pynmea2.parse(line, check=True) for line in epoch.decode().splitlines()]
    return {sentence.sentence_type: sentence for sentence in parsed}


def heard(drive: Drive, epochs: int) -> tuple[list[Fix], Decoder]:
    decoder = Decoder(wall_clock=lambda: None, fix_rollover=False)
    fixes = [fix for i in range(epochs) for fix in decoder.feed(drive.epoch(i), float(i))]
    return fixes + decoder.tick(epochs + 60.0), decoder


def test_each_epoch_is_a_position_but_those_in_the_tunnel() -> None:
    drive = Drive(START_MS, tunnel=True)
    fixes, _ = heard(drive, ROUND)
    expected = [START_MS + 1000 * i for i in range(ROUND) if drive.has_fix(i)]
    assert [fix.time_ms for fix in fixes] == expected
    longest_ms = max(after - before for before, after in pairwise(expected))
    assert 60_000 < longest_ms < 75_000  # long enough to split the track
    assert all(fix.err_h_mm and fix.hdop_e2 and fix.mode == 3 for fix in fixes)


def test_it_moves_as_fast_as_it_says_and_stops_once() -> None:
    fixes, _ = heard(Drive(START_MS, tunnel=True), 150)
    for before, after in pairwise(fixes):
        moved = distance_m(place_of(before), place_of(after))
        between = sorted([before.speed_mm_s or 0, after.speed_mm_s or 0])
        assert between[0] / 1000 - 2 < moved < between[1] / 1000 + 2
        assert moved < 14
    standing = [fix.time_ms for fix in fixes if not fix.speed_mm_s]
    assert 20 <= len(standing) <= 30
    assert standing[-1] - standing[0] == 1000 * (len(standing) - 1)


def test_four_systems_are_in_the_sky() -> None:
    _, decoder = heard(Drive(START_MS, tunnel=True), 10)
    satellites = decoder.satellites()
    assert {one.system for one in satellites} == {"GPS", "GLONASS", "Galileo", "BeiDou"}
    assert 15 < sum(one.used for one in satellites) < len(satellites)
    _, decoder = heard(Drive(START_MS, tunnel=True), 170)
    hidden = decoder.satellites()
    assert len(hidden) > 15
    assert not any(one.used or one.snr_db for one in hidden)


def test_every_sentence_is_short_enough() -> None:
    drive = Drive(START_MS, interval_ms=200)
    lines = [line for i in range(0, 5 * ROUND, 7) for line in drive.epoch(i).splitlines()]
    assert max(map(len, lines)) <= 80


def test_the_drive_is_the_same_each_time() -> None:
    assert list(islice(Drive(NEW_YEAR_MS), 50)) == list(islice(Drive(NEW_YEAR_MS), 50))


def test_an_epoch_holds_what_a_receiver_says() -> None:
    lines = Drive(NEW_YEAR_MS - 1000, interval_ms=100).epoch(3).decode().splitlines(keepends=True)
    kinds = [pynmea2.parse(line, check=True).sentence_type for line in lines]
    assert kinds == ["RMC", "VTG", "GGA", *["GSA"] * 4, "GST", *["GSV"] * 9]
    assert all(line.endswith("\r\n") and len(line) <= 82 for line in lines)
    epoch = sentences("".join(lines).encode())
    rmc, gga, gsa = epoch["RMC"], epoch["GGA"], epoch["GSA"]
    assert (rmc.data[0], rmc.data[8], rmc.data[1]) == ("235959.300", "311226", "A")
    assert gga.data[:5] == ["235959.300", *rmc.data[2:6]]
    assert (len(gsa.data), gsa.data[1]) == (18, "3")
    used = sum(1 for line in lines if "GSA" in line for prn in line.split(",")[3:15] if prn)
    assert int(gga.data[6]) == used > 3


def test_midnight_and_new_year_pass() -> None:
    drive = Drive(NEW_YEAR_MS - 1000)
    said = [sentences(drive.epoch(i))["RMC"].data for i in range(2)]
    assert [(rmc[0], rmc[8]) for rmc in said] == [
        ("235959.000", "311226"),
        ("000000.000", "010127"),
    ]
