"""What an exported file is called: by its device and its days."""

import re

from telemetry_agent.fields import rfc3339


def file_name(device: str, kind: str, first_ms: int | None, last_ms: int | None) -> str:
    """Such as ``van-07-2026-11-23.gpx``.

    Args:
        device: its name.
        kind: how the name ends.
        first_ms: GNSS time of the beginning; ``None``: not known.
        last_ms: of the end, which is not included.
    """
    days = [rfc3339(ms)[:10] for ms in (first_ms, last_ms and last_ms - 1) if ms is not None]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", device).strip("-.") or "track"
    return "-".join([name, *dict.fromkeys(days)]) + f".{kind}"
