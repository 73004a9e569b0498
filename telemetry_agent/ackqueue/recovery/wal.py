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

What the chain cannot show (a log that was cut short, an end that is damaged) the index of the log
shows, which SQLite keeps beside it (``PATH-shm``): it counts the frames that are safe. It is never
ahead of the disk, because a commit is synced first.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

Pair = tuple[int, int]

_SECTOR_BYTES = 512
_ENDLESS = 1 << 32
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
    in_place: bool
    """No bytes came or went before it."""

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
    """Some that it does not take were safe on the disk once, and others follow."""
    end_is_lost: bool = False
    """The last ones that were safe on the disk are not there any more."""
    headless: bool = False
    """The header is missing, so the age of these frames is unknown. Their rows are still valid."""


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
        return Log(page_bytes, [], 0, damaged=False, end_is_lost=_index(path)[0] > 0)
    with file:
        data = file.read()
    safe, salt = _index(path)
    sound = _header(data[:32])
    header = sound or _mended(data[:32], data[40:48])
    if header is None and salt != (0, 0) and struct.pack(">2I", *salt) in data:
        header = _Header(_LITTLE_ENDIAN_SUMS, 0, page_bytes, 0, salt, (0, 0))  # the index knows it
        damaged = True
    elif header is None:
        frames = list(_frames(data, None, page_bytes))
        return Log(page_bytes, frames, 0, damaged=False, end_is_lost=safe > 0, headless=True)
    else:
        damaged = False
        page_bytes = header.page_bytes
    frames = list(_frames(data, header, page_bytes))
    of_round = [place for place, frame in enumerate(frames) if frame.salt == header.salt]
    frames = frames[: max(of_round, default=-1) + 1]
    whole = [frame.chained for frame in frames]
    as_written = [frame.chained and frame.in_place for frame in frames]
    wrong = as_written.index(False) if False in as_written else len(frames)
    safe = safe if salt in {header.salt, (0, 0)} else 0
    end_is_lost = safe > len(frames) or (safe > 0 and not whole[safe - 1])
    if sound is None:
        damaged |= any(
            frame.commit and is_whole for frame, is_whole in zip(frames, whole, strict=True)
        )
        return Log(page_bytes, frames, 0, damaged, end_is_lost)
    taken = max((place + 1 for place in range(wrong) if frames[place].commit), default=0)
    damaged = any(
        frame.commit
        and frame.salt == header.salt
        and (whole[place] or frame.head_is_untorn)
        and follows
        for place, (frame, follows) in enumerate(zip(frames, whole[1:], strict=False))
        if place >= wrong
    )
    return Log(page_bytes, frames, taken, damaged, end_is_lost)


def _frames(data: bytes, header: _Header | None, page_bytes: int) -> Iterator[Frame]:
    """Each frame where it should be; where bytes came or went, the salt shows the next one."""
    seed = header.checksum if header is not None else (0, 0)
    size = _FRAME.size + page_bytes
    mark = struct.pack(">2I", *header.salt) if header is not None else b""
    at, last = 32, data.rfind(mark)  # behind it, all are of earlier rounds
    place = 0
    while at + size <= len(data):
        page, pages, *salt, first, second = _FRAME.unpack_from(data, at)
        is_of_round = header is not None and header.salt == (salt[0], salt[1])
        if header is not None and not is_of_round and at < last:
            following = data.find(mark, at) - 8
            if at < following < at + size:
                at = following
                continue
        chained = (  # the checksum takes its time, so last
            header is not None
            and is_of_round
            and (first, second)
            == _sum(
                data[at + _FRAME.size : at + size],
                _sum(data[at : at + 8], seed, header.order),
                header.order,
            )
        )
        seed = first, second
        in_place = at == 32 + place * size
        yield Frame(page, pages > 0, (salt[0], salt[1]), chained, at + _FRAME.size, in_place)
        place += 1
        at += size


def _index(path: Path) -> tuple[int, Pair]:
    """How many frames were committed, and the salt of their round, by the index.

    0: unknown. An index that is damaged in both copies of its head counts more than there can be.
    """
    try:
        data = path.with_name(path.name.removesuffix("-wal") + "-shm").read_bytes()
    except OSError:
        return 0, (0, 0)
    for head, order in product((data[:48], data[48:96]), "<>"):
        if len(head) == 48:
            words = struct.unpack(f"{order}12I", head)
            if any(words) and _sum(head[:40], (0, 0), order) == words[10:12]:
                salt, salt_2 = struct.unpack(">2I", head[32:40])
                return words[4], (salt, salt_2)
    return (_ENDLESS if any(data[:96]) or 0 < len(data) < 96 else 0), (0, 0)


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
