"""The log of a database (``PATH-wal``): what it holds, and whether that is what was written.

SQLite appends each commit to the log as frames, one page each, and chains their checksums. When it
opens the file it takes the frames up to the first whose checksum is wrong: what follows it takes
for the torn end of a commit that the power cut. So a flipped bit in the middle drops every commit
after it, without a word.

The two can be told apart. A commit is synced before the next one begins, so a power cut tears the
last one only. Where a commit ends at the first wrong frame or behind it, and the next one is
chained to that, the frame was safe on the disk once, and is damaged. (The head of a frame tells
whether it ends a commit. It can be trusted if the frame is whole, or if it lies in one sector, for
a sector is not torn: then it is of this round, or all of it is not.)

The log is used again from its start when all of it was copied back. The frames of one such round
share a salt; those behind them are of an earlier round and mean nothing.

What the chain cannot show (a log that was cut short, an end that is damaged) the index of the log
shows, which SQLite keeps beside it (``PATH-shm``): it counts the frames that are safe. It is never
ahead of the disk, because a commit is synced first.
"""

import os
import struct
import sys
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple

from telemetry_agent.ackqueue.file.schema import PAGE_BYTES, index_of, log_of

Pair = tuple[int, int]

_SECTOR_BYTES = 512
_HEADER_BYTES = 32
_HEAD = struct.Struct(">6I")  # page, pages after a commit, salt, salt, checksum, checksum
_FRAME_BYTES = _HEAD.size + PAGE_BYTES
_MAGIC = 0x377F0682 + (sys.byteorder == "big")  # the checksums take the words in that order


class Log(NamedTuple):
    """The frames of the round that the log is in."""

    frames: int = 0
    """How many there are. Some at the end can be those of a torn commit."""
    damage: str | None = None
    """Why the queue is to be set aside: some that were safe on the disk once SQLite would drop."""
    end_is_lost: bool = False
    """The last ones that were safe on the disk are missing. Then the newest rows of the file can be
    in no tree of it: SQLite would write over their pages, and new rows would get their numbers."""
    headless: bool = False
    """Their round is unknown, and so is their age. Their rows are still valid."""


def without_end(path: Path) -> str:
    """Why a queue is to be set aside that has lost the end of its log."""
    return f"the queue {path} has lost the end of its log"


def page_of(log: BinaryIO, frame: int) -> int:
    """The number of the page that this frame holds."""
    return int.from_bytes(_read(log, frame, 4))


def content_of(log: BinaryIO, frame: int) -> bytes:
    """The page that this frame holds."""
    return _read(log, frame)[_HEAD.size :]


def read_log(path: Path) -> Log:
    """Read the log of the queue at ``path``; a missing one is empty.

    Args:
        path: No open database: to close a file drops the locks that SQLite has on it.

    Raises:
        OSError: It cannot be read.
    """
    safe, salt = _index(path)
    try:
        file = log_of(path).open("rb")
    except FileNotFoundError:
        return Log(end_is_lost=safe > 0)
    with file:
        header = _header(file.read(_HEADER_BYTES))
        if header is not None and header[0] != salt:  # the index is of another round, or missing
            safe, salt = 0, header[0]
        if salt is None:
            size = os.fstat(file.fileno()).st_size
            places = range((size - _HEADER_BYTES) // _FRAME_BYTES)
            # A power cut can leave zeros for what was never synced.
            written = [place + 1 for place in places if any(_read(file, place, _HEAD.size))]
            log = Log(max(written, default=0), headless=True)
        else:
            log = _judge(file, path, salt, header and header[1], safe)
    if not log.frames:
        return log
    if header is None:  # it lies in one sector: it was not torn, so it is damaged
        log = log._replace(damage=f"the log of the queue {path} is damaged")
    if not path.exists() or path.stat().st_size < PAGE_BYTES:  # SQLite would delete the log
        log = log._replace(damage=f"the queue {path} is empty, but its log is not")
    return log


def _judge(file: BinaryIO, path: Path, salt: Pair, seed: Pair | None, safe: int) -> Log:
    """Find out whether all frames are as they were written, and whether others were ever safe.

    Args:
        file: The log.
        path: Of its queue.
        salt: Of its round.
        seed: The checksum that its chain begins with, if that is known.
        safe: How many frames were safe on the disk; 0: unknown.
    """
    frames = 0
    as_written = True  # all up to here
    damaged = safe_one_is_wrong = end_is_there = are_shifted = False
    mark = struct.pack(">2I", *salt)
    for place in count():
        # With as much of the next place as a moved mark that begins in this one can reach into.
        data = _read(file, place, _FRAME_BYTES + len(mark) - 1)
        if len(data) < _FRAME_BYTES:  # also where an agent began to use the log, and cut it
            break
        _, pages, salt_1, salt_2, sum_1, sum_2 = _HEAD.unpack_from(data)
        of_round = (salt_1, salt_2) == salt
        chained = (
            of_round
            and seed is not None
            # The checksum takes its time, so last.
            and (sum_1, sum_2) == _sum(data[_HEAD.size : _FRAME_BYTES], _sum(data[:8], seed))
        )
        seed = sum_1, sum_2
        as_written = as_written and chained
        damaged |= (safe_one_is_wrong and chained) or (place < safe and not as_written)
        head_is_untorn = _offset(place) % _SECTOR_BYTES <= _SECTOR_BYTES - _HEAD.size
        safe_one_is_wrong = (
            not as_written and of_round and pages > 0 and (chained or head_is_untorn)
        )
        if of_round:
            frames = place + 1
        elif mark in data:  # bytes came or went
            are_shifted = True
        if place == safe - 1:
            end_is_there = chained
    why = f"the log of the queue {path} is damaged" if damaged or are_shifted else None
    return Log(frames, why, end_is_lost=are_shifted or (safe > 0 and not end_is_there))


def _index(path: Path) -> tuple[int, Pair | None]:
    """How many frames were committed, and the salt of their round; ``(0, None)``: unknown."""
    try:
        with index_of(path).open("rb") as index:
            data = index.read(96)
    except OSError:
        return 0, None
    for head in (data[:48], data[48:96]):
        if len(head) == 48 and any(head):
            words = struct.unpack("=12I", head)
            if _sum(head[:40], (0, 0)) == words[10:12]:
                salt_1, salt_2 = struct.unpack(">2I", head[32:40])
                return words[4], (salt_1, salt_2)
    return 0, None


def _header(data: bytes) -> tuple[Pair, Pair] | None:
    """The salt of the round, and a checksum; ``None``: it is not as it was written."""
    if len(data) < _HEADER_BYTES:
        return None
    magic, _, page_bytes, _, salt_1, salt_2, *sums = struct.unpack(">8I", data)
    checksum = _sum(data[:24], (0, 0))
    if (magic, page_bytes, *sums) != (_MAGIC, PAGE_BYTES, *checksum):
        return None
    return (salt_1, salt_2), checksum


def _read(log: BinaryIO, frame: int, size: int = _FRAME_BYTES) -> bytes:
    return os.pread(log.fileno(), size, _offset(frame))


def _offset(frame: int) -> int:
    return _HEADER_BYTES + frame * _FRAME_BYTES


def _sum(data: bytes, seed: Pair) -> Pair:
    first, second = seed
    words = struct.unpack(f"={len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        first = (first + words[place] + second) & 0xFFFF_FFFF
        second = (second + words[place + 1] + first) & 0xFFFF_FFFF
    return first, second
