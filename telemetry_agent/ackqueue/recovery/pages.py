"""Rows out of the raw bytes of a database, whatever SQLite thinks of the file.

SQLite finds a row through the header, the schema, the root and the inner pages, and gives up where
one of them is damaged. But each leaf page of a table holds its rows whole, and says so in its first
byte. So every page is read by itself, and what cannot be read is left out. Its own checksum proves
that a row is what was stored.

The format is that of https://www.sqlite.org/fileformat.html. Only leaf pages of tables, and the
overflow pages in which one of their rows continues, are of interest.
"""

import struct
from collections.abc import Callable, Iterator

Record = tuple[int, list[object]]
"""A row's number, and its values; where the number stands for one, that is None."""

_TABLE_LEAF = 13
_LONGEST_BYTES = 1 << 16  # of a record: a damaged length must not lead through the whole file
_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)
_READ_BEYOND = (IndexError, ValueError, struct.error)


def leaf_records(page: bytes, read_page: Callable[[int], bytes | None]) -> Iterator[Record]:
    """The records of a leaf page of a table, those that can be read; of any other page none.

    Args:
        page: its content. (The first of a file begins with the header, and holds only the schema.)
        read_page: another page of the same file, where a long record continues; ``None``: it
            is missing.
    """
    if len(page) < 8 or page[0] != _TABLE_LEAF:
        return
    count = min(int.from_bytes(page[3:5]), (len(page) - 8) // 2)
    for place in range(8, 8 + 2 * count, 2):
        try:
            yield _record(page, int.from_bytes(page[place : place + 2]), read_page)
        except _READ_BEYOND:
            continue


def _record(page: bytes, at: int, read_page: Callable[[int], bytes | None]) -> Record:
    size, at = _varint(page, at)
    row, at = _varint(page, at)
    if size > _LONGEST_BYTES:
        raise ValueError("longer than any row of ours")
    local = _local_bytes(size, len(page))
    payload = page[at : at + local]
    if local < size:
        payload += _overflow(page, at + local, size - local, read_page)
    if len(payload) != size:
        raise ValueError("it ends outside the page")
    return row if row < 1 << 63 else row - (1 << 64), _values(payload)


def _local_bytes(size: int, page_bytes: int) -> int:
    """How much of a record of this size lies in the leaf itself."""
    if size <= page_bytes - 35:
        return size
    least = (page_bytes - 12) * 32 // 255 - 23
    most = least + (size - least) % (page_bytes - 4)
    return most if most <= page_bytes - 35 else least


def _overflow(page: bytes, at: int, size: int, read_page: Callable[[int], bytes | None]) -> bytes:
    found = b""
    (following,) = struct.unpack_from(">I", page, at)
    while len(found) < size:
        beyond = read_page(following) if following else None
        if beyond is None or len(beyond) <= 4:
            raise ValueError("the rest is gone")
        found += beyond[4 : 4 + size - len(found)]
        (following,) = struct.unpack_from(">I", beyond, 0)
    return found


def _values(payload: bytes) -> list[object]:
    end, at = _varint(payload, 0)
    body = end
    values: list[object] = []
    while at < end:
        kind, at = _varint(payload, at)
        if kind >= 12:
            size = (kind - 12) // 2
            content = payload[body : body + size]
            # What is not UTF-8 is kept as it is: the checksum finds it.
            values.append(content.decode(errors="surrogateescape") if kind % 2 else content)
        elif kind in {8, 9}:
            values.append(kind - 8)
            continue
        else:
            size = _INTEGER_BYTES[kind]  # no row of ours has one of another kind
            content = payload[body : body + size]
            values.append(int.from_bytes(content, signed=True) if kind else None)
        body += size
        if body > len(payload):
            raise ValueError("it ends outside the record")
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and the place after it."""
    value = 0
    for place in range(at, at + 8):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
