"""Queue files as older releases wrote them, one for each older schema version."""

import zlib
from contextlib import closing
from pathlib import Path

from ackqueue.queue_parts import fix_at

from telemetry_agent.ackqueue.file.rows import COLUMNS, encode
from telemetry_agent.ackqueue.file.schema import _MIGRATIONS, APPLICATION_ID, connect

OLDER = range(4, len(_MIGRATIONS))
"""The older versions of the schema; the first release has version 4."""
_COLUMNS = COLUMNS.index("extra") + 1
"""The number of columns in the schema versions 4 and 5. Later versions add columns at the end."""


def make_older(path: Path, version: int) -> None:
    """Write rows 1 to 6 as that version did: rows 1 and 2 are delivered, row 3 is damaged."""
    rows = [
        encode(number, 7, number, "van", fix_at(number, extra='{"door":0}'))[:_COLUMNS]
        for number in (1, 2, 4, 5, 6)
    ]
    path.touch()
    with closing(connect(path)) as file:
        file.execute("PRAGMA page_size = 512")
        file.execute("PRAGMA journal_mode = WAL")
        for statement in (statement for step in _MIGRATIONS[:version] for statement in step):
            file.execute(statement)
        file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        file.execute(f"PRAGMA user_version = {version}")
        file.executemany(f"INSERT INTO fix VALUES ({', '.join('?' * len(rows[0]))})", rows)
        for lo, hi, state, reason in ((1, 2, 5, None), (3, 3, 0, "damaged")):
            crc = zlib.crc32(f"{lo} {hi} {state} {reason} None".encode())
            mark = (lo, hi, state, reason, crc)
            file.execute("INSERT INTO mark VALUES (?, ?, ?, ?, NULL, ?)", mark)
