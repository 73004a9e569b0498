"""An offline map on the device: a PMTiles file of vector tiles, read in ranges.

It is opened once, checked, and read through that one descriptor, so it cannot be replaced between
check and use. Another file under the same name is used after the next start or reload.

Source: PMTiles specification, version 3.
"""

import html
import json
import os
import re
import stat
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

from telemetry_agent.errors import ConfigError, StorageError
from telemetry_agent.small_files import answered

_HEADER_BYTES = 127
_NONE, _GZIP = 1, 2
_VECTOR = 1
_LARGEST_METADATA_BYTES = 1 << 20
LARGEST_RANGE_BYTES = 8 << 20
_HOW = "cut one with `pmtiles extract`: docs/page.md"


class MapFile(NamedTuple):
    """A checked file."""

    descriptor: int
    size: int
    tag: str
    credit: str
    """The attribution that the file holds, as text."""
    deepest: int
    """The highest zoom level of its tiles."""

    def read(self, begin: int, end: int) -> bytes:
        """The bytes from ``begin`` to before ``end``. Any thread may read.

        Raises:
            StorageError: the disk refuses, or the file has become shorter.
        """
        try:
            data = os.pread(self.descriptor, end - begin, begin)
        except OSError as error:
            raise StorageError(f"cannot read the map: {error.strerror}") from error
        if len(data) < end - begin:
            raise StorageError("cannot read the map: it has become shorter")
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def open_map(path: Path) -> MapFile:
    """Open and check it.

    Raises:
        ConfigError: it cannot be read, or the page cannot show it.
    """
    try:
        return answered(path, partial(_opened, path))
    except OSError as error:
        raise ConfigError(f"page.map: cannot read {path}: {error.strerror}") from error


def _opened(path: Path) -> MapFile:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return _checked(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _checked(path: Path, descriptor: int) -> MapFile:
    known = os.fstat(descriptor)
    if not stat.S_ISREG(known.st_mode):
        raise ConfigError(f"page.map: {path} is not a regular file")
    head = os.pread(descriptor, _HEADER_BYTES, 0)
    if len(head) < _HEADER_BYTES or not head.startswith(b"PMTiles"):
        raise ConfigError(f"page.map: {path} is not a PMTiles file: {_HOW}")
    (version,) = struct.unpack_from("<B", head, 7)
    places = struct.unpack_from("<8Q", head, 8)
    packing, tile_packing, kind, _, deepest = struct.unpack_from("<5B", head, 97)
    # Root directory, metadata, leaf directories, tiles: each as offset and length.
    end = max(offset + length for offset, length in zip(places[::2], places[1::2], strict=True))
    for is_wrong, says in (
        (version != 3, f"is PMTiles version {version}, not 3: {_HOW}"),
        (kind != _VECTOR, f"holds pictures, not vector tiles: {_HOW}"),
        (
            not {packing, tile_packing} <= {_NONE, _GZIP},
            f"is compressed otherwise than by gzip: {_HOW}",
        ),
        (end > known.st_size, "is cut off: copy it again"),
    ):
        if is_wrong:
            raise ConfigError(f"page.map: {path} {says}")
    return MapFile(
        descriptor,
        known.st_size,
        f'"{known.st_mtime_ns:x}-{known.st_size:x}"',
        _credit(descriptor, places[2], places[3], packed=packing == _GZIP),
        deepest,
    )


def _credit(descriptor: int, offset: int, length: int, *, packed: bool) -> str:
    """The attribution without its HTML: a file must not write into the page."""
    data = os.pread(descriptor, min(length, _LARGEST_METADATA_BYTES), offset)
    try:
        if packed:
            data = zlib.decompressobj(wbits=31).decompress(data, _LARGEST_METADATA_BYTES)
        credit = json.loads(data).get("attribution", "")
    except (zlib.error, ValueError, RecursionError, AttributeError):
        return ""
    if not isinstance(credit, str):
        return ""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", credit)).split())[:300]


def asked_range(header: str, size: int) -> tuple[int, int] | None:
    """Begin and end of a ``Range`` of one part; ``None``: it is another kind, or too large."""
    found = re.fullmatch(r"bytes=(\d{1,18})-(\d{1,18})", header.strip())
    if found is None:
        return None
    begin, end = int(found[1]), min(int(found[2]) + 1, size)
    return (begin, end) if begin < end <= begin + LARGEST_RANGE_BYTES else None
