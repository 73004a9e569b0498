"""The user's own attributes: what some files say when a fix is recorded.

Theory of operation. A file of the kernel answers at once, as a rule; a sensor on a slow bus, a pipe
or a dead network file system may not, and no read can be interrupted. So a thread of its own reads.
The reader of positions asks it and waits ``_PATIENCE_S`` at most; what is not there by then is left
out, and while the thread hangs nobody waits for it again. What cannot be read is absent, which is
said once, and once more when it is back.
"""

import json
import logging
import math
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetry_agent.fields import LATER_FIELDS
from telemetry_agent.model import Fix

_log = logging.getLogger(__name__)

_PATIENCE_S = 0.1
_READ_BYTES = 256
_WORD_MAX = 64

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Attribute:
    """One file, and what its value is called."""

    name: str
    file: Path
    scale: float | None = None
    """Multiplies the value, which then must be a number; ``None``: a number or a word, as it is."""


class Extras:
    """Reads the attributes when it is asked, without ever holding up who asks."""

    def __init__(
        self, attributes: Iterable[Attribute], *, power: bool = False, root: Path = Path("/")
    ) -> None:
        """Nothing is read yet.

        Args:
            attributes: what to read.
            power: also ``battery`` (percent), ``battery_state`` and ``mains`` (0 or 1).
            root: where the machine's /sys is.
        """
        self._attributes = tuple(attributes)
        self._supplies = root / "sys/class/power_supply" if power else None
        self._missing: set[str] = set()
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._answered.set()
        self._values: dict[str, Value] = {}
        names = {attribute.name for attribute in self._attributes}
        self._own: dict[str, Any] = {f.stored: None for f in LATER_FIELDS if f.name in names}
        self._thread: threading.Thread | None = None

    def added_to(self, fix: Fix) -> Fix:
        """The fix with the values of now.

        A field that was added after the config was written gives way to an attribute of its name:
        a server keeps the type that the attribute has there.
        """
        return fix._replace(extra=self.json(), **self._own)

    def json(self) -> str | None:
        """The values of now as a JSON object; ``None``: there are none."""
        if not self._attributes and self._supplies is None:
            return None
        if not self._answered.is_set():
            return None  # it still reads, for the fix before this one
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="extras", daemon=True)
            self._thread.start()
        self._answered.clear()
        self._asked.set()
        if not self._answered.wait(_PATIENCE_S) or not self._values:
            return None
        return json.dumps(self._values, separators=(",", ":"))

    def _serve(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            values: dict[str, Value] = {}
            for attribute in self._attributes:
                value = self._read(attribute)
                if value is not None:
                    values[attribute.name] = value
            if self._supplies is not None:
                values |= power_values(self._supplies)
            self._values = values
            self._answered.set()

    def _read(self, attribute: Attribute) -> Value | None:
        try:
            value = parsed(_text(attribute.file), attribute.scale)
        except OSError as error:
            self._note(attribute, f"cannot read {attribute.file}: {error.strerror}")
        except ValueError as error:
            self._note(attribute, f"{attribute.file}: {error}")
        else:
            if attribute.name in self._missing:
                self._missing.discard(attribute.name)
                _log.info("extra.%s is there again", attribute.name)
            return value
        return None

    def _note(self, attribute: Attribute, why: str) -> None:
        if attribute.name not in self._missing:
            self._missing.add(attribute.name)
            _log.warning("extra.%s is left out: %s", attribute.name, why)


def parsed(text: str, scale: float | None) -> Value:
    """The value that a file holds.

    Raises:
        ValueError: It is no number where one is needed, or no word.
    """
    try:
        number = float(text)
    except ValueError:
        if scale is not None:
            raise ValueError(f"{text[:20]!r} is no number") from None
        if not text or len(text) > _WORD_MAX or not text.isprintable():
            raise ValueError("it holds neither a number nor a word") from None
        return text
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]!r} is no number")
    if scale is None and text.lstrip("+-").isdecimal():
        return int(text)
    # As many digits as were meant: 48312 * 0.001 is 48.312, not 48.312000000000005.
    scaled = float(f"{number * (1 if scale is None else scale):.12g}")
    if not math.isfinite(scaled):
        raise ValueError(f"{text[:20]!r} is too large for its scale")
    return scaled


def power_values(supplies: Path) -> Mapping[str, Value]:
    """``battery``, ``battery_state`` and ``mains`` as the kernel tells them.

    Of several batteries the first counts; those of a mouse or a headset do not.
    """
    values: dict[str, Value] = {}
    mains: set[bool] = set()
    for supply in sorted(supplies.glob("*")):
        kind = _fact(supply / "type")
        if kind == "Battery" and _fact(supply / "scope") != "Device" and "battery" not in values:
            capacity, state = _fact(supply / "capacity"), _fact(supply / "status")
            if capacity.isdecimal():
                values["battery"] = int(capacity)
            if state:
                values["battery_state"] = state.lower()
        elif kind in {"Mains", "USB", "Wireless"} and (online := _fact(supply / "online")):
            mains.add(online != "0")
    if mains:
        values["mains"] = int(True in mains)
    return values


def _fact(file: Path) -> str:
    try:
        return _text(file)
    except OSError:
        return ""


def _text(file: Path) -> str:
    # A pipe that nobody writes to would wait for ever.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _READ_BYTES).decode("utf-8", "replace").strip("\0 \r\n\t")
    finally:
        os.close(descriptor)
