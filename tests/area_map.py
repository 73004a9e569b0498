"""A small PMTiles file, made by hand: the tiles around one place, each with water and a road."""

import gzip
import itertools
import json
import math
import struct
from pathlib import Path

LAT, LON, DEEPEST = 48.2, 11.3, 10


def tile_of(zoom: int, lat: float, lon: float) -> tuple[int, int]:
    """The column and row in Web Mercator."""
    turn = math.radians(lat)
    y = (1 - math.log(math.tan(turn) + 1 / math.cos(turn)) / math.pi) / 2
    return int((lon + 180) / 360 * 2**zoom), int(y * 2**zoom)


def tile_id(zoom: int, x: int, y: int) -> int:
    """The position on the Hilbert curve, counted after all tiles of lower zooms."""
    number = int((4**zoom - 1) // 3)
    side = 2**zoom >> 1
    while side:
        right, below = int(x & side > 0), int(y & side > 0)
        number += side * side * (3 * right ^ below)
        if not below:
            if right:
                x, y = side - 1 - x, side - 1 - y
            x, y = y, x
        side >>= 1
    return number


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def shape(kind: int, points: list[tuple[int, int]]) -> bytes:
    """A feature: kind 2 is a line, 3 a polygon. Its only attribute ``kind`` has the first value."""
    commands = [1 << 3 | 1]
    at = (0, 0)
    for i, (x, y) in enumerate(points):
        if i == 1:
            commands.append((len(points) - 1) << 3 | 2)
        commands += [(d << 1) ^ (d >> 31) for d in (x - at[0], y - at[1])]
        at = (x, y)
    if kind == 3:
        commands.append(1 << 3 | 7)
    geometry = b"".join(varint(number & 0xFFFFFFFF) for number in commands)
    return field(2, varint(0) + varint(0)) + field(3, kind) + field(4, geometry)


def layer(name: str, kind: str, features: list[bytes]) -> bytes:
    inside = field(1, name.encode()) + b"".join(field(2, feature) for feature in features)
    inside += field(3, b"kind") + field(4, field(1, kind.encode()))
    return field(3, inside + field(5, 4096) + field(15, 2))


def write(path: Path, attribution: str = "<b>made</b> by &copy; nobody<script>x</script>") -> Path:
    """Write a map with land in the west, water in the east and a road between them."""
    everywhere = [(0, 0), (4096, 0), (4096, 4096), (0, 4096)]
    tile = gzip.compress(
        layer("earth", "earth", [shape(3, everywhere)])
        + layer("water", "ocean", [shape(3, [(2300, 0), (4096, 0), (4096, 4096), (2300, 4096)])])
        + layer("roads", "highway", [shape(2, [(2170, 0), (2170, 4096)])])
    )
    # Ids as differences, run lengths, lengths, offsets plus 1: all ids share one tile.
    ids = sorted(tile_id(zoom, *tile_of(zoom, LAT, LON)) for zoom in range(DEEPEST + 1))
    steps = [ids[0], *(b - a for a, b in itertools.pairwise(ids))]
    numbers = [len(ids), *steps, *([1] * len(ids)), *([len(tile)] * len(ids)), *([1] * len(ids))]
    root = gzip.compress(b"".join(map(varint, numbers)))
    about = {"attribution": attribution, "vector_layers": []}
    metadata = gzip.compress(json.dumps(about).encode())
    places: list[int] = []
    at = 127
    for length in (len(root), len(metadata), 0, len(tile)):
        places += [at, length]
        at += length
    head = b"PMTiles\x03" + struct.pack("<8Q3Q", *places, len(ids), len(ids), 1)
    head += bytes([1, 2, 2, 1, 0, DEEPEST])  # clustered, gzip, gzip, vector, zooms
    head += struct.pack("<4i", -1_800_000_000, -850_000_000, 1_800_000_000, 850_000_000)
    head += bytes([0]) + struct.pack("<2i", 0, 0)
    path.write_bytes(head + root + metadata + tile)
    return path
