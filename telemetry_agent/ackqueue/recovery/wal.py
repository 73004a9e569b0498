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
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

Pair = tuple[int, int]

_SECTOR_BYTES = 512
_ENDLESS = 1 << 32
_HEADER_BYTES = 32
_FRAME = struct.Struct(">6I")  # page, pages after a commit, salt, salt, checksum, checksum
_MAGIC = 0x377F0682 + (sys.byteorder == "big")  # the checksums take the words in that order
_PAGE_SIZES = {1 << power for power in range(9, 17)}


class _Header(NamedTuple):
    page_bytes: int
    salt: Pair
    checksum: Pair


class _Frame(NamedTuple):
    """One page as a commit left it."""

    offset: int
    of_round: bool
    """It has the salt of the round."""
    chained: bool
    """It is of this round, and its checksum continues that of the frame before."""
    ends_commit: bool

    @property
    def head_is_untorn(self) -> bool:
        """It lies in one sector."""
        last = self.offset + _FRAME.size - 1
        return self.offset // _SECTOR_BYTES == last // _SECTOR_BYTES


@dataclass(frozen=True)
class Log:
    """The frames of the round that the log is in. Its own size does not grow with their number."""

    page_bytes: int
    frames: int
    """How many there are."""
    taken: int = 0
    """How many of them SQLite takes."""
    damaged: bool = False
    """Some that it does not take were safe on the disk once, and others follow."""
    end_is_lost: bool = False
    """The last ones that were safe on the disk are missing."""
    headless: bool = False
    """The header is missing, so the age of these frames is unknown. Their rows are still valid."""
    stretches: tuple[Pair, ...] = ((0, _HEADER_BYTES),)
    """Frames follow each other from this place, at this offset, until bytes came or went."""

    def page(self, log: BinaryIO, place: int) -> int:
        """The number of the page that the frame at this place holds."""
        return int.from_bytes(os.pread(log.fileno(), 4, self._offset(place)))

    def content(self, log: BinaryIO, place: int) -> bytes:
        """The page that the frame at this place holds."""
        return os.pread(log.fileno(), self.page_bytes, self._offset(place) + _FRAME.size)

    def _offset(self, place: int) -> int:
        first, offset = self.stretches[bisect_right(self.stretches, (place, _ENDLESS)) - 1]
        return offset + (place - first) * (_FRAME.size + self.page_bytes)


def read_log(path: Path, page_bytes: int) -> Log:
    """Read the log at ``path``; a missing one is empty.

    Args:
        path: No open database's: to close a file drops the locks that SQLite has on it.
        page_bytes: The size of a page, where the log does not say it.

    Raises:
        OSError: It cannot be read.
    """
    safe, salt = _index(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return Log(page_bytes, 0, end_is_lost=safe > 0)
    with file:
        sound = header = _header(file.read(_HEADER_BYTES))
        if header is None and salt != (0, 0):  # the index knows the round
            header = _Header(page_bytes, salt, (0, 0))
        if header is not None:
            log = _judge(file, header, safe if salt in {header.salt, (0, 0)} else 0)
            if sound is not None:
                return log
            if log.frames:  # a header lies in one sector: it was not torn, so it is damaged
                return replace(log, taken=0, damaged=True)
        frames = (os.fstat(file.fileno()).st_size - _HEADER_BYTES) // (_FRAME.size + page_bytes)
    return Log(page_bytes, max(0, frames), end_is_lost=safe > 0, headless=True)


def _judge(file: BinaryIO, header: _Header, safe: int) -> Log:
    """What SQLite takes of the log, and whether the rest was torn or damaged.

    Args:
        file: The log.
        header: Its header.
        safe: How many frames were safe on the disk; 0: unknown.
    """
    frames = taken = 0
    as_written = True  # all up to here: nothing is wrong, and no bytes came or went
    damaged = safe_one_is_wrong = end_is_there = False
    stretches = [(0, _HEADER_BYTES)]
    size = _FRAME.size + header.page_bytes
    for place, frame in enumerate(_frames(file, header)):
        first, offset = stretches[-1]
        if frame.offset != offset + (place - first) * size:
            stretches.append((place, frame.offset))
        as_written = as_written and frame.chained and len(stretches) == 1
        if as_written and frame.ends_commit:
            taken = place + 1
        damaged |= safe_one_is_wrong and frame.chained
        safe_one_is_wrong = (
            not as_written
            and frame.of_round
            and frame.ends_commit
            and (frame.chained or frame.head_is_untorn)
        )
        if frame.of_round:
            frames = place + 1
        if place == safe - 1:
            end_is_there = frame.chained
    end_is_lost = safe > 0 and not end_is_there
    return Log(header.page_bytes, frames, taken, damaged, end_is_lost, stretches=tuple(stretches))


def _frames(file: BinaryIO, header: _Header) -> Iterator[_Frame]:
    """Each frame where it should be; where bytes came or went, the salt shows the next one."""
    end = os.fstat(file.fileno()).st_size
    size = _FRAME.size + header.page_bytes
    mark = struct.pack(">2I", *header.salt)
    at, seed = _HEADER_BYTES, header.checksum
    while at + size <= end:
        # With as much of the next one as a salt that begins in this one can reach into.
        data = os.pread(file.fileno(), size + 2 * len(mark) - 1, at)
        if len(data) < size:  # an agent began to use the log, and cut it
            return
        _, pages, *salt, first, second = _FRAME.unpack_from(data)
        of_round = header.salt == (salt[0], salt[1])
        if not of_round and (ahead := data.find(mark) - 8) > 0:
            at += ahead
            continue
        chained = (
            of_round
            # The checksum takes its time, so last.
            and (first, second) == _sum(data[_FRAME.size : size], _sum(data[:8], seed))
        )
        seed = first, second
        yield _Frame(at, of_round, chained, pages > 0)
        at += size


def _index(path: Path) -> tuple[int, Pair]:
    """How many frames were committed, and the salt of their round, by the index.

    0: unknown. An index that is damaged in both copies of its head counts more than there can be.
    """
    try:
        data = path.with_name(path.name.removesuffix("-wal") + "-shm").read_bytes()
    except OSError:
        return 0, (0, 0)
    for head in (data[:48], data[48:96]):
        if len(head) == 48:
            words = struct.unpack("=12I", head)
            if any(words) and _sum(head[:40], (0, 0)) == words[10:12]:
                salt, salt_2 = struct.unpack(">2I", head[32:40])
                return words[4], (salt, salt_2)
    return (_ENDLESS if any(data[:96]) or 0 < len(data) < 96 else 0), (0, 0)


def _header(data: bytes) -> _Header | None:
    """``None``: it is not as it was written."""
    if len(data) < _HEADER_BYTES:
        return None
    magic, _, page_bytes, _, salt, salt_2, first, second = struct.unpack(">8I", data)
    if magic != _MAGIC or page_bytes not in _PAGE_SIZES:
        return None
    header = _Header(page_bytes, (salt, salt_2), (first, second))
    return header if _sum(data[:24], (0, 0)) == header.checksum else None


def _sum(data: bytes, seed: Pair) -> Pair:
    first, second = seed
    words = struct.unpack(f"={len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        first = (first + words[place] + second) & 0xFFFF_FFFF
        second = (second + words[place + 1] + first) & 0xFFFF_FFFF
    return first, second
