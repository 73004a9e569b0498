"""The tables of the queue file, its pragmas, and how it is opened. Each choice with its reason.

``fix`` holds one row per fix, and a row is never updated. Its primary key is the local order of
recording, chosen by the queue, so that a put touches the last page of one tree and no index, and
so that a put whose outcome is unknown can be repeated without storing the fix twice.

``mark`` holds what became of the rows, as ranges of row numbers; a row in no range is ready. So
to acknowledge a batch is, as a rule, to move the end of one range: one page, whatever the batch.

``stream`` holds which row numbers are those of which stream (``streams``).

``fixes`` is a view for people with plain ``sqlite3``: words and units of the documentation.
"""

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from telemetry_agent.ackqueue.file import log_index
from telemetry_agent.ackqueue.file.rows import (
    ALWAYS,
    FIRST,
    FLAGS,
    QUALITIES,
    STREAM_COLUMNS,
)
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.disks import sync_directory
from telemetry_agent.errors import StorageError
from telemetry_agent.fields import FIELDS, Field, outside

Connect = Callable[[Path], sqlite3.Connection]

FAILURES = (OSError, sqlite3.Error, UnicodeError)
"""What goes wrong with a file. (SQLite's messages quote it, and damaged text need not be UTF-8.)"""

_QUALITY_WORDS = " ".join(f"WHEN {code} THEN '{word}'" for code, word in enumerate(QUALITIES))
_FLAG_WORDS = " || ".join(
    f"iif(fix.flags & {1 << place}, '{word},', '')" for place, word in enumerate(FLAGS)
)


def _outside(field: Field) -> str:
    """The SQL for a field in the units of the documentation."""
    match field.kind:
        case "time":  # seconds and milliseconds apart: one floating point number would be rounded
            return (
                "strftime('%Y-%m-%dT%H:%M:%S', fix.time_ms / 1000, 'unixepoch')"
                " || printf('.%03dZ', fix.time_ms % 1000)"
            )
        case "quality":
            return f"CASE fix.quality {_QUALITY_WORDS} END"
        case "flags":
            return f"nullif(rtrim({_FLAG_WORDS}, ','), '')"
        case _:
            return f"fix.{outside(field)}"


class UnusableError(StorageError):
    """The file is damaged, or is not a queue that this version can use: it is to be set aside."""


class NewerError(UnusableError):
    """A newer version has written the file."""


class FullError(StorageError):
    """The disk or a quota is full, or the file may not grow."""


APPLICATION_ID = 0x54414751  # "TAGQ": file(1) and this program know the queue by it

_CREATE = (
    # No AUTOINCREMENT: it costs a second page per commit, and row numbers may come again, for
    # they name nothing outside this file.
    f"""
    CREATE TABLE fix (
        id INTEGER PRIMARY KEY,
        device TEXT NOT NULL,
        {", ".join(f"{name} INTEGER{' NOT NULL' if name in ALWAYS else ''}" for name in FIRST)},
        crc INTEGER NOT NULL,
        extra TEXT
    )
    """,
    # batch: the rows of one batch that got no answer, so that it can be sent again as it was.
    """
    CREATE TABLE mark (
        lo INTEGER PRIMARY KEY,
        hi INTEGER NOT NULL,
        state INTEGER NOT NULL,
        reason TEXT,
        batch INTEGER,
        crc INTEGER NOT NULL
    )
    """,
    f"""
    CREATE VIEW fixes AS SELECT
        printf('%016x', fix.stream) AS stream,
        fix.seq AS seq,
        fix.device AS device,
        coalesce(mark.state, {State.READY:d}) AS state,
        mark.reason AS reason,
        {", ".join(f"{_outside(field)} AS {field.name}" for field in FIELDS)}
    FROM fix LEFT JOIN mark
        ON mark.lo = (SELECT max(lo) FROM mark WHERE lo <= fix.id) AND mark.hi >= fix.id
    WHERE coalesce(mark.state, {State.READY:d}) > 0
    """,  # noqa: S608 - words of ours
)

# No account is given of what a file holds already.
_STREAMS = """
    CREATE TABLE IF NOT EXISTS stream (
        lo INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        first_seq INTEGER NOT NULL,
        reported INTEGER NOT NULL,
        crc INTEGER NOT NULL
    )
    """

_MIGRATIONS = (_CREATE, (), (), (), (_STREAMS,))
"""The statements at place n bring a file from schema version n to n + 1. Version 4 is that of the
first release."""


def is_newer(header: bytes) -> bool:
    """Whether the first 100 bytes of a file are those of a queue of a newer version."""
    version, application_id = (int.from_bytes(header[at : at + 4]) for at in (60, 68))
    return application_id == APPLICATION_ID and version > len(_MIGRATIONS)


PAGE_BYTES = 512

_PRAGMAS = (
    # The unit of every write. A commit of one fix writes one page to the log, and the larger the
    # page, the more often that touches two blocks of the file system. Bytes per fix, one commit
    # each, delivered every 10 s (benchmarks/card.py --choices): 5.5 KB with 512, 6.1 with 1024,
    # 9.4 with 4096, at the same speed. Has an effect only before the first table is made.
    f"PRAGMA page_size = {PAGE_BYTES}",
    # A commit appends to one file and syncs once; readers do not block it.
    "PRAGMA journal_mode = WAL",
    # With less, a power cut undoes commits, and the names of those fixes are already spent.
    "PRAGMA synchronous = FULL",
    # Pages, so 100 KB. The last page of each tree is copied back once for many commits, and the
    # log stays so short that a start after a power cut is immediate. Measured: five times as
    # long a log saves 2 % of the bytes, a quarter of it costs 5 %.
    "PRAGMA wal_autocheckpoint = 200",
    # A log that grew once (a long reader, a big group) shrinks again.
    "PRAGMA journal_size_limit = 1048576",
    # Positions tell where people were: deleted is gone. It also keeps a scan of a damaged file
    # from bringing back what was delivered and deleted. It costs no byte that could be measured.
    "PRAGMA secure_delete = ON",
    # KiB, half of SQLite's own: a start behind many marks leaves it full, and more saves nothing.
    "PRAGMA cache_size = -1000",
    # No temporary file on the card.
    "PRAGMA temp_store = MEMORY",
    # Not auto_vacuum, which gives pages back as they come free: 9.5 KB per fix in the place of 5.5.
    # The file is packed when it has become mostly empty (``bounds``).
)

_text = partial(str, encoding="utf-8", errors="surrogateescape")

# For each absent value sqlite3 looks for an adapter, and where it finds none, it formats a message
# that nobody reads. A fix has ten: that was an eighth of the work of a put.
sqlite3.register_adapter(type(None), lambda absent: absent)


def connect(path: Path | str, *, uri: bool = False) -> sqlite3.Connection:
    """Open an existing file, with transactions begun and ended by the caller alone."""
    connection = sqlite3.connect(path, uri=uri, isolation_level=None, check_same_thread=False)
    connection.text_factory = _text  # a damaged text must not keep others from being read
    return connection


def open_database(path: Path, connect: Connect | None) -> tuple[sqlite3.Connection, ExitStack]:
    """Open the queue file at ``path``; a missing one is made.

    Without ``connect`` it is only looked at: neither the file nor its log changes.

    Returns:
        A connection, and what closes it.

    Raises:
        UnusableError: The file is not a queue of ours, or is damaged.
        StorageError: It cannot be opened.
    """
    try:
        with ExitStack() as stack:
            if connect is None:
                connection, prepare = _connect_read_only(path), _stand_in
                stack.callback(connection.close)
            else:
                if not path.exists():
                    # Before SQLite opens it, so that at no moment every user can read it; SQLite
                    # gives its log and its index the same mode.
                    create_file(path)
                    # A log whose database is not on disk would be taken for that of a lost one.
                    sync_directory(path.parent)
                held = log_index.hold(index_of(path), ballast_of(path))
                stack.callback(os.close, held)
                connection, prepare = connect(path), _prepare
                stack.callback(connection.close)
                stack.callback(log_index.let_go, held)
            prepare(connection, path)
            return connection, stack.pop_all()
    except FAILURES as error:
        raise storage_error(f"cannot open the queue {path}", error, opening=True) from error


def _connect_read_only(path: Path) -> sqlite3.Connection:
    # Without a log there is nothing to lock and no index to make. An existing index is not written:
    # where no process uses it, SQLite does not trust it, and makes its own in memory.
    mode = f"readonly_shm={index_of(path).exists():d}" if log_of(path).exists() else "immutable=1"
    return connect(f"{path.absolute().as_uri()}?mode=ro&{mode}", uri=True)


def storage_error(what: str, error: Exception, *, opening: bool = False) -> StorageError:
    """What to raise when the system or SQLite refuses something: one of ``FAILURES``.

    Args:
        what: Could not be done.
        error: Why.
        opening: Whether a file without our tables counts as damaged: at the start.
    """
    make_room = "free 1 MiB there" if opening else ""
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return FullError(f"{what}: {error.strerror}", make_room)
        remedy = ""
        if isinstance(error, PermissionError):
            remedy = "; run it as a user who may write there, or name another queue.path"
        return StorageError(f"{what}: {error.strerror}{remedy}")
    text = f"{what}: {error}"
    match primary_code(error):
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return UnusableError(text)
        case sqlite3.SQLITE_ERROR if opening:
            return UnusableError(text)
        case sqlite3.SQLITE_FULL:
            return FullError(text, make_room)
    return StorageError(text)


def primary_code(error: Exception) -> int:
    """What kind of failure it is, in SQLite's numbers."""
    if isinstance(error, UnicodeError):
        return sqlite3.SQLITE_CORRUPT
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def is_of_the_disk(error: StorageError) -> bool:
    """Whether SQLite got an I/O error: the disk fails, or this file is damaged."""
    cause = error.__cause__
    return isinstance(cause, sqlite3.Error) and primary_code(cause) == sqlite3.SQLITE_IOERR


def place_of(path: Path) -> Path:
    """The file that ``path`` leads to: SQLite puts its log beside that, not beside a symlink."""
    with suppress(OSError, RuntimeError):  # forbidden, or a loop: to open it says so
        if path.is_symlink():
            return path.resolve()
    return path


def make_directories(path: Path) -> None:
    """Make the folders that ``path`` lies in, so that they outlast a power cut.

    Raises:
        StorageError: One cannot be made.
    """
    try:
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_directory(folder.parent)
    except OSError as error:
        raise storage_error(
            f"cannot make the folder {error.filename} for the queue", error
        ) from error


def _check_kind(connection: sqlite3.Connection, path: Path) -> int:
    """Returns the version of its schema, 0 for a new file."""
    application_id, version, tables = (
        int(connection.execute(question).fetchone()[0])
        for question in (
            "PRAGMA application_id",
            "PRAGMA user_version",
            "SELECT count(*) FROM sqlite_master",
        )
    )
    if application_id != APPLICATION_ID and (application_id or version or tables):
        raise UnusableError(f"{path} is a database of another program, not a queue")
    if version > len(_MIGRATIONS):
        raise NewerError(
            f"the queue {path} was written by a newer telemetry-agent (its schema is version "
            f"{version}, this one knows {len(_MIGRATIONS)})"
        )
    return version


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = _check_kind(connection, path)
    for pragma in _PRAGMAS:
        connection.execute(pragma).fetchall()
    if version < len(_MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        connection.execute("COMMIT")
    # A file whose name is not yet on disk is lost with its content at a power cut.
    sync_directory(path.parent)


def _stand_in(connection: sqlite3.Connection, path: Path) -> None:
    """Show an older file, which must not change, with all tables of this version."""
    if _check_kind(connection, path) < len(_MIGRATIONS):
        columns = ", ".join(f"0 AS {name}" for name in STREAM_COLUMNS)
        connection.execute(f"CREATE TEMP VIEW stream AS SELECT {columns} WHERE 0")


def ballast_of(path: Path) -> Path:
    """The file beside the queue that keeps room for a full disk; see ``bounds``."""
    return path.with_name(path.name + ".ballast")


def log_of(path: Path) -> Path:
    """The log (write-ahead log) that SQLite keeps beside a database."""
    return path.with_name(path.name + "-wal")


def index_of(path: Path) -> Path:
    """The index of that log, which SQLite maps into memory."""
    return path.with_name(path.name + "-shm")


def journal_of(path: Path) -> Path:
    """What SQLite takes for changes of the database that it must undo; a queue has none."""
    return path.with_name(path.name + "-journal")


def create_file(path: Path) -> None:
    """Make an empty file that not every user can read."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
