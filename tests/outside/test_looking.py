"""Read commands change nothing, for any user and any state of the queue."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from ackqueue import damage
from ackqueue.queue_parts import lease
from processes import AGENT, environment, run_agent
from rig import started, write_config
from strangers import NOBODY, as_another

from telemetry_agent.ackqueue.queue import AckQueue

GROUP = 12346
LOOKING = [
    ["status"],
    ["queue", "stats"],
    ["queue", "list", "--limit", "0"],
    ["queue", "verify"],
    ["export", "--format", "csv"],
    ["doctor"],
]
FIXES = 300


def clean(_path: Path) -> None:
    """The state after an agent was stopped."""


def with_log(path: Path) -> None:
    """The state after a kill of the agent or a power cut."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from ackqueue.damage import record\n"
        "from telemetry_agent.ackqueue.queue import AckQueue\n"
        "queue = AckQueue(Path(sys.argv[1]), commit_every_s=3600)\n"
        "record(queue, 20)\n"
        "os._exit(0)\n"
    )
    tests = str(Path(__file__).parent.parent)
    paths = os.pathsep.join([tests, environment()["PYTHONPATH"]])
    subprocess.run(
        [AGENT[0], "-c", script, str(path)], env=environment({"PYTHONPATH": paths}), check=True
    )
    assert path.with_name(path.name + "-wal").stat().st_size > 0


def header(path: Path) -> None:
    damage.damage(path, damage.header)


def pages(path: Path) -> None:
    damage.damage(path, damage.five_pages)


def late_page(path: Path) -> None:
    """Damage a page that only a read of all fixes reaches; the file can be opened."""
    damage.damage(path, damage.late_page)


def torn_log(path: Path) -> None:
    with_log(path)
    log = path.with_name(path.name + "-wal")
    data = bytearray(log.read_bytes())
    data[len(data) // 2 :] = random.Random(1).randbytes(len(data) - len(data) // 2)
    log.write_bytes(data)


def mark(path: Path) -> None:
    with AckQueue(path) as queue:
        queue.ack(lease(queue, 60, live_first=False))
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE mark SET crc = crc + 1")
        database.commit()


def foreign(path: Path) -> None:
    path.write_bytes(b"no queue" * 1000)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def aside(path: Path) -> None:
    """The state after an agent ended before it made a new file in this place."""
    header(path)
    path.rename(path.with_name("queue.db.damaged-1"))


def only_log(path: Path) -> None:
    """The state after a user deleted the queue file of a killed agent."""
    path.unlink()
    with_log(path)
    path.unlink()


def linked(path: Path) -> None:
    """A symlink to the queue file; the write-ahead log is beside the target."""
    with_log(path)
    disk = path.parent.with_name("disk")
    disk.mkdir()
    for file in (disk, *path.parent.iterdir()):
        os.chown(file, NOBODY, GROUP)
        if file != disk:
            file.rename(disk / file.name)
    path.symlink_to(disk / path.name)


STATES = [clean, with_log, header, pages, late_page, torn_log, mark, foreign, emptied, aside]
STATES += [only_log, linked]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter."""
    made = Path("/var/tmp", f"looking-{os.getpid()}-{threading.get_ident()}")
    made.mkdir()
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def queue_in(folder: Path, state: Callable[[Path], None]) -> Path:
    """Return the config; the queue is in a folder beside it."""
    state_directory = folder / "state"
    state_directory.mkdir()
    path = state_directory / "queue.db"
    damage.fill(path, FIXES)
    state(path)
    for each in (state_directory, *state_directory.iterdir()):
        os.chown(each, NOBODY, GROUP)
    state_directory.chmod(0o750)
    for each in state_directory.iterdir():
        each.chmod(0o640)
    config = write_config(folder, "/dev/none", "http://127.0.0.1:9/", queue={"path": str(path)})
    config.chmod(0o644)
    return config


def everything(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return each name with all attributes that a read command could change."""
    return {
        str(path): (
            (status := path.lstat()).st_ino,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_ctime_ns,
            path.read_bytes() if path.is_file() else sorted(path.iterdir()),
        )
        for path in (folder, *folder.rglob("*"))
    }


def look(
    config: Path, command: list[str], argv: Sequence[str] = AGENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*argv, *command, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )


@pytest.mark.parametrize("state", STATES)
def test_no_look_of_root_changes_anything(state: Callable[[Path], None], folder: Path) -> None:
    config = queue_in(folder, state)
    before = everything(folder)
    for command in LOOKING:
        result = look(config, command)
        assert "Traceback" not in result.stderr
        assert everything(folder) == before, command


@pytest.mark.parametrize("state", [clean, with_log, pages, aside, only_log])
def test_a_member_of_the_group_may_look_and_a_stranger_is_told(
    state: Callable[[Path], None], folder: Path
) -> None:
    config = queue_in(folder, state)
    before = everything(folder)
    member = as_another(user=54321, group=GROUP, groups=[])
    stranger = as_another(user=54321, group=54321, groups=[])
    for command in LOOKING[:-1]:
        result = look(config, command, member)
        assert result.returncode == 0 or command[1:] == ["verify"], result.stderr
        refused = look(config, command, stranger)
        assert "use sudo, or join the group telemetry-agent" in refused.stdout + refused.stderr
        assert everything(folder) == before, command


def test_all_that_can_be_read_of_a_damaged_file_is_shown(folder: Path) -> None:
    config = queue_in(folder, header)
    stats = look(config, ["queue", "stats", "--json"])
    assert f'"ready": {FIXES}' in stats.stdout
    assert "what the agent recovers when it starts; nothing was changed" in stats.stderr
    assert "/tmp" not in stats.stderr.replace("/var/tmp", "")
    listed = look(config, ["queue", "list", "--limit", "0"])
    assert len(listed.stdout.splitlines()) == FIXES
    status = look(config, ["status"])
    assert "no agent runs" in status.stdout
    assert f"queue:     {FIXES} pending" in status.stdout
    assert "what the agent recovers when it starts" in status.stdout


@pytest.mark.parametrize("owner", [0, NOBODY])
@pytest.mark.parametrize(
    ("state", "name", "fixes"), [(aside, "damaged-1", FIXES), (only_log, "queue.db-wal", 20)]
)
def test_what_is_left_of_a_missing_file_is_not_called_nothing(
    folder: Path, state: Callable[[Path], None], name: str, fixes: int, owner: int
) -> None:
    config = queue_in(folder, state)
    for each in (folder / "state", *(folder / "state").iterdir()):
        os.chown(each, owner, owner)
    verified = look(config, ["queue", "verify"])
    assert (verified.returncode, "queue.db is damaged" in verified.stderr) == (74, True)
    assert f"queue.db is missing, but {name} is there" in (
        look(config, ["doctor"]).stdout.replace("queue.db.damaged", "damaged")
    )
    assert f"queue:     {fixes} pending" in look(config, ["status"]).stdout
    retried = look(config, ["queue", "retry", "--all"])  # the owner may also change the queue
    assert retried.stdout == "0 fixes retried\n"
    assert f'"ready": {fixes}' in look(config, ["queue", "stats", "--json"]).stdout


def test_a_damaged_mark_is_reported(folder: Path) -> None:
    """The rows of such a mark are sent again, as after a start."""
    stats = look(queue_in(folder, mark), ["queue", "stats", "--json"])
    assert f'"ready": {FIXES}' in stats.stdout
    assert "queue.db is damaged: the mark of the rows from 1 on" in stats.stderr


@pytest.mark.parametrize("state", [pages, late_page])
def test_of_a_file_with_damaged_pages_the_rest_is_shown(
    state: Callable[[Path], None], folder: Path
) -> None:
    config = queue_in(folder, state)
    for command, header_rows in (
        (["export", "--format", "csv"], 1),
        (["queue", "list", "--limit", "0"], 0),
    ):
        result = look(config, command)
        assert result.returncode == 0, result.stderr
        assert len(result.stderr.splitlines()) == 1
        rows = result.stdout.splitlines()[header_rows:]
        assert FIXES - 100 < len(rows) <= FIXES
        assert len(set(rows)) == len(rows)


def test_a_log_at_rest_needs_no_copy_of_the_queue(folder: Path) -> None:
    config = queue_in(folder, with_log)
    for command in LOOKING[:-1]:
        if command[0] == "export":  # root does not become the owner: the file belongs to the caller
            continue
        result = look(config, command, ("prlimit", "--fsize=4096", *AGENT))
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["queue.db", "queue.db-wal", "queue.db-shm"])
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    config = queue_in(folder, with_log)
    pipe = folder / "state" / name
    pipe.unlink()
    os.mkfifo(pipe, 0o640)
    os.chown(pipe, NOBODY, GROUP)
    result = look(config, ["queue", "stats"])
    assert f"{pipe} is not a regular file" in result.stderr


@pytest.mark.parametrize("state", [with_log, linked])
def test_what_waits_in_a_log_is_shown(state: Callable[[Path], None], folder: Path) -> None:
    config = queue_in(folder, state)
    for command in (["queue", "list", "--limit", "0"], ["export", "--format", "ndjson"]):
        assert len(look(config, command).stdout.splitlines()) == FIXES + 20
    assert json.loads(look(config, ["status", "--json"]).stdout)["queue"]["pending"] == FIXES + 20


@pytest.mark.parametrize("state", [clean, with_log, header])
def test_a_read_only_mount_can_be_looked_at(state: Callable[[Path], None], folder: Path) -> None:
    config = queue_in(folder, state)
    mounted = (
        "unshare",
        "-m",
        "sh",
        "-c",
        f'mount --bind "{folder}" "{folder}" && mount -o remount,bind,ro "{folder}" && exec "$@"',
        "sh",
        *AGENT,
    )
    for command in LOOKING[:-1]:
        result = look(config, command, mounted)
        assert result.returncode == 0 or command[1:] == ["verify"], (command, result.stderr)


def test_looking_in_a_loop_never_keeps_an_agent_from_starting(folder: Path) -> None:
    config = write_config(folder, "/dev/none", "http://127.0.0.1:9/")
    damage.fill(folder / "queue.db", 50)
    over = threading.Event()

    def keep_looking(command: list[str]) -> None:
        while not over.is_set():
            assert "Traceback" not in run_agent(*command, "--config", str(config)).stderr

    lookers = [threading.Thread(target=keep_looking, args=(c,)) for c in LOOKING[1:4:2]]
    for looker in lookers:
        looker.start()
    try:
        for restart in range(int(os.environ.get("TELEMETRY_AGENT_RESTARTS", "6"))):
            with started(config) as daemon:
                if restart % 2:
                    daemon.kill()
                else:
                    assert daemon.end() == 0
    finally:
        over.set()
        for looker in lookers:
            looker.join()
