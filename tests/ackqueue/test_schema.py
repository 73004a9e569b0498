import json
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from ackqueue import damage
from ackqueue.older_files import OLDER, make_older
from ackqueue.queue_parts import fix_at

from telemetry_agent.ackqueue.file import schema
from telemetry_agent.ackqueue.file.rows import encode
from telemetry_agent.ackqueue.file.schema import connect
from telemetry_agent.ackqueue.file.store import Changes
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.recovery.verify import verify_at_rest
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Fix

SELECT = """
import json, sqlite3, sys
rows = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
rows.row_factory = sqlite3.Row
print(json.dumps([dict(row) for row in rows.execute("SELECT * FROM fixes")]))
"""


def select_elsewhere(path: Path) -> list[dict[str, object]]:
    """The rows of the view, as another process sees them."""
    shown = subprocess.run(
        [sys.executable, "-c", SELECT, str(path)], capture_output=True, check=True, timeout=60
    )
    rows: list[dict[str, object]] = json.loads(shown.stdout)
    return rows


def test_the_view_shows_fixes_in_the_words_and_units_of_the_documentation(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    full = Fix(
        time_ms=1_764_426_119_007,
        lat_e9=-48_117300001,
        lon_e9=11_516667000,
        alt_mm=545_400,
        geoid_sep_mm=46_900,
        speed_mm_s=11_524,
        course_mdeg=84_400,
        mode=3,
        quality="float-rtk",
        hdop_e2=90,
        vdop_e2=120,
        pdop_e2=150,
        sats=8,
        err_h_mm=1_500,
        err_v_mm=2_250,
        odo_m=123_456_789,
        flags=("jump", "date"),
        extra='{"cpu_temp_C":48.3}',
    )
    with AckQueue(path) as queue:
        name = queue.put(full, "van-07").stream
        queue.put(Fix(253_402_300_799_999, 0, 0), "Ω 'quoted'")
        queue.commit()
        first, second = select_elsewhere(path)
    assert first == {
        "stream": name,
        "seq": 1,
        "device": "van-07",
        "state": 1,
        "reason": None,
        "time": "2025-11-29T14:21:59.007Z",
        "lat": -48.117300001,
        "lon": 11.516667,
        "alt": 545.4,
        "geoid_sep": 46.9,
        "speed": 11.524,
        "course": 84.4,
        "mode": 3,
        "quality": "float-rtk",
        "hdop": 0.9,
        "vdop": 1.2,
        "pdop": 1.5,
        "sats": 8,
        "err_h": 1.5,
        "err_v": 2.25,
        "odo": 123_456_789,
        "flags": "jump,date",
        "extra": '{"cpu_temp_C":48.3}',
    }
    assert second["time"] == "9999-12-31T23:59:59.999Z"
    assert second["device"] == "Ω 'quoted'"
    assert second["quality"] == "gps"
    assert [second[name] for name in ("alt", "speed", "sats", "flags", "extra")] == [None] * 5


@pytest.mark.parametrize("stream", [0, 1, -1, -(2**63), 2**63 - 1])
def test_any_stream_is_16_hex_digits(tmp_path: Path, stream: int) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path) as queue:
        queue.shared.store.write(Changes([encode(1, stream, 1, "a", fix_at())]))
        assert select_elsewhere(path)[0]["stream"] == f"{stream % 2**64:016x}"


def test_states_and_reasons_are_seen_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path) as queue:
        for second in range(5):
            queue.put(fix_at(second), "a")
        batch = queue.lease(2, live_first=False)
        assert batch is not None
        queue.ack(batch, rejected={2: "too old"})
        batch = queue.lease(2, live_first=False)
        assert batch is not None
        queue.release(batch, answered=False)
        seen = [(row["seq"], row["state"], row["reason"]) for row in select_elsewhere(path)]
    assert seen == [(1, 5, None), (2, 9, "too old"), (3, 2, None), (4, 2, None), (5, 1, None)]
    assert [int(s) for s in State if s > 0] == [1, 2, 5, 9]


def test_pragmas_are_set_and_the_file_is_not_for_all_to_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "queue.db"
    with AckQueue(path) as queue:
        queue.put(fix_at(), "a")
        queue.commit()

        def pragma(name: str) -> object:
            return queue.shared.store._connection.execute(f"PRAGMA {name}").fetchone()[0]

        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2
        assert pragma("secure_delete") == 1
        assert pragma("wal_autocheckpoint") == 200
        for end in ("", "-wal", "-shm", ".lock"):
            mode = path.with_name(path.name + end).stat().st_mode
            assert stat.S_IMODE(mode) & 0o007 == 0, end


def test_a_start_that_was_cut_off_is_made_good(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.touch()
    with AckQueue(path) as queue:
        queue.put(fix_at(), "a")
    with AckQueue(path) as queue:
        assert queue.stats().ready == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        AckQueue(tmp_path / "file" / "queue.db")


@pytest.mark.parametrize("version", OLDER)
def test_a_file_of_an_older_schema_goes_on_with_what_it_holds(tmp_path: Path, version: int) -> None:
    path = tmp_path / "queue.db"
    make_older(path, version)
    content = path.read_bytes()
    (*_, found) = verify_at_rest(path, path)
    assert (found["sound"], found["damaged"], found["missing"]) == (True, 0, 0)
    assert path.read_bytes() == content
    extra = '{"door":0}'
    with AckQueue(path) as queue:
        assert queue.stats().lost == {"damaged": 1}
        assert queue.stats().acked == 2
        queue.put(fix_at(7, extra='{"door":1}'), "van")
        queue.commit()
        rows = [(row["seq"], row["extra"]) for row in select_elsewhere(path)]
        assert rows == [*((number, extra) for number in (1, 2, 4, 5, 6)), (1, '{"door":1}')]
        first, second = (queue.lease(9, live_first=False) for _ in range(2))
        assert first is not None
        assert second is not None
        assert [record.fix for record in first.records] == [
            fix_at(n, extra=extra) for n in (4, 5, 6)
        ]
        assert second.records[0].fix.extra == '{"door":1}'
    assert not list(tmp_path.glob("*damaged*"))


@pytest.mark.parametrize("version", OLDER)
def test_a_damaged_file_of_an_older_schema_is_carried_over(tmp_path: Path, version: int) -> None:
    path = tmp_path / "queue.db"
    make_older(path, version)
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        carry_over(queue)
        stats = queue.stats()
        assert (stats.ready, stats.acked, stats.lost) == (3, 2, {"damaged": 1})
        batch = queue.lease(9, live_first=False)
        assert batch is not None
        assert [(record.stream, record.seq) for record in batch.records] == [
            (f"{7:016x}", number) for number in (4, 5, 6)
        ]


def test_a_damaged_file_whose_rows_are_older_than_a_column_is_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path) as queue:
        for second in (1, 2, 3):
            queue.put(fix_at(second), "van")
    with closing(connect(path)) as file:  # as a migration that adds the column leaves it
        file.execute("DROP VIEW fixes")
        file.execute("ALTER TABLE fix DROP COLUMN extra")
        file.execute("ALTER TABLE fix ADD COLUMN extra TEXT")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage.damage(path, damage.header)
    with AckQueue(path) as queue:
        carry_over(queue)
        batch = queue.lease(9, live_first=False)
        assert batch is not None
        assert [record.fix for record in batch.records] == [fix_at(n) for n in (1, 2, 3)]


@pytest.mark.parametrize("damage", ["'{\"door\":0}'", "NULL", "x'00'"])
def test_what_changed_in_an_attribute_is_found(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path) as queue:
        for second in (1, 2):
            queue.put(fix_at(second, extra='{"door":1}'), "van")
    with closing(connect(path)) as file:
        file.execute(f"UPDATE fix SET extra = {damage} WHERE id = 1")
    with AckQueue(path) as queue:
        batch = queue.lease(9, live_first=False)
        assert batch is not None
        assert [record.seq for record in batch.records] == [2]
        assert sum(queue.stats().lost.values()) == 1


def test_the_name_of_each_new_folder_is_on_disk_before_what_lies_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one/two/queue.db"
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(schema, "sync_directory", lambda at: synced.append((at, path.exists())))
    with AckQueue(path):
        pass
    folders = [(tmp_path, False), (tmp_path / "one", False), (path.parent, True)]
    assert list(dict.fromkeys(synced)) == folders
