"""A real agent on a damaged queue, as its user and its endpoint see it."""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ackqueue import damage
from misbehaving import Server
from processes import run_agent
from rig import simulated, started, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import carry_over


def verify(config: Path) -> tuple[int, dict[str, Any], str]:
    result = run_agent("queue", "verify", "--json", "--config", str(config))
    report: dict[str, Any] = json.loads(result.stdout)
    return result.returncode, report, result.stderr


def contents(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.glob("queue.db*")
        if file.is_file() and not file.name.endswith("-shm")
    }


def flip_bits(path: Path, *seqs: int) -> None:
    """Flip one bit in each of these fixes."""
    with closing(sqlite3.connect(path)) as database:
        for seq in seqs:
            flipped = "(lon_e9 | 1 << 20) - (lon_e9 & 1 << 20)"
            database.execute(f"UPDATE fix SET lon_e9 = {flipped} WHERE seq = ?", (seq,))
        database.commit()


def test_a_flipped_bit_in_a_fix_never_reaches_the_endpoint(tmp_path: Path) -> None:
    damage.fill(tmp_path / "queue.db", 30)
    flip_bits(tmp_path / "queue.db", 3, 6, 9, 12, 15)
    with Server() as server:
        config = write_config(tmp_path, "/dev/none", server.url)
        assert verify(config)[1]["damaged"] == 5
        with started(config) as agent:
            server.wait_for(lambda s: len(s.ledger) == 25)
            status = run_agent("status", "--json", "--config", str(config))
            assert json.loads(status.stdout)["queue"]["lost"] == {"damaged": 5}
            assert agent.end() == 0
    assert {seq for _, seq in server.ledger} == set(range(1, 31)) - {3, 6, 9, 12, 15}
    assert verify(config)[0] == 0  # the damaged fixes are gone, and counted


def test_a_flipped_bit_in_the_newest_number_costs_one_fix(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    damage.fill(path, 30)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:  # the carried-over queue begins at row 2 ** 32
        carry_over(queue)
        damage.record(queue, 10)
        newest = queue.last_row()
    data = bytearray(path.read_bytes())
    at, bit = damage.number_bits(path.read_bytes(), newest)[6]  # adds 2 ** 34
    data[at] ^= 1 << bit
    path.write_bytes(data)
    with Server() as server:
        config = write_config(tmp_path, "/dev/none", server.url)
        with started(config) as agent:
            agent.wait_for_line("39 fixes were carried over; 1 is lost to damage")
            server.wait_for(lambda s: len(s.ledger) == 39)
            status = run_agent("status", "--json", "--config", str(config))
            assert json.loads(status.stdout)["queue"]["lost"] == {"damaged": 1}
            assert agent.end() == 0
    assert max(server.ledger.values()) == 1


def test_what_was_lost_at_the_ends_is_told_as_that(tmp_path: Path) -> None:
    damage.fill(tmp_path / "queue.db", 30)
    flip_bits(tmp_path / "queue.db", 1, 2, 30)
    with Server() as server:
        config = write_config(tmp_path, "/dev/none", server.url)
        with started(config) as agent:
            server.wait_for(lambda s: len(s.ledger) == 27)
            assert agent.end() == 0
    first, last = run_agent("queue", "verify", "--config", str(config)).stdout.splitlines()[-2:]
    assert first.startswith("lost:      2 between the beginning and 20")
    assert last.startswith("lost:      1 between 20")
    assert last.endswith(" and the end")


@pytest.mark.parametrize("kind", [damage.header, damage.half])
def test_an_agent_on_a_damaged_queue_records_and_delivers_the_rest(
    tmp_path: Path, kind: damage.Damage
) -> None:
    damage.fill(tmp_path / "queue.db", 300)
    damage.damage(tmp_path / "queue.db", kind)
    with simulated(tmp_path, rate_hz=10) as simulator, Server() as server:
        config = write_config(tmp_path, str(simulator.device), server.url)
        with started(config) as agent:
            agent.wait_for_line("is set aside as")
            server.wait_for(lambda s: len({stream for stream, _ in s.ledger}) == 2)
            agent.wait_for_line("fixes were carried over")
            if kind is not damage.half:
                server.wait_for(lambda s: len(s.ledger) > 300)
                assert not list(tmp_path.glob("queue.db.damaged-*"))
            code, report, _ = verify(config)
            assert (code, report["sound"]) == (0, True)
            assert agent.end() == 0
    assert max(server.ledger.values()) == 1


def test_commands_without_an_agent_see_all_that_a_damaged_queue_holds(tmp_path: Path) -> None:
    damage.fill(tmp_path / "queue.db", 300)
    damage.damage(tmp_path / "queue.db", damage.header)
    with Server() as server:
        config = write_config(tmp_path, "/dev/none", server.url)
        told = run_agent("queue", "stats", "--json", "--config", str(config))
        assert json.loads(told.stdout)["ready"] == 300
        damage.damage(tmp_path / "queue.db", damage.header)
        assert run_agent("drain", "--config", str(config)).returncode == 0
    assert len(server.ledger) == 300
    assert max(server.ledger.values()) == 1


@pytest.mark.parametrize("kind", [damage.header, damage.five_pages])
def test_verify_changes_nothing(tmp_path: Path, kind: damage.Damage) -> None:
    damage.fill(tmp_path / "queue.db", 2000)
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    before = contents(tmp_path)
    code, report, error = verify(config)
    assert (code, error) == (0, "")
    assert report == {
        "rows": 2000,
        "damaged": 0,
        "missing": 0,
        "damaged_marks": 0,
        "structure": "ok",
        "set_aside": [],
        "lost": [],
        "sound": True,
    }
    assert contents(tmp_path) == before
    damage.damage(tmp_path / "queue.db", kind)
    before = contents(tmp_path)
    code, report, error = verify(config)
    assert code == 74
    assert not report["sound"]
    assert report["structure"] != "ok"
    assert "is damaged" in error
    assert contents(tmp_path) == before


def test_verify_reads_what_a_killed_agent_left(tmp_path: Path) -> None:
    with simulated(tmp_path, rate_hz=10) as simulator:
        config = write_config(tmp_path, str(simulator.device), "http://127.0.0.1:9/")
        with started(config) as agent:
            agent.wait_for_line("records van-07")
            while on_disk(config) < 20:
                pass
            agent.process.kill()
            agent.process.wait(60)
    assert (tmp_path / "queue.db-wal").stat().st_size > 0
    before = contents(tmp_path)
    code, report, _ = verify(config)
    assert (code, report["rows"] >= 20) == (0, True)
    assert contents(tmp_path) == before
    log = tmp_path / "queue.db-wal"
    data = bytearray(log.read_bytes())
    data[32 + 536 * (len(data) // 536 // 2) + 124] ^= 1
    log.write_bytes(data)
    before = contents(tmp_path)
    code, report, _ = verify(config)
    damage = f"the log of the queue {tmp_path / 'queue.db'} is damaged"
    assert (code, report["structure"]) == (74, damage)
    assert contents(tmp_path) == before


def on_disk(config: Path) -> int:
    told = run_agent("status", "--json", "--config", str(config))
    queue = json.loads(told.stdout)["queue"]
    return int(queue["pending"] - queue["uncommitted"])


def test_verify_asks_the_running_agent(tmp_path: Path) -> None:
    damage.fill(tmp_path / "queue.db", 3000)
    flip_bits(tmp_path / "queue.db", 2100, 2200)
    (tmp_path / "queue.db.kept-4").write_bytes(b"of another day")
    # A single attempt, which reaches the first thousand fixes.
    upload = {"backoff_initial": "10min", "backoff_max": "10min"}
    probes = {"probe_every": "10min"}
    config = write_config(
        tmp_path, "/dev/none", "http://127.0.0.1:9/", upload=upload, connectivity=probes
    )
    with started(config) as agent:
        agent.wait_for_line("records van-07")
        code, report, _ = verify(config)
        assert code == 74
        assert (report["rows"], report["damaged"], report["missing"]) == (3000, 2, 0)
        kept = {"file": "queue.db.kept-4", "bytes": 14, "state": "kept"}
        assert report["set_aside"] == [kept]
        text = run_agent("queue", "verify", "--config", str(config)).stdout
        assert "fixes:     3,000, 2 of them damaged; 0 missing" in text
        assert agent.end() == 0


def test_a_copy_that_is_not_in_its_place_is_shown_as_the_agent_will_carry_it_over(
    tmp_path: Path,
) -> None:
    """The state after a kill, with the queue file deleted in use before."""
    path = tmp_path / "queue.db"
    damage.fill(path, 30)
    path.rename(tmp_path / "queue.db.damaged-1")
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    before = contents(tmp_path)
    status = run_agent("status", "--json", "--config", str(config))
    assert json.loads(status.stdout)["queue"]["pending"] == 30
    assert "queue.db.damaged-1 is still to be carried over" in status.stdout
    assert contents(tmp_path) == before
