"""What a real agent records over restarts."""

import contextlib
import json
import signal
import socket
from functools import reduce
from operator import xor
from pathlib import Path

from processes import run_agent
from rig import START_MS, simulated, started, stats, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.fields import fix_fields
from telemetry_agent.gnss.sources.protocols import nmea_sentence
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.model import Fix


def recorded(folder: Path, drive: Drive, epochs: range, **sampling: object) -> list[Fix]:
    recording = folder / "drive.nmea"
    recording.write_bytes(b"".join(map(drive.epoch, epochs)))
    config = write_config(
        folder,
        f"file://{recording}",
        "http://127.0.0.1:9/",
        sampling={"interval": "1s", **sampling},
    )
    with started(config) as agent:
        agent.wait_for_line(f"replayed {len(epochs):,} fixes")
        assert agent.end() == 0
    with AckQueue(folder / "queue.db") as queue:
        return [stored.record.fix for stored in queue.stored()]


def test_a_drive_is_sampled_and_its_metres_go_on_after_a_restart(tmp_path: Path) -> None:
    drive = Drive(START_MS, interval_ms=200)
    whole = recorded(tmp_path, drive, range(1500))
    assert 290 <= len(whole) <= 310
    halves = tmp_path / "halves"
    halves.mkdir()
    recorded(halves, drive, range(750))
    joined = recorded(halves, drive, range(750, 1500))
    assert 290 <= len(joined) <= 310
    odo = [fix.odo_m or 0 for fix in joined]
    assert odo == sorted(odo)
    assert odo[-1] > 1500
    assert abs(odo[-1] - (whole[-1].odo_m or 0)) < 30


def test_a_recording_at_full_speed_waits_for_the_disk(tmp_path: Path) -> None:
    count = 110_000  # more than memory holds
    recording = tmp_path / "drive.nmea"
    with recording.open("wb") as file:
        file.writelines(rmc(second) for second in range(count))
    config = write_config(
        tmp_path, f"file://{recording}", "http://127.0.0.1:9/", queue={"commit_every": "1h"}
    )
    with started(config) as agent:
        agent.wait_for_line(f"replayed {count:,} fixes", limit_s=200)
        assert agent.end() == 0
    assert (stats(tmp_path).ready, stats(tmp_path).lost) == (count, {})


def test_a_recording_gives_the_fixes_of_decode(tmp_path: Path) -> None:
    """Each VTG belongs to the RMC after it; only the first sentence shows this."""
    recording = tmp_path / "drive.nmea"
    sentences = (
        text
        for second in range(9)
        for text in (
            f"GPVTG,84.4,T,,M,1{second}.0,N,,K,A",
            f"GPRMC,12350{second},A,4807.038,N,01131.000,E,,,231126,,,A",
        )
    )
    recording.write_text("".join(nmea_sentence(text).decode() for text in sentences))
    config = write_config(
        tmp_path, f"file://{recording}", "http://127.0.0.1:9/", sampling={"interval": "0s"}
    )
    with started(config) as agent:
        agent.wait_for_line("replayed 9 fixes")
        assert agent.end() == 0
    with AckQueue(tmp_path / "queue.db") as queue:
        replayed = [fix_fields(stored.record.fix) for stored in queue.stored()]
    decoded = run_agent("decode", str(recording)).stdout.splitlines()
    assert replayed == [json.loads(line) for line in decoded]
    assert [fix["speed"] for fix in replayed[:2]] == [5.144, 5.659]


def rmc(second: int) -> bytes:
    day, time = divmod(second, 86400)
    hour, minute = divmod(time // 60, 60)
    text = (
        f"GPRMC,{hour:02}{minute:02}{time % 60:02}.00,A,4807.038,N,01131.000,E,"
        f"022.4,084.4,{23 + day:02}1126,,,A"
    )
    return b"$%s*%02X\r\n" % (text.encode(), reduce(xor, text.encode()))


def test_the_interval_of_the_config_is_taken(tmp_path: Path) -> None:
    fixes = recorded(tmp_path, Drive(START_MS), range(100), interval="10s")
    assert len(fixes) == 10


def wait_for_quiet(manager: socket.socket, seconds: float) -> None:
    """Read until nothing comes for ``seconds``."""
    manager.settimeout(seconds)
    with contextlib.suppress(TimeoutError):
        while manager.recv(4096):
            pass


def test_stopped_for_longer_than_its_watchdog_allows_and_continued_it_goes_on(
    tmp_path: Path,
) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with (
        endpoint,
        simulated(tmp_path) as simulator,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        watched = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"}
        with started(config, watched) as agent:
            for _ in range(3):
                manager.settimeout(60)
                while manager.recv(4096) != b"WATCHDOG=1":
                    pass
                wait_for_quiet(manager, 0.1)  # the main thread waits again by now
                agent.send(signal.SIGSTOP)
                wait_for_quiet(manager, 4.0)  # longer than the watchdog's interval
                agent.send(signal.SIGCONT)
                manager.settimeout(60)
                assert manager.recv(4096) == b"WATCHDOG=1"
            assert endpoint.wait_for(endpoint.count() + 40, 60), agent.text()
            assert agent.end() == 0
        for word in ("stuck", "reloaded"):
            assert word not in agent.text()
