"""A month of history with bounded memory and disk space, across restarts and damage."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry_agent.model import Satellite
from telemetry_agent.page import history
from telemetry_agent.page.history import COLUMNS, History, SampleMaker, read
from telemetry_agent.snapshot import ReceiverView, Snapshot, UploadView

START_S = 1_795_435_200


def lived(kept: History, seconds: int, start_s: int = START_S, step_s: int = 5) -> History:
    for second in range(0, seconds, step_s):
        kept.add(start_s + second, {"pending": second // 60, "speed": 10.0})
        if kept.is_due:
            kept.save()
    return kept


def column(samples: list[history.Sample], name: str) -> list[float]:
    return [sample.values[COLUMNS.index(name)] for sample in samples]


def test_an_hour_is_seen_closely_and_a_month_far_back() -> None:
    kept = lived(History(None), 86_400)
    hour = kept.last(3600, START_S + 86_400)
    assert len(hour) == 720
    assert {sample.step_s for sample in hour} == {5}
    day = kept.last(86_400, START_S + 86_400)
    assert 1435 <= len(day) <= 1440
    assert column(day, "pending")[100] == 100
    month = kept.last(30 * 86_400, START_S + 86_400)
    assert 142 <= len(month) <= 144
    assert math.isnan(column(month, "hdop")[0])


def test_it_survives_a_restart_and_never_grows_beyond_a_megabyte(tmp_path: Path) -> None:
    file = tmp_path / "queue.history"
    written = 0
    kept = History(file)
    for day in range(12):
        before = file.stat().st_size if file.exists() else 0
        lived(kept, 86_400, START_S + day * 86_400, step_s=20)
        kept.save()
        written = max(written, file.stat().st_size - before)
        assert file.stat().st_size < 600_000
        kept = History(file)  # one restart per day
    month = kept.last(30 * 86_400, START_S + 12 * 86_400)
    assert month[0].time_s == START_S
    assert len(month) == pytest.approx(12 * 144, abs=15)
    assert set(column(month, "speed")) == {10.0}
    # 96 appends a day, each about 12 kB on a card, and one complete rewrite of the file.
    assert written + 96 * 12_288 < 5_000_000
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Path]:
    """A separate file system with a journal that nothing else uses."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    image, point = tmp_path / "image", tmp_path / "card"
    image.touch()
    os.truncate(image, 64 << 20)
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", image], check=True)
    subprocess.run(["mount", "-o", "loop,noatime", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


def written_bytes(card: Path) -> int:
    """Bytes written to the device of the file system since the device exists."""
    device = card.stat().st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return 512 * int(stat.read_text().split()[6])


def test_a_day_costs_a_card_at_most_five_megabytes(card: Path) -> None:
    """Everything written to the device: data, journal and inodes. Each append is flushed alone."""
    kept = History(card / "queue.history")
    lived(kept, 86_400)  # creates the file
    days = []
    for day in range(1, 4):
        os.sync()
        before = written_bytes(card)
        for second in range(0, 86_400, 20):
            kept.add(START_S + day * 86_400 + second, {"pending": 1, "speed": 10.0})
            if kept.is_due:
                kept.save()
                os.sync()
        days.append(written_bytes(card) - before)
    sys.stdout.write(f"{max(days) / 1e6:.1f} MB a day\n")
    assert max(days) <= 5_000_000


@pytest.mark.parametrize("damage", ["head", "middle", "cut", "empty", "folder"])
def test_a_damaged_file_is_given_up_from_the_damage_on(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "queue.history"
    lived(History(file), 7200).save()
    data = bytearray(file.read_bytes())
    whole = len(read(file))
    if damage == "head":
        data[3] ^= 1
    elif damage == "middle":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        del data[-7:]
    elif damage == "empty":
        data.clear()
    file.write_bytes(data)
    if damage == "folder":
        file.unlink()
        file.mkdir()
    left = {"head": 0, "middle": whole // 2, "cut": whole - 1, "empty": 0, "folder": 0}[damage]
    assert len(read(file)) == pytest.approx(left, abs=1)
    if damage == "folder":
        return
    kept = lived(History(file), 7200, START_S + 7200)
    kept.save()
    assert len(read(file)) >= left + 115  # the file is valid again


def test_a_disk_that_refuses_for_days_costs_no_more_memory_than_a_day(tmp_path: Path) -> None:
    file = tmp_path / "not mounted yet" / "queue.history"
    kept = lived(History(file), 3 * 86_400, step_s=20)
    assert len(kept._unsaved) == 1440
    file.parent.mkdir()
    kept.save()
    assert len(read(file)) >= 1440


def test_a_clock_that_was_set_back_takes_its_future_with_it() -> None:
    kept = lived(History(None), 3600, START_S + 10 * 86_400)
    lived(kept, 600)
    found = [sample.time_s for sample in kept.last(3600, START_S + 600)]
    assert (found[0], found[-1]) == (START_S, START_S + 595)


def test_no_mean_comes_twice_after_a_clock_was_set_back(tmp_path: Path) -> None:
    kept = lived(History(tmp_path / "history"), 1300)
    lived(kept, 3600, START_S + 1190)  # within a minute and within ten minutes
    kept.save()
    for known in (kept, History(tmp_path / "history")):
        for records in known._series.values():
            times = list(map(history._time_s, records))
            assert times == sorted(set(times))


def test_a_clock_that_is_behind_until_the_first_fix_drops_nothing(tmp_path: Path) -> None:
    lived(History(tmp_path / "history"), 7200).save()
    now_s = START_S + 9000
    before = History(tmp_path / "history").last(86_400, now_s)
    after = History(tmp_path / "history")
    for second in range(0, 60, 5):  # a system clock in 1970
        after.add(second, {"sats": 0}, sure=False)
    after.add(now_s, {"sats": 8})
    found = [one.time_s for one in after.last(86_400, now_s)]
    assert len(before) > 100
    assert found[: len(before)] == [one.time_s for one in before]
    assert after.last(3600, now_s)[-1].time_s == now_s
    assert found == sorted(found)


def test_a_steady_stream_in_batches_is_a_steady_rate() -> None:
    meter = SampleMaker()
    rates = []
    for second in range(0, 600, 5):
        delivered = second // 10 * 10  # ten every 10 s
        state = Snapshot(
            receiver=ReceiverView(
                state="3d",
                satellites=(Satellite(snr_db=40), Satellite(snr_db=30), Satellite()),
            ),
            upload=UploadView(delivered=delivered, sent_bytes=100 * delivered),
        )
        values = meter.values(state, {"speed": 3.0}, second)
        rates.append(values["delivered_per_min"])
        assert values["signal"] == 35
    assert all(rate == pytest.approx(60, abs=6) for rate in rates[12:])
