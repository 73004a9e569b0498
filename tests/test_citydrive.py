"""The demo's drive, as the agent's own decoder hears it."""

from itertools import pairwise

from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.geodesy import distance_m, place_of
from telemetry_agent.lab.city_drive import CityDrive
from telemetry_agent.model import Fix

START_MS = 1_795_435_200_000
ROUND = 268  # epochs


def heard(drive: CityDrive, epochs: int) -> tuple[list[Fix], Decoder]:
    decoder = Decoder(wall_clock=lambda: None, fix_rollover=False)
    fixes = [fix for i in range(epochs) for fix in decoder.feed(drive.epoch(i), float(i))]
    return fixes + decoder.tick(epochs + 60.0), decoder


def test_each_epoch_is_a_position_but_those_in_the_tunnel() -> None:
    drive = CityDrive(START_MS)
    fixes, _ = heard(drive, ROUND)
    expected = [START_MS + 1000 * i for i in range(ROUND) if drive.has_fix(i)]
    assert [fix.time_ms for fix in fixes] == expected
    longest_ms = max(after - before for before, after in pairwise(expected))
    assert 60_000 < longest_ms < 75_000  # so long that the track breaks
    assert all(fix.err_h_mm and fix.hdop_e2 and fix.mode == 3 for fix in fixes)


def test_it_moves_as_fast_as_it_says_and_stops_once() -> None:
    fixes, _ = heard(CityDrive(START_MS), 150)
    for before, after in pairwise(fixes):
        moved = distance_m(place_of(before), place_of(after))
        between = sorted([before.speed_mm_s or 0, after.speed_mm_s or 0])
        assert between[0] / 1000 - 2 < moved < between[1] / 1000 + 2
        assert moved < 14
    standing = [fix.time_ms for fix in fixes if not fix.speed_mm_s]
    assert 20 <= len(standing) <= 30
    assert standing[-1] - standing[0] == 1000 * (len(standing) - 1)


def test_four_systems_are_in_the_sky() -> None:
    _, decoder = heard(CityDrive(START_MS), 10)
    satellites = decoder.sky().satellites
    assert {one.system for one in satellites} == {"GPS", "GLONASS", "Galileo", "BeiDou"}
    assert 15 < sum(one.used for one in satellites) < len(satellites)
    _, decoder = heard(CityDrive(START_MS), 170)
    assert not any(one.used or one.snr_db for one in decoder.sky().satellites)


def test_every_sentence_is_short_enough() -> None:
    drive = CityDrive(START_MS, interval_ms=200)
    lines = [line for i in range(0, 5 * ROUND, 7) for line in drive.epoch(i).splitlines()]
    assert max(map(len, lines)) <= 80
