"""What stands in the log of a database (``PATH-wal``), and whether it is still what was written.

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
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

Pair = tuple[int, int]

_SECTOR_BYTES = 512
_FRAME = struct.Struct(">6I")  # page, pages after a commit, salt, salt, checksum, checksum
_BIG_ENDIAN_SUMS, _LITTLE_ENDIAN_SUMS = 0x377F0683, 0x377F0682
_PAGE_SIZES = {1 << power for power in range(9, 17)}


class _Header(NamedTuple):
    magic: int
    version: int
    page_bytes: int
    round: int
    salt: Pair
    checksum: Pair

    @property
    def order(self) -> str:
        return ">" if self.magic == _BIG_ENDIAN_SUMS else "<"


class Frame(NamedTuple):
    """One page as a commit left it."""

    page: int
    commit: bool
    """The last one of its commit."""
    salt: Pair
    chained: bool
    """It is of this round, and its checksum goes on from that of the frame before."""
    offset: int
    """Where its content begins in the log."""

    @property
    def head_is_untorn(self) -> bool:
        """It lies in one sector."""
        return (self.offset - _FRAME.size) // _SECTOR_BYTES == (self.offset - 1) // _SECTOR_BYTES


@dataclass(frozen=True)
class Log:
    """The frames of the round that the log is in."""

    page_bytes: int
    frames: list[Frame]
    taken: int
    """SQLite takes so many of them."""
    damaged: bool
    """Some that it does not take were safe on the disk once."""


def read_log(path: Path, page_bytes: int) -> Log:
    """Read the log at ``path``; one that is not there is empty.

    Args:
        path: No open database's: to close a file drops the locks that SQLite has on it.
        page_bytes: The size of a page, where the log cannot tell it.

    Raises:
        OSError: It cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return Log(page_bytes, [], 0, damaged=False)
    with file:
        written = file.read(32)
        sound = _header(written)
        header = sound or _mended(written, file.peek(16)[8:16])
        if header is not None:
            page_bytes = header.page_bytes
        frames = list(_frames(file, header, page_bytes))
    if not frames:
        return Log(page_bytes, [], 0, damaged=False)
    salt = header.salt if header is not None else frames[0].salt
    last = max((place for place, frame in enumerate(frames) if frame.salt == salt), default=-1)
    frames = frames[: last + 1]
    whole = [frame.chained for frame in frames]
    wrong = whole.index(False) if False in whole else len(frames)
    if sound is None:
        ends = any(frame.commit and is_whole for frame, is_whole in zip(frames, whole, strict=True))
        return Log(page_bytes, frames, 0, damaged=header is not None and ends)
    taken = max((place + 1 for place in range(wrong) if frames[place].commit), default=0)
    damaged = any(
        frame.commit and frame.salt == salt and (whole[place] or frame.head_is_untorn) and follows
        for place, (frame, follows) in enumerate(zip(frames, whole[1:], strict=False))
        if place >= wrong
    )
    return Log(page_bytes, frames, taken, damaged)


def _frames(file: BufferedReader, header: _Header | None, page_bytes: int) -> Iterator[Frame]:
    seed = header.checksum if header is not None else (0, 0)
    size = _FRAME.size + page_bytes
    for offset in range(32, 1 << 62, size):
        data = file.read(size)
        if len(data) < size:
            return
        page, pages, *salt, first, second = _FRAME.unpack_from(data)
        chained = (  # the checksum takes its time, so last
            header is not None
            and header.salt == (salt[0], salt[1])
            and (first, second)
            == _sum(data[_FRAME.size :], _sum(data[:8], seed, header.order), header.order)
        )
        seed = first, second
        yield Frame(page, pages > 0, (salt[0], salt[1]), chained, offset + _FRAME.size)


def _header(data: bytes) -> _Header | None:
    """``None``: it is not as it was written."""
    if len(data) < 32:
        return None
    magic, version, page_bytes, number, salt, salt_2, first, second = struct.unpack(">8I", data)
    if magic not in {_BIG_ENDIAN_SUMS, _LITTLE_ENDIAN_SUMS} or page_bytes not in _PAGE_SIZES:
        return None
    header = _Header(magic, version, page_bytes, number, (salt, salt_2), (first, second))
    return header if _sum(data[:24], (0, 0), header.order) == header.checksum else None


def _mended(data: bytes, salt: bytes) -> _Header | None:
    """As it was before one bit flipped, if that is what happened to it.

    Args:
        data: The header.
        salt: Of the first frame: the header of its round has the same.
    """
    number = int.from_bytes(data)
    flipped = ((number ^ 1 << bit).to_bytes(len(data)) for bit in range(8 * len(data)))
    return next((h for d in flipped if d[16:24] == salt and (h := _header(d))), None)


def _sum(data: bytes, seed: Pair, order: str) -> Pair:
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for place in range(0, len(words), 2):
        first = (first + words[place] + second) & 0xFFFF_FFFF
        second = (second + words[place + 1] + first) & 0xFFFF_FFFF
    return first, second
