"""Storage that forgets or refuses: recording and delivery go on, and the agent reports it."""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import polling
import pytest
from ackqueue import damage
from misbehaving import Server
from peers import program
from processes import agent, run_agent
from rig import record_backlog, simulated, started, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.lab.endpoint import Endpoint

wait_until = partial(polling.wait_until, limit_s=120)


SHUT_DOWN = 0x8004_587D  # EXT4_IOC_SHUTDOWN


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system that turns read-only at the first error."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    image, point = tmp_path / "image", tmp_path / "state"
    image.touch()
    os.truncate(image, 32 << 20)
    point.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)  # nothing reserved for root
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


def fail(disk: Path) -> None:
    (device,) = [
        line.split()[0]
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[1] == str(disk)
    ]
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")
    with pytest.raises(OSError, match="Read-only"):
        (disk / "probe").touch()


def service(tmp_path: Path, disk: Path, url: str, source: str) -> tuple[Path, dict[str, str]]:
    runtime = tmp_path / "run"
    runtime.mkdir()
    queue = {"path": str(disk / "queue.db"), "min_free": "0MiB"}
    config = write_config(tmp_path, source, url, queue=queue)
    return config, {"RUNTIME_DIRECTORY": str(runtime), "STATE_DIRECTORY": str(disk)}


def status(config: Path, env: dict[str, str]) -> dict[str, object]:
    told = run_agent("status", "--json", "--config", str(config), env=env)
    return dict(json.loads(told.stdout))


def complete(server: Server) -> bool:
    """Return whether each named fix has arrived."""
    streams: dict[str, set[int]] = {}
    for stream, seq in list(server.ledger):
        streams.setdefault(stream, set()).add(seq)
    return all(seqs == set(range(1, max(seqs) + 1)) for seqs in streams.values())


def test_a_disk_that_turns_read_only_while_running_loses_nothing(
    tmp_path: Path, disk: Path
) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator, Server() as server:
        config, env = service(tmp_path, disk, server.url, str(simulator.device))
        with agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("telemetry-agent .* records ")
            wait_until(lambda: len(server.ledger) > 20)
            fail(disk)
            daemon.wait_for_line("read-only file system; recording into .*/run, at most 16 MiB", 60)
            seen = len(server.ledger)
            wait_until(lambda: len(server.ledger) > seen + 30)
            assert status(config, env)["storage"]["state"] == "runtime"  # type: ignore[index]
            text = run_agent("status", "--config", str(config), env=env).stdout
            assert "a power cut loses everything" in text
            simulator.hush()
            wait_until(lambda: complete(server) and pending(config, env) == 0)
            assert daemon.end() == 0
            assert "Traceback" not in "\n".join(daemon.err)
    assert max(server.ledger.values()) <= 2  # an answer may have been lost with the acknowledgement


def pending(config: Path, env: dict[str, str]) -> int:
    told = status(config, env)
    return int(told["queue"]["pending"])  # type: ignore[index]


def test_a_disk_that_is_read_only_at_the_start_is_gone_back_to(tmp_path: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with simulated(tmp_path, rate_hz=10) as simulator:
        config, env = service(tmp_path, disk, "http://127.0.0.1:9/", str(simulator.device))
        with agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("read-only file system; recording into ")
            wait_until(lambda: pending(config, env) > 10)
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            daemon.wait_for_line(f"records van-07 from .* into {disk}", 60)
            wait_until(lambda: "storage" not in status(config, env))
            wait_until(lambda: pending(config, env) > 10)
            assert daemon.end() == 0
        with Server() as server, agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("also delivering .* in .*/run/queue.db")
            text = config.read_text().replace("http://127.0.0.1:9/", server.url)
            config.write_text(text)
            daemon.send(signal.SIGHUP)  # a reload applies to these too
            wait_until(lambda: len({stream for stream, _ in list(server.ledger)}) == 3)
            simulator.hush()
            wait_until(lambda: complete(server) and pending(config, env) == 0)
            assert daemon.end() == 0
    assert max(server.ledger.values()) == 1


def test_drain_sends_what_an_earlier_agent_left_elsewhere(tmp_path: Path) -> None:
    records = damage.fill(tmp_path / "queue.db.foreign-1", 30)
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with agent("run", "--config", str(config)) as daemon:
        daemon.wait_for_line("also delivering 30 fixes in ")
        drained = run_agent("drain", "--config", str(config))
        assert drained.returncode == 69, drained.stdout
        assert "30 fixes wait: connection refused" in drained.stderr
        with Server() as server:
            config.write_text(config.read_text().replace("http://127.0.0.1:9/", server.url))
            daemon.send(signal.SIGHUP)
            daemon.wait_for_line("reloaded: ")
            drained = run_agent("drain", "--config", str(config))
            assert (drained.returncode, drained.stderr) == (0, "")
            assert set(server.ledger) == {(one.stream, one.seq) for one in records}


def test_a_disk_with_a_backlog_that_is_mounted_late_is_recorded_to_and_delivered(
    tmp_path: Path, disk: Path
) -> None:
    """A USB disk with ``nofail``: the agent starts before the disk is mounted."""
    record_backlog(disk, 30)
    left = {file.name for file in disk.iterdir()}
    subprocess.run(["umount", disk], check=True)
    with simulated(tmp_path, rate_hz=10) as simulator, Server() as server:
        config, env = service(tmp_path, disk, "http://127.0.0.1:9/", str(simulator.device))
        with agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("telemetry-agent .* records ")
            wait_until(lambda: pending(config, env) > 10)
            subprocess.run(["mount", "-o", "loop", tmp_path / "image", disk], check=True)
            daemon.wait_for_line("another disk was mounted over ")
            wait_until(lambda: pending(config, env) > 40)  # on the disk, with the earlier fixes
            config.write_text(config.read_text().replace("http://127.0.0.1:9/", server.url))
            daemon.send(signal.SIGHUP)
            wait_until(lambda: len({stream for stream, _ in list(server.ledger)}) == 3)
            simulator.hush()
            wait_until(lambda: complete(server) and pending(config, env) == 0)
            assert daemon.end() == 0
            said = "\n".join(daemon.err)
            assert "Traceback" not in said
            assert "was deleted, moved or replaced" not in said
    names = {file.name for file in disk.iterdir()} - left
    assert not [name for name in names if "damaged" in name or "foreign" in name]
    assert max(server.ledger.values()) == 1
    with AckQueue(disk / "queue.db") as queue:
        assert (queue.stats().ready, queue.stats().lost) == (0, {})
        on_disk = queue.stats().acked
    subprocess.run(["umount", disk], check=True)
    with AckQueue(disk / "queue.db") as queue:
        assert (queue.stats().ready, queue.stats().lost) == (0, {})
        assert on_disk + queue.stats().acked == len(server.ledger)
    subprocess.run(["mount", "-o", "loop", tmp_path / "image", disk], check=True)


def test_a_disk_that_is_unmounted_from_a_folder_that_cannot_be_used_is_reported(
    tmp_path: Path, disk: Path
) -> None:
    subprocess.run(["umount", disk], check=True)
    disk.chmod(0o555)
    beneath = tmp_path / "beneath"
    beneath.mkdir()
    subprocess.run(["mount", "--bind", "-o", "ro", beneath, disk], check=True)
    mounting = ["mount", "-o", "loop", str(tmp_path / "image"), str(disk)]
    subprocess.run(mounting, check=True)
    try:
        with simulated(tmp_path, rate_hz=10) as simulator:
            config, env = service(tmp_path, disk, "http://127.0.0.1:9/", str(simulator.device))
            with agent("run", "--config", str(config), env=env) as daemon:
                daemon.wait_for_line("telemetry-agent .* records ")
                subprocess.run(["umount", "--lazy", disk], check=True)
                daemon.wait_for_line(
                    "the disk of .* was unmounted or covered, and is still written"
                )
                assert status(config, env)["storage"]["state"] == "covered"  # type: ignore[index]
                text = run_agent("status", "--config", str(config), env=env).stdout
                assert "mount it there again" in text
                subprocess.run(mounting, check=True)
                wait_until(lambda: "storage" not in status(config, env))
                assert daemon.end() == 0
                named = pending(config, env)
            assert named > 0
            with AckQueue(disk / "queue.db") as queue:
                assert queue.stats().lost == {}
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_that_is_taken_away_and_put_back_is_used_again(tmp_path: Path, disk: Path) -> None:
    with Server() as server, simulated(tmp_path, rate_hz=10) as simulator:
        config, env = service(tmp_path, disk, server.url, str(simulator.device))
        with started(config, env) as daemon:
            server.wait_for(lambda s: len(s.ledger) > 10)
            folder = os.open(disk, os.O_RDONLY)
            fcntl.ioctl(folder, SHUT_DOWN, struct.pack("I", 2))  # every access is an I/O error now
            os.close(folder)
            subprocess.run(["umount", "--lazy", disk], check=True)
            again = shutil.copy(tmp_path / "image", tmp_path / "again")  # as another device
            subprocess.run(["mount", "-o", "loop", again, disk], check=True)
            daemon.wait_for_line("records van-07 from .*taken along")
            arrived = len(server.ledger)
            server.wait_for(lambda s: len(s.ledger) > arrived + 10)
            simulator.hush()
            wait_until(lambda: complete(server) and pending(config, env) == 0)
            assert daemon.end() == 0
        assert "Traceback" not in daemon.text()


def test_a_queue_file_whose_inode_is_damaged_keeps_no_agent_from_recording(
    tmp_path: Path, disk: Path
) -> None:
    AckQueue(disk / "queue.db").close()
    image = tmp_path / "image"
    subprocess.run(["umount", disk], check=True)
    damage = [program("debugfs"), "-w", "-R", "set_inode_field queue.db checksum 0x1234"]
    subprocess.run([*damage, str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop,errors=continue", image, disk], check=True)
    with simulated(tmp_path, rate_hz=10) as simulator:
        config, env = service(tmp_path, disk, "http://127.0.0.1:9/", str(simulator.device))
        with agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("(?i)bad message; recording into .*/run, at most 16 MiB")
            wait_until(lambda: pending(config, env) > 10)


def folder(place: Path) -> None:
    place.mkdir()


def link(place: Path) -> None:
    place.symlink_to(place.parent.parent / "precious")


_MAKERS: list[Callable[[Path], None]] = [folder, os.mkfifo, link]
_BESIDE = ("-wal", ".lock", "-shm", "-journal")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *itertools.product(["queue.db"], _MAKERS[:2]),
        *itertools.product([f"queue.db{end}" for end in _BESIDE], _MAKERS),
    ],
)
def test_what_lies_in_the_place_of_a_file_of_the_queue_stops_nothing(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    precious, state = tmp_path / "precious", tmp_path / "state"
    precious.write_text("of another program")
    state.mkdir()
    make(state / name)
    with simulated(tmp_path, rate_hz=10) as simulator:
        config, env = service(tmp_path, state, "http://127.0.0.1:9/", str(simulator.device))
        with agent("run", "--config", str(config)) as daemon:
            assert daemon.wait() == 74
        assert f"{name}: not a regular file: move it away" in "\n".join(daemon.err)
        with agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("not a regular file; recording into ")
            wait_until(lambda: pending(config, env) > 10)
            if (state / name).is_dir():
                (state / name).rmdir()
            else:
                (state / name).unlink()
            daemon.wait_for_line(f"records van-07 from .* into {state}", 60)
            assert daemon.end() == 0
    assert precious.read_text() == "of another program"


def test_a_state_directory_that_leads_nowhere_is_left_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.symlink_to(state)
    with simulated(tmp_path, rate_hz=10) as simulator:
        config, env = service(tmp_path, state, "http://127.0.0.1:9/", str(simulator.device))
        with agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("recording into .*/run, at most")
            wait_until(lambda: pending(config, env) > 10)
            assert daemon.end() == 0
    assert "taken along" not in "\n".join(daemon.err)  # no move between directories


def test_a_state_directory_that_is_deleted_is_left_with_all_fixes(tmp_path: Path) -> None:
    state = tmp_path / "parent" / "state"
    state.mkdir(parents=True)
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint, simulated(tmp_path, rate_hz=10) as simulator:
        config, env = service(tmp_path, state, endpoint.url, str(simulator.device))
        endpoint.disconnect()
        with agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("telemetry-agent .* records ")
            wait_until(lambda: pending(config, env) > 10)
            state.parent.rename(gone := tmp_path / "gone")  # so the agent cannot write into it
            state.parent.touch()  # it cannot be created again
            shutil.rmtree(gone)
            daemon.wait_for_line("recording into .*/run, at most")
            simulator.hush()
            endpoint.reconnect()
            assert endpoint.wait_for(simulator.sent, 60), daemon.text()
            assert daemon.end() == 0


def test_a_full_disk_stops_nothing_whether_the_queue_is_there_or_not(
    tmp_path: Path, disk: Path
) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator:
        config, env = service(tmp_path, disk, "http://127.0.0.1:9/", str(simulator.device))
        with agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("telemetry-agent .* records ")
            wait_until(lambda: pending(config, env) > 10)
            daemon.send(signal.SIGKILL)  # its write-ahead log stays
        (disk / "queue.db.ballast").unlink(missing_ok=True)
        (disk / "queue.db-shm").unlink()
        fill(disk)
        for left in (sorted(disk.glob("queue.db*")), []):
            with agent("run", "--config", str(config), env=env) as daemon:
                daemon.wait_for_line("recording into .*/run, at most")
                wait_until(lambda: pending(config, env) > 10)
                assert daemon.end() == 0
            for file in left:
                file.unlink()
            fill(disk)
        by_hand = run_agent("run", "--config", str(config))
        assert by_hand.returncode == 74
        assert "no space left for a new queue: free 1 MiB there, or name" in by_hand.stderr


def test_a_start_on_a_full_disk_records_there_by_way_of_the_ballast(
    tmp_path: Path, disk: Path
) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator:
        config, _ = service(tmp_path, disk, "http://127.0.0.1:9/", str(simulator.device))
        for _ in range(2):
            with started(config) as daemon:
                before = pending(config, {})
                wait_until(lambda: pending(config, {}) > before + 10)  # noqa: B023 - it ends here
                assert daemon.end() == 0
            assert (disk / "others").exists() != (disk / "queue.db.ballast").exists()
            fill(disk)


def test_a_command_for_which_the_disk_has_no_room_says_so(tmp_path: Path, disk: Path) -> None:
    AckQueue(disk / "queue.db").close()
    config, _ = service(tmp_path, disk, "http://127.0.0.1:9/", "/dev/none")
    fill(disk)
    for command in (["run"], ["drain"], ["queue", "retry", "--all"]):
        ran = run_agent(*command, "--config", str(config))
        assert ran.returncode == 74
        assert "queue.db: No space left on device: free 1 MiB there\n" in ran.stderr


def test_a_queue_that_found_no_room_at_the_start_is_used_once_there_is_some(
    tmp_path: Path, disk: Path
) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator:
        config, env = service(tmp_path, disk, "http://127.0.0.1:9/", str(simulator.device))
        with started(config, env) as daemon:
            wait_until(lambda: pending(config, env) > 10)
            assert daemon.end() == 0
        (disk / "queue.db.ballast").unlink(missing_ok=True)
        fill(disk)
        with agent("run", "--config", str(config), env=env) as daemon:
            daemon.wait_for_line("recording into .*/run, at most")
            wait_until(lambda: pending(config, env) > 10)
            (disk / "others").unlink()
            daemon.wait_for_line(f"records van-07 from .* into {disk}")
            wait_until(lambda: pending(config, env) > 20)
            assert daemon.end() == 0
    assert "\n".join(daemon.err).count("recording into") == 1


def test_a_restart_on_a_full_disk_loses_nothing(tmp_path: Path, disk: Path) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator, Server() as server:
        config, env = service(tmp_path, disk, "http://127.0.0.1:9/", str(simulator.device))
        with started(config, env) as daemon:
            wait_until(lambda: pending(config, env) > 10)

            def waits_in_memory() -> bool:
                fill(disk)  # again, because the agent frees its ballast
                now = status(config, env)
                return int(now["queue"]["uncommitted"]) > 20  # type: ignore[index]

            wait_until(waits_in_memory)
            simulator.hush()
            assert daemon.end() == 0
        said = r"cannot write .*; \d+ fixes are kept in .*/run/queue.db"
        assert re.search(said, daemon.text())
        config.write_text(config.read_text().replace("http://127.0.0.1:9/", server.url))
        with agent("run", "--config", str(config), env=env) as daemon:
            # In the second case there was no room even for the index of the write-ahead log.
            daemon.wait_for_line("also delivering .* in .*/run/queue.db|recording into .*/run, at")
            (disk / "others").unlink()

            def accounted() -> int:
                # Some fixes had no room: they are counted.
                lost = status(config, env)["queue"]["lost"]  # type: ignore[index]
                return len(server.ledger) + sum(map(int, lost.values()))

            wait_until(lambda: accounted() >= simulator.sent)
            assert accounted() == simulator.sent
            assert daemon.end() == 0


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "others").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_memory_under_the_queue_is_said_at_the_start(tmp_path: Path) -> None:
    memory = Path("/dev/shm", f"telemetry-agent-{os.getpid()}")
    memory.mkdir()
    try:
        queue = {"path": str(memory / "queue.db")}
        config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", queue=queue)
        with agent("run", "--config", str(config)) as daemon:
            daemon.wait_for_line("is on tmpfs .*, which is memory: a power cut loses everything")
            told = run_agent("status", "--config", str(config)).stdout
            assert "storage:   " in told
            assert daemon.end() == 0
    finally:
        for file in memory.iterdir():
            file.unlink()
        memory.rmdir()
