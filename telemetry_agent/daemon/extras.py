"""The user's own attributes: the contents of some files at the time of a fix.

Reading a file of the kernel usually takes no time. A sensor on a slow bus, a pipe or a dead network
file system may block, and a read cannot be interrupted. So the reader of positions waits for at
most ``_PATIENCE_S``, and not at all while the files are still read for the fix before (see
``small_files``). Values that are late or cannot be read are left out.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import ExtraSettings
from telemetry_agent.fields import LATER_FIELDS
from telemetry_agent.model import Fix
from telemetry_agent.small_files import answered, read_text, text_of
from telemetry_agent.trouble import Trouble

_log = logging.getLogger(__name__)

_PATIENCE_S = 0.1
_WORD_MAX = 64

Value = float | int | str


class Extras:
    """Reads the attributes on request; the caller waits for at most 0.1 s.

    Args:
        settings: the files to read; and whether ``battery`` (percent), ``battery_state`` and
            ``mains`` (0 or 1) are added.
        root: the folder of the machine's /sys.
    """

    def __init__(self, settings: ExtraSettings, root: Path = Path("/")) -> None:
        self._files = settings.files
        self._supplies = root / "sys/class/power_supply" if settings.power else None
        self._troubles = {name: Trouble(_log, Clock()) for name in self._files}
        self._replaced: dict[str, Any] = {
            f.stored: None for f in LATER_FIELDS if f.name in self._files
        }

    def added_to(self, fix: Fix) -> Fix:
        """The fix with the current values.

        If an attribute has the name of a field that was added to fixes later, the attribute is sent
        and not the field: the server has already stored it with the attribute's type.
        """
        if not self._files and self._supplies is None:
            return fix
        return fix._replace(extra=self.json(), **self._replaced)

    def json(self) -> str | None:
        """The current values as a JSON object; ``None`` without any."""
        try:
            values = answered(self, self._values, _PATIENCE_S)
        except OSError:  # late, or the system refuses a thread: recording must not depend on it
            return None
        return json.dumps(values, separators=(",", ":")) if values else None

    def _values(self) -> Mapping[str, Value]:
        values: dict[str, Value] = {}
        for name, one in self._files.items():
            trouble = self._troubles[name]
            try:
                values[name] = parsed(read_text(one.file), one.scale)
            except OSError as error:
                why = f"cannot read {one.file}: {error.strerror}"
            except ValueError as error:
                why = f"{one.file}: {error}"
            else:
                trouble.over(f"extra.{name} can be read again")
                continue
            trouble.failed(f"extra.{name} is left out: {why}")
        if self._supplies is not None:
            values |= power_values(self._supplies)
        return values


def parsed(text: str, scale: float | None) -> Value:
    """The value in a file.

    Raises:
        ValueError: it is not a number although ``scale`` needs one, or neither number nor word.
    """
    try:
        number = float(text)
    except ValueError:
        if scale is not None:
            raise ValueError(f"{text[:20]!r} is not a number") from None
        if not text or len(text) > _WORD_MAX or not text.isprintable():
            raise ValueError("it contains neither a number nor a word") from None
        return text
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]!r} is not a number")
    if scale is None and text.lstrip("+-").isdecimal():
        return int(text)
    # Without the noise of floating point: 48312 * 0.001 is 48.312, not 48.312000000000005.
    scaled = float(f"{number * (1 if scale is None else scale):.12g}")
    if not math.isfinite(scaled):
        raise ValueError(f"{text[:20]!r} is too large for its scale")
    return scaled


def power_values(supplies: Path) -> Mapping[str, Value]:
    """``battery``, ``battery_state`` and ``mains`` as the kernel reports them.

    Only the first battery counts, and not that of a mouse or a headset.
    """
    values: dict[str, Value] = {}
    mains: set[bool] = set()
    for supply in sorted(supplies.glob("*")):
        kind, scope, capacity, state, online = (
            text_of(supply / name) for name in ("type", "scope", "capacity", "status", "online")
        )
        if kind == "Battery" and scope != "Device" and "battery" not in values:
            if capacity.isdecimal():
                values["battery"] = int(capacity)
            if state:
                values["battery_state"] = state.lower()
        elif kind in {"Mains", "USB", "Wireless"} and online:
            mains.add(online != "0")
    if mains:
        values["mains"] = int(True in mains)
    return values
