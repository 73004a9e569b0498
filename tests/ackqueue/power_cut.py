"""The possible contents of a disk after a power cut.

The model: a sync of a file makes its content safe, and a sync of its folder makes its name safe.
Every later change is kept, dropped, or torn. In a torn write, each sector of 512 bytes
independently has the new content, the old content, or garbage. A rename happens completely or not
at all. A failed sync makes nothing safe, and neither does the next one: the kernel may have
forgotten the pages. A write damages no byte outside its own range (SQLite also assumes this
power-safe overwrite).
"""

import random
from dataclasses import dataclass, field

from ackqueue.recorded_disk import Op

_SECTOR = 512


@dataclass
class _Change:
    op: Op
    safe: bool = False
    doomed: bool = False
    """A sync of it failed, so no later sync makes it safe."""


@dataclass
class _Content:
    """A file without its name."""

    safe: bytearray = field(default_factory=bytearray)
    changes: list[_Change] = field(default_factory=list)

    def sync(self, *, failed: bool) -> None:
        for change in self.changes:
            if failed:
                change.doomed |= not change.safe
            else:
                change.safe |= not change.doomed
        if not any(change.doomed for change in self.changes):
            self._settle()

    def _settle(self) -> None:
        for change in self.changes:
            _apply(self.safe, change.op)
        self.changes.clear()

    def after_cut(self, draw: random.Random, keep: float, tear: float, garbage: float) -> bytes:
        data = bytearray(self.safe)
        for change in self.changes:
            if change.safe:
                _apply(data, change.op)
            elif change.op.kind == "write" and draw.random() < tear:
                _apply_torn(data, change.op, draw, keep, garbage)
            elif draw.random() < keep:
                _apply(data, change.op)
        return bytes(data)


class Platter:
    """A disk on which the log is replayed."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        """Start with these files, all of them safe."""
        self._names = {name: _Content(bytearray(data)) for name, data in (files or {}).items()}
        self._safe_names = dict(self._names)
        self._folder: list[tuple[Op, _Content]] = []
        """Changes to names since the last sync of the folder."""

    def play(self, op: Op) -> None:
        """Apply the next operation."""
        match op.kind:
            case "create" | "rename" | "delete":
                content = _Content() if op.kind == "create" else self._names[op.file]
                self._folder.append((op, content))
                _apply_to_folder(self._names, op, content)
            case "sync folder":
                self._safe_names = dict(self._names)
                self._folder.clear()
            case "sync" | "failed sync":
                self._names[op.file].sync(failed=op.kind == "failed sync")
            case "write" | "truncate":
                self._names[op.file].changes.append(_Change(op))

    def cut(self, draw: random.Random) -> dict[str, bytes]:
        """The files as they may be after a power cut now."""
        keep = draw.choice((0.0, 0.5, 0.9, 1.0))
        tear, garbage = draw.choice(((0.0, 0.0), (0.5, 0.0), (0.5, 0.3)))
        names = dict(self._safe_names)
        for op, content in self._folder:
            if draw.random() < keep:
                _apply_to_folder(names, op, content)
        return {
            name: content.after_cut(draw, keep, tear, garbage)
            for name, content in sorted(names.items())
        }


def _apply_to_folder(names: dict[str, _Content], op: Op, content: _Content) -> None:
    """Apply this change, although earlier changes may not have reached the disk."""
    if op.kind == "create":
        names[op.file] = content
    elif names.get(op.file) is content:
        del names[op.file]
        if op.kind == "rename":
            names[op.to] = content


def _apply(data: bytearray, op: Op) -> None:
    if op.kind == "truncate":
        del data[op.offset :]
    elif op.offset > len(data):
        data.extend(bytes(op.offset - len(data)))
    if op.kind == "write":
        data[op.offset : op.offset + len(op.data)] = op.data


def _apply_torn(data: bytearray, op: Op, draw: random.Random, keep: float, garbage: float) -> None:
    end = op.offset + len(op.data)
    start = op.offset
    while start < end:
        stop = min(end, (start // _SECTOR + 1) * _SECTOR)
        if draw.random() < garbage:
            _apply(data, Op("write", op.file, start, draw.randbytes(stop - start)))
        elif draw.random() < keep:
            part = op.data[start - op.offset : stop - op.offset]
            _apply(data, Op("write", op.file, start, part))
        start = stop
