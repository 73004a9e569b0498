"""How much of the disk the queue may use, and what it gives up when that is not enough."""

import errno
import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
from ackqueue.queue_parts import Disk, fix_at, lease, put, seqs
from fakes import FakeClock

from telemetry_agent.ackqueue.committer import Committer
from telemetry_agent.ackqueue.file.rows import encode
from telemetry_agent.ackqueue.file.schema import UnusableError, connect, log_of
from telemetry_agent.ackqueue.file.store import Changes, Store
from telemetry_agent.ackqueue.limits.bounds import Ballast, Limits, WhenFull
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.ranges import runs
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Fix

MIB = 1 << 20
ONE_MIB = Limits(max_size_bytes=MIB)
CAPACITY = 8000
"""About this many of these fixes fit into 1 MiB minus the part that is kept free."""


def driven(second: int, leg_s: int = 600) -> Fix:
    """A fix of a drive. Each leg ends with a stop, for a fifth of its time, and a turn."""
    leg, within = divmod(second, leg_s)
    drive_s = leg_s * 4 // 5
    metres = 15 * (leg * drive_s + min(within, drive_s))
    east = 15 * drive_s * ((leg + 1) // 2) if leg % 2 else metres - 15 * drive_s * (leg // 2)
    return fix_at(second, sats=8)._replace(
        lat_e9=48_000_000_000 + (metres - east) * 9000, lon_e9=11_000_000_000 + east * 13_000
    )


def record(
    queue: AckQueue,
    fixes: range,
    fix: Callable[[int], Fix] = fix_at,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Commit 50 fixes at a time. After each commit, do what a committer does."""
    for first in range(fixes.start, fixes.stop, 50):
        for second in range(first, min(first + 50, fixes.stop)):
            queue.put(fix(second), "van-07")
        queue.commit()
        while queue.make_room():
            pass
        look()


def pending(queue: AckQueue) -> list[int]:
    return [stored.record.seq for stored in queue.stored() if stored.state == 1]


# Size


@pytest.mark.parametrize("when_full", ["thin", "drop-oldest", "stop"])
def test_the_size_is_kept_to_and_each_fix_is_there_or_counted(
    path: Path, when_full: WhenFull, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limits = Limits(max_size_bytes=4 * MIB, when_full=when_full)
    newest = 8 * CAPACITY
    with AckQueue(path, limits=limits) as queue:

        def look() -> None:
            files = [path, log_of(path), path.with_name("queue.db.ballast")]
            assert sum(file.stat().st_size for file in files) <= 4 * MIB

        record(queue, range(newest), driven, look)
        stats = queue.stats()
        assert stats.full
        reason = {"thin": "thinned", "drop-oldest": "dropped", "stop": "full"}[when_full]
        assert stats.lost == {reason: newest - stats.ready}
        kept = pending(queue)
        assert len(kept) == stats.ready > 2 * CAPACITY
        match when_full:
            case "thin":
                assert kept[0] == 1
                assert kept[-CAPACITY:] == list(range(newest + 1 - CAPACITY, newest + 1))
            case "drop-oldest":
                assert kept == list(range(newest + 1 - len(kept), newest + 1))
            case "stop":
                assert kept == list(range(1, len(kept) + 1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "queue.db is full" in caplog.text
    with AckQueue(path) as queue:
        assert pending(queue) == kept
        assert queue.stats().lost == stats.lost


def test_what_is_missed_least_goes_first(path: Path) -> None:
    with AckQueue(path, limits=ONE_MIB, keep_delivered_s=10**9) as queue:
        record(queue, range(CAPACITY))
        queue.ack(lease(queue, 2000, live_first=False))
        queue.fail(lease(queue, 2000, live_first=False), "no")
        second = CAPACITY
        before = queue.stats()
        while queue.stats().acked:
            record(queue, range(second, second := second + 50))
            assert queue.stats().acked >= before.acked - 1500
            before = queue.stats()
            assert (before.ack_failed, before.lost) == (2000, {})
        while queue.stats().ack_failed:
            record(queue, range(second, second := second + 50))
            assert set(queue.stats().lost) <= {"refused"}
        record(queue, range(second, second + 2000))
        lost = queue.stats().lost
        assert lost["refused"] == 2000
        assert lost["thinned"] > 0


def test_room_that_comes_back_ends_it_and_is_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(max_size_bytes=MIB, when_full="stop")
    with AckQueue(path, limits=limits) as queue:
        record(queue, range(2 * CAPACITY))
        assert queue.stats().full
        lost = queue.stats().lost["full"]
        for _ in range(3):
            queue.ack(lease(queue, 1000, live_first=False))
        record(queue, range(20_000, 20_500))
        assert not queue.stats().full
        assert queue.stats().lost["full"] < lost + 500
        record(queue, range(21_000, 21_100))
        assert [r.record.fix for r in queue.stored()][-100:] == [
            fix_at(s) for s in range(21_000, 21_100)
        ]
    assert "has room again; lost meanwhile:" in caplog.text
    assert len(caplog.records) == 2


@pytest.mark.parametrize("when_full", ["thin", "drop-oldest"])
def test_batches_that_are_out_stay_whole(path: Path, when_full: WhenFull) -> None:
    with AckQueue(path, limits=Limits(max_size_bytes=MIB, when_full=when_full)) as queue:
        record(queue, range(CAPACITY // 2))
        out = lease(queue, 500, live_first=False)
        queue.release(lease(queue, 500, live_first=False), answered=False)
        queue.resume_unack()
        again = queue.lease(500, live_first=False)
        assert again is not None
        record(queue, range(CAPACITY // 2, 3 * CAPACITY))
        assert pending(queue)[:1000] == [*seqs(out), *seqs(again)]
        queue.release(out)
        queue.release(again)
        assert seqs(lease(queue, 500, live_first=False)) == seqs(out)
        assert seqs(lease(queue, 500, live_first=False)) == seqs(again)


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("when_full", ["thin", "drop-oldest"])
def test_what_an_endpoint_never_answers_goes_as_all_others(
    path: Path, when_full: WhenFull, *, is_resumed: bool
) -> None:
    """The endpoint receives each request and hangs, so every recorded fix was sent once."""
    newest = 3 * CAPACITY
    with AckQueue(path, limits=Limits(max_size_bytes=MIB, when_full=when_full)) as queue:
        for first in range(0, newest, 200):
            record(queue, range(first, first + 200), driven)
            if is_resumed:
                queue.resume_unack()
            queue.release(lease(queue), answered=False)
        stats = queue.stats()
        reason = {"thin": "thinned", "drop-oldest": "dropped"}[when_full]
        assert stats.lost == {reason: newest - stats.ready - stats.unack}
        queue.resume_unack()
        kept = pending(queue)
        assert len(kept) == newest - stats.lost[reason] > CAPACITY
        assert kept[-CAPACITY // 2 :] == list(range(newest + 1 - CAPACITY // 2, newest + 1))
        assert (kept[0] == 1) == (when_full == "thin")
    with AckQueue(path) as queue:
        delivered: list[int] = []
        while batch := queue.lease(1000, live_first=False):
            delivered += seqs(batch)
            queue.ack(batch)
        assert delivered == kept
        (account,) = queue.accounts()[0]
        assert account.recorded - sum(account.not_coming.values()) == len(kept)


@pytest.mark.parametrize("limits", [Limits(min_free_bytes=1), Limits(max_size_bytes=8 * MIB)])
def test_a_limit_of_the_process_is_a_limit_of_the_queue(
    path: Path, limits: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with AckQueue(path, limits=limits) as queue:
            record(queue, range(2 * CAPACITY))
            stats = queue.stats()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stats.ready + sum(stats.lost.values()) == 2 * CAPACITY
    assert stats.lost.keys() == {"thinned"}
    assert "cannot write" not in caplog.text


def test_a_group_that_is_larger_than_what_is_free_finds_room(path: Path) -> None:
    """Use no committer: the commit itself makes room."""
    with AckQueue(path, limits=ONE_MIB, commit_every_s=3600) as queue:
        for first in range(0, 3 * CAPACITY, 5000):
            for second in range(first, first + 5000):
                queue.put(driven(second), "van-07")
            queue.commit()
        stats = queue.stats()
        assert stats.ready + stats.lost["thinned"] == 25_000
        assert stats.file_bytes <= MIB


def test_a_month_is_still_a_month(path: Path) -> None:
    """The thinned month has less detail, but still contains each stop and turn."""
    every_s, hours = 60, 24 * 30
    with AckQueue(path, limits=ONE_MIB, commit_every_s=3600) as queue:
        record(queue, range(hours * 3600 // every_s), lambda n: driven(n * every_s, 3600))
        times_ms = {stored.record.fix.time_ms for stored in queue.stored()}
        assert len(times_ms) < CAPACITY * 1.5
        for hour in range(hours):
            assert fix_at(hour * 3600).time_ms in times_ms, "the end of a stop, and a turn"
            assert fix_at(hour * 3600 + 2880).time_ms in times_ms, "the begin of a stop"
        ledger = queue.shared.ledger
        ranges = len(list(ledger.marks)) + len(list(ledger.ready_rows.free))
        assert ranges < 40


def test_memory_does_not_grow_with_what_was_thinned(path: Path) -> None:
    """The remaining fixes form a few ranges, however many fixes are thinned."""
    with AckQueue(path, limits=ONE_MIB, commit_every_s=3600) as queue:
        ranges = []
        for _ in range(2):
            record(queue, range(5 * CAPACITY), driven)
            ledger = queue.shared.ledger
            ranges.append(len(list(ledger.marks)) + len(list(ledger.ready_rows.free)))
        assert queue.stats().lost["thinned"] > 6 * CAPACITY
        assert max(ranges) < 40


def test_what_thinning_moved_is_sent_again_by_its_name(path: Path) -> None:
    with AckQueue(path, limits=ONE_MIB, commit_every_s=3600, keep_delivered_s=10**9) as queue:
        record(queue, range(3 * CAPACITY), driven)
        kept = pending(queue)
        while batch := queue.lease(1000):
            queue.ack(batch)
        first, last = kept[10], kept[40]
        asked = [seq for seq in kept if first <= seq <= last]
        assert len(asked) < (last - first) / 2
        assert queue.resend_names(queue.stream, first, last) == len(asked)
        assert pending(queue) == asked


def test_a_few_large_fixes_are_dropped_one_by_one(path: Path) -> None:
    large = json.dumps({"note": "x" * 100_000})
    limits = Limits(max_size_bytes=MIB, when_full="drop-oldest")
    with AckQueue(path, limits=limits, commit_every_s=0) as queue:
        for second in range(20):
            queue.put(fix_at(second, extra=large), "a")
        kept = pending(queue)
        assert 1 < len(kept) < 10
        assert kept == list(range(21 - len(kept), 21))
        assert queue.stats().lost == {"dropped": 20 - len(kept)}


def test_the_numbers_of_what_stays_are_next_to_each_other(path: Path) -> None:
    with AckQueue(path, limits=ONE_MIB) as queue:
        put(queue, 1)
        queue.ack(lease(queue))
        record(queue, range(2 * CAPACITY), driven)
        with queue.shared.disk:
            rows = queue.shared.read((1, queue.shared.last))
        assert len(runs(row[0] for row in rows)) <= 3  # one is in progress
        batch = lease(queue, 100)
        assert batch.live
        assert queue.backlog().live == 0
        record(queue, range(2 * CAPACITY, 3 * CAPACITY), driven)
        assert queue.backlog().live == CAPACITY
        queue.release(batch)


# Age


def test_fixes_are_given_up_by_their_own_time(path: Path) -> None:
    limits = Limits(max_age_s=3600)
    with AckQueue(path, limits=limits) as queue:
        put(queue, 2000)
        queue.fail(lease(queue, 10, live_first=False), "no")
        queue.release(lease(queue, 10, live_first=False), answered=False)
        out = lease(queue, 10, live_first=False)
        while queue.tidy():
            pass
        assert queue.stats().lost == {}
        queue.put(fix_at(10**9, flags=("date",)), "van-07")  # a doubtful date expires no fix
        assert not queue.tidy()
        queue.put(fix_at(5000), "van-07")
        queue.commit()
        while queue.tidy():
            pass
        stats = queue.stats()
        assert stats.lost == {"expired": 1400 - 10}
        assert (stats.unack, stats.in_flight, stats.ack_failed) == (0, 10, 0)
        queue.ack(out)
        assert seqs(lease(queue, 1, live_first=False)) == [1401]


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_batch_without_an_answer_expires_too(path: Path, *, is_resumed: bool) -> None:
    with AckQueue(path, limits=Limits(max_age_s=100)) as queue:
        put(queue, 20)
        queue.release(lease(queue, 10, live_first=False), answered=False)
        if is_resumed:
            queue.resume_unack()
        put(queue, 1, start=1000)
        queue.commit()
        while queue.tidy():
            pass
        assert queue.stats().lost == {"expired": 20}
        assert seqs(lease(queue)) == [21]


def test_more_dead_letters_than_fit_into_one_step_expire_at_once(path: Path) -> None:
    with AckQueue(path, commit_every_s=3600, limits=Limits(max_age_s=100)) as queue:
        put(queue, 2500)
        queue.fail(lease(queue, 2500), "refused")
        put(queue, 1, start=10_000)
        while queue.tidy():
            pass
        assert queue.stats().lost == {"expired": 2500}


def test_a_long_doubt_about_the_time_is_as_old_as_what_follows(path: Path) -> None:
    with AckQueue(path, limits=Limits(max_age_s=100)) as queue:
        for second in range(2500):
            queue.put(fix_at(10**6 + second, flags=("date",)), "van-07")
        put(queue, 10)
        queue.put(fix_at(10**6, flags=("date",)), "van-07")
        put(queue, 10, start=1000)
        queue.commit()
        while queue.tidy():
            pass
        assert queue.stats().lost == {"expired": 2510}
        assert seqs(lease(queue, 1, live_first=False)) == [2511]


# The disk


def test_an_opening_that_a_limit_ends_can_be_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> int:
        raise StorageError(f"cannot look at the disk of {folder}")

    with monkeypatch.context() as patch:
        patch.setattr("telemetry_agent.ackqueue.limits.bounds.free_bytes", refused)
        with pytest.raises(StorageError, match="cannot look at the disk") as kept:
            AckQueue(path, limits=Limits(max_size_bytes=MIB))
    with AckQueue(path, limits=Limits(max_size_bytes=MIB)) as queue:
        assert not queue.stats().lost
    assert kept.tb  # the error and its references existed until here


def test_a_limit_that_cannot_be_set_is_an_error_of_the_queue(path: Path) -> None:
    store = Store(path, connect)
    store.close()
    with pytest.raises(StorageError, match=r"cannot limit the queue \S+queue\.db: "):
        store.limit(MIB, MIB)


def test_a_full_disk_takes_acknowledgements_and_goes_on_recording(tmp_path: Path) -> None:
    """Use a separate file system, which another program fills."""
    if os.geteuid() != 0 and "CI" not in os.environ:
        pytest.skip("only root can mount a file system")
    script = Path(__file__).with_name("full_disk.py")
    ran = subprocess.run(
        ["unshare", "--mount", sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, dict[str, Any]] = {}
    for line in ran.stdout.splitlines():
        act = json.loads(line)
        told[act["act"]] = act
        assert not act["refused"]
        assert act["uncommitted"] == 0
        assert (
            act["ready"] + act["acked"] + sum(act["lost"].values()) + act["deleted"] == act["put"]
        )
    assert told["recorded"]["ballast"]
    assert told["filled"]["free_bytes"] == 0
    assert told["acknowledged"]["acked"] == 500
    assert told["recorded on"]["full"]
    assert not told["recorded on"]["ballast"]
    assert told["recorded on"]["lost"].keys() == {"thinned"}
    assert told["freed"]["ballast"]
    assert told["little left"]["free_bytes"] >= 2 * MIB
    assert told["opened again"]["ready"] == told["little left"]["ready"]


ON_A_DISK = """
import os, subprocess, sys
from contextlib import suppress
from pathlib import Path
from ackqueue.queue_parts import lease, put
from telemetry_agent.ackqueue.limits.bounds import Limits
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.errors import StorageError
folder = Path(sys.argv[1])
image, point = folder / "image", folder / "disk"
point.mkdir()
image.touch()
os.truncate(image, 160 << 20)
subprocess.run([*sys.argv[2:], "-q", image], check=True, capture_output=True)
subprocess.run(["mount", "-o", "loop", image, point], check=True)
def fill(folder):
    subprocess.run(["sync", "-f", point], check=True)  # now each write of a page needs room
    with (folder / "other").open("wb", buffering=0) as other:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while other.write(bytes(size)):
                    os.fsync(other.fileno())
"""
ON_FULL_BTRFS = """
queue = AckQueue(point / "queue.db", commit_every_s=0)
put(queue, 1)
fill(point)
put(queue, 3)
print(queue.stats().ready + queue.stats().uncommitted)
with suppress(StorageError):
    queue.close()
print("closed")
"""
CLOSED_ON_FULL_BTRFS = """
with AckQueue(point / "queue.db") as queue:
    put(queue, 3)
queue = AckQueue(point / "queue.db")
fill(point)
put(queue, 3)
with suppress(StorageError):
    queue.close()
(point / "other").unlink()
with AckQueue(point / "queue.db") as queue:
    print(queue.stats().ready, dict(queue.stats().lost))
"""
AT_ITS_QUOTA = """
user = point / "user"
for command in (
    ["quota", "enable", point], ["subvolume", "create", user], ["qgroup", "limit", "16M", user]
):
    subprocess.run(["btrfs", *command], check=True, capture_output=True)
with AckQueue(user / "queue.db", limits=Limits(max_size_bytes=8 << 20)) as queue:
    put(queue, 3000)
    queue.commit()
    queue.make_room()
    batch = lease(queue, 500, live_first=False)
    fill(user)
    queue.ack(batch)
    stats = queue.stats()
    print(stats.full, stats.ready, queue.shared.writer.refused)
    put(queue, 5000)
    queue.commit()
    stats = queue.stats()
    print(stats.uncommitted, stats.ready + sum(stats.lost.values()))
    (user / "other").unlink()
    put(queue, 10)
    queue.commit()
    while queue.make_room():
        pass
print((user / "queue.db.ballast").exists())
"""
WITH_SMALL_BLOCKS = """
for spare in range(0, 40, 4):
    fill(point)
    os.truncate(point / "other", (point / "other").stat().st_size - spare * 1024)
    subprocess.run(["sync", "-f", point], check=True)
    with suppress(StorageError), AckQueue(point / "queue.db", commit_every_s=0) as queue:
        put(queue, 3)
    (point / "other").unlink()
with AckQueue(point / "queue.db", commit_every_s=0) as queue:
    put(queue, 3)
    print(queue.stats().ready > 3, queue.stats().uncommitted)
"""
WITHOUT_ROOM_FOR_THE_LOG = """
limits = Limits(max_size_bytes=8 << 20, when_full="drop-oldest")
with AckQueue(point / "queue.db", limits=limits) as queue:
    put(queue, 320)
with AckQueue(point / "queue.db", limits=limits) as queue:
    fill(point)
    for _ in range(12):
        put(queue, 1)
        with suppress(StorageError):
            queue.commit()
    refused = queue.stats().uncommitted > 1
    (point / "other").unlink()
    put(queue, 1)
    queue.commit()
    stats = queue.stats()
    dropped = stats.lost["dropped"]  # at most one step went in vain, a sixteenth
    print(refused, stats.uncommitted, stats.ready + dropped, dropped <= 333 / 16 + 1)
"""
BTRFS, EXT4 = ["mkfs.btrfs"], ["mkfs.ext4", "-b", "1024", "-m", "0"]
TOLD_AT_ITS_QUOTA = "True 2500 False\n0 7500\nTrue\n"


@pytest.mark.parametrize(
    ("make", "script", "told"),
    [
        (BTRFS, ON_FULL_BTRFS, "4\nclosed\n"),
        ([*BTRFS, "--mixed"], CLOSED_ON_FULL_BTRFS, "3 {}\n"),
        (BTRFS, AT_ITS_QUOTA, TOLD_AT_ITS_QUOTA),
        (EXT4, WITH_SMALL_BLOCKS, "True 0\n"),
        (EXT4, WITHOUT_ROOM_FOR_THE_LOG, "True 0 333 True\n"),
    ],
    ids=["btrfs", "closed", "quota", "small blocks", "log"],
)
def test_a_full_disk_ends_no_process_and_no_backlog(
    tmp_path: Path, make: list[str], script: str, told: str
) -> None:
    """SQLite maps the index of its log into memory: a write there on a full disk raises SIGBUS.

    A used-up quota is also a full disk. Giving up fixes makes room only if the change can be
    written.
    """
    make_file_system = peers.program(make[0])
    kind = make[0].removeprefix("mkfs.")
    if kind not in Path("/proc/filesystems").read_text() or os.geteuid() != 0:
        pytest.skip(f"a {kind} cannot be mounted here")
    ran = subprocess.run(
        [
            "unshare",
            "--mount",
            sys.executable,
            "-c",
            ON_A_DISK + script,
            str(tmp_path),
            make_file_system,
            *make[1:],
        ],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, told), ran.stderr


@pytest.mark.parametrize("size", [0, 1000])
def test_a_ballast_of_another_size_is_made_again(path: Path, size: int) -> None:
    ballast = path.with_name("queue.db.ballast")
    ballast.write_bytes(bytes(size))
    with AckQueue(path, limits=ONE_MIB) as queue:
        queue.make_room()
        assert ballast.stat().st_size == MIB // 8


def test_a_ballast_is_made_where_the_disk_can_spare_it_twice(path: Path) -> None:
    ballast = Ballast(path, MIB)
    ballast.keep(2 * MIB - 1)
    assert not ballast.is_there
    ballast.keep(2 * MIB)
    assert ballast.is_there


def test_a_ballast_that_is_there_is_not_written_again(path: Path) -> None:
    file = path.with_name("queue.db.ballast")
    file.write_bytes(b"x" * MIB)
    Ballast(path, MIB).keep(2 * MIB)
    assert file.read_bytes() == b"x" * MIB


@pytest.mark.parametrize("part", [0, MIB // 2])
def test_a_ballast_that_the_disk_refuses_takes_no_room(
    path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(fd: int, size: int) -> None:
        os.write(fd, bytes(part))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("telemetry_agent.ackqueue.limits.bounds.allocate", allocate)
    Ballast(path, MIB).keep(2 * MIB)
    assert not path.with_name("queue.db.ballast").exists()
    Ballast(path.parent / "gone" / "queue.db", MIB).keep(2 * MIB)


def test_a_file_that_was_kept_stays_when_only_the_queue_has_reached_its_limit(path: Path) -> None:
    kept = path.with_name("queue.db.kept-1")
    kept.write_bytes(bytes(1000))
    with AckQueue(path, limits=ONE_MIB) as queue:
        for second in range(3 * CAPACITY):
            queue.put(fix_at(second), "van-07")
        queue.commit()
        assert queue.stats().lost
    assert kept.exists()


def test_a_file_that_was_kept_goes_when_the_disk_is_short(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = path.with_name("queue.db.kept-1")
    kept.write_bytes(bytes(1000))
    with AckQueue(path, limits=Limits(min_free_bytes=MIB)) as queue:
        record(queue, range(1000))
        assert kept.exists()
        monkeypatch.setattr("telemetry_agent.ackqueue.limits.bounds._LEAST_BYTES", 0)
        monkeypatch.setattr("telemetry_agent.ackqueue.limits.bounds.free_bytes", lambda folder: 0)
        record(queue, range(1000, 1100))
        assert not kept.exists()


def test_what_is_carried_over_makes_nothing_go(path: Path) -> None:
    with AckQueue(path) as queue:
        record(queue, range(2 * CAPACITY))
        with queue.shared.disk:
            queue.shared.replace(UnusableError("as if damaged"))
    with AckQueue(path, limits=ONE_MIB) as queue:
        record(queue, range(20_000, 22_000))
        carry_over(queue)
        assert queue.stats().carrying_over  # the rest waits in the old file
        assert queue.stats().lost == {}
        delivered: list[int] = []
        while batch := queue.lease(1000, live_first=False):
            delivered += seqs(batch)
            queue.ack(batch)
            while queue.make_room():
                pass
            carry_over(queue)
        assert not queue.stats().carrying_over
        assert queue.stats().lost == {}
        assert len(delivered) == 2 * CAPACITY + 2000


def test_a_folder_that_is_gone_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """This also applies if the file may not grow or is damaged: the reader must not crash."""
    disk, path = Disk(), tmp_path / "state" / "queue.db"
    with AckQueue(path, limits=ONE_MIB, connect=disk.connect, clock=FakeClock()) as queue:
        record(queue, range(1000))
        gone = path.parent.rename(tmp_path / "gone")
        with pytest.raises(StorageError, match=r"cannot look at the disk of .*state: No such file"):
            queue.make_room()
        disk.refuses = "full"
        put(queue, 1)
        with pytest.raises(StorageError, match="full"):
            queue.commit()
        assert queue.stats().uncommitted == 1
        disk.refuses = "never"
        with queue.shared.disk:
            disk_error = queue.shared.replace(UnusableError("as if damaged"))
        assert "cannot read the folder" in str(disk_error)
        gone.rename(path.parent)


def test_room_for_what_is_carried_over_is_made_in_portions(path: Path) -> None:
    """Each portion is what is read at once. If the disk refuses, no room is made."""
    disk, delivered = Disk(), 2 * CAPACITY
    with AckQueue(path) as queue:
        record(queue, range(delivered))
        while batch := queue.lease(1000):
            queue.ack(batch)
    with AckQueue(path, limits=ONE_MIB, connect=disk.connect, clock=FakeClock()) as queue:
        assert queue.has_room()
        assert queue.stats().acked == delivered - 1000
        disk.refuses = "before"
        assert not queue.has_room()
        assert not queue.has_room()
        assert queue.stats().acked == delivered - 2000
        disk.refuses = "never"


def test_space_is_given_back_after_a_drain(path: Path) -> None:
    store = Store(path, connect)
    rows = [encode(n, 1, n, "van-07", fix_at(n)) for n in range(1, 80_001)]
    for first in range(0, 80_000, 5000):
        store.write(Changes(rows[first : first + 5000]))
    store.close()
    clock = FakeClock()
    with AckQueue(path, keep_delivered_s=60, clock=clock) as queue:
        committer = Committer(queue)
        full_bytes = queue.stats().file_bytes
        while batch := queue.lease(5000):
            queue.ack(batch)
        put(queue, 1, start=80_001)
        queue.commit()
        while committer.step(clock.advance(300)) == 0:
            pass
        assert queue.stats().acked == 60
        queue.shared.store._connection.execute("PRAGMA wal_checkpoint").fetchall()
        assert path.stat().st_size < full_bytes / 50
        assert seqs(lease(queue)) == [1]
