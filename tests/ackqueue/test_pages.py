"""The page scanner on pages that SQLite has written."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry_agent.ackqueue.recovery.pages import leaf_records

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, -1, 127, 128, 2**15, -(2**23), 2**31, 2**47, -(2**47) - 1]),
    st.text(max_size=40),
    st.binary(max_size=40),
)
LONG = st.integers(400, 3000).map(lambda size: "long " * (size // 5))
ROWS = st.dictionaries(
    st.integers(-(2**63), 2**63 - 1) | st.integers(1, 300),
    st.tuples(VALUES, VALUES, VALUES | LONG),
    min_size=1,
    max_size=60,
)


def scan(data: bytes, page_bytes: int) -> dict[int, tuple[object, ...]]:
    def read(number: int) -> bytes | None:
        page = data[(number - 1) * page_bytes : number * page_bytes]
        return page or None

    found: dict[int, tuple[object, ...]] = {}
    for number in range(1, len(data) // page_bytes + 1):
        for row, values in leaf_records(read(number) or b"", read):
            if len(values) == 4:
                found[row] = tuple(values[1:])
    return found


def write(path: Path, rows: Mapping[int, tuple[object, ...]], page_bytes: int) -> bytes:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA page_size = {page_bytes}")
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c)")
        database.executemany(
            "INSERT INTO t VALUES (?, ?, ?, ?)", [(row, *values) for row, values in rows.items()]
        )
        database.commit()
    return path.read_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scan") / "rows.db"


@settings(max_examples=settings().max_examples // 2)
@given(rows=ROWS, page_bytes=st.sampled_from([512, 1024, 4096, 65536]))
def test_all_that_sqlite_wrote_is_found(
    path: Path, rows: dict[int, tuple[object, ...]], page_bytes: int
) -> None:
    assert scan(write(path, rows, page_bytes), page_bytes) == rows


@given(data=st.data())
def test_no_damage_raises_or_makes_it_run_for_ever(path: Path, data: st.DataObject) -> None:
    rows = {n: (n, "x" * (n % 7), "long" * 200 if n % 9 == 0 else None) for n in range(1, 60)}
    if not path.exists() or path.stat().st_size != 16_384:
        write(path, rows, 512)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        start = data.draw(st.integers(0, len(content) - 1))
        damage = data.draw(st.binary(min_size=1, max_size=600))
        content[start : start + len(damage)] = damage[: len(content) - start]
    scan(bytes(content[: data.draw(st.integers(0, len(content)))]), 512)
