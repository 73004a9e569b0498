"""OwnTracks over HTTP: one location per request, which the Recorder and Traccar take.

The Recorder answers ``[]`` with status 200 to everything, also to what it does not store: an array,
a compressed body, a location without a time. So only what it surely stores is sent: one object,
with integers where its description of the format has them, and times in seconds. And one request at
a time: it takes all that it has read from the connection as the body of one request, and answers
once.

Its last position is the one that arrived last, so it gets them in their order.
"""

import math
from typing import Any
from urllib.parse import parse_qs, urlsplit

from telemetry_agent.model import Answer, Batch, Delivered, Fix, Outcome, Payload
from telemetry_agent.upload.formats.answers import judge, unclear
from telemetry_agent.upload.formats.packing import (
    accuracy_mm,
    attributes,
    scaled,
    to_json,
    unsure_time,
)
from telemetry_agent.upload.interfaces import Compression, WireFormat

_FIELDS = {
    "alt": ("alt_mm", 1e3),
    "vel": ("speed_mm_s", 1e6 / 3600),
    "cog": ("course_mdeg", 1e3),
    "vac": ("err_v_mm", 1e3),
}
_BATTERY_STATES = {"discharging": 1, "charging": 2, "full": 3}


def format_for(url: str, username: str) -> WireFormat:
    """The format for a server at ``url``.

    The user is the ``u`` of its query, else ``username``.
    """
    named = parse_qs(urlsplit(url).query)
    user = (*named.get("u", ()), username, "owntracks")
    owner = next(filter(None, user))

    def encode(batch: Batch, compression: Compression) -> Payload:  # noqa: ARG001 - never
        device = next(iter(named.get("d", ())), batch.device)
        topic = f"owntracks/{_level(owner)}/{_level(device)}"
        bodies = [to_json(_location(record.fix, topic)) for record in batch.records]
        headers = {
            "Content-Type": "application/json",
            "X-Limit-U": _level(owner),
            "X-Limit-D": _level(device),
        }
        return Payload("".join(bodies).encode(), headers)

    return WireFormat(encode, read, unsure_time, one_by_one=True, oldest_first=True)


def read(answer: Answer, batch: Batch) -> Outcome:
    """What ``answer`` means."""
    outcome = judge(answer, batch, array_is_yes=True)
    text = answer.body.strip()
    # The Recorder answers in JSON, Traccar with an empty body.
    if isinstance(outcome, Delivered) and text and not text.startswith((b"[", b"{")):
        what = f"{answer.status} without JSON: it is not the answer of an OwnTracks server"
        return unclear(answer, what)
    return outcome


def _level(name: str) -> str:
    """A name as one level of a topic, and as a header: ASCII, no separators of topics."""
    plain = "".join(c if c.isascii() and c.isprintable() else "_" for c in name)
    return plain.translate(str.maketrans("/+# ", "____"))


def _location(fix: Fix, topic: str) -> dict[str, Any]:
    location: dict[str, Any] = {
        "_type": "location",
        "tst": fix.time_ms // 1000,
        "lat": fix.lat_e9 / 1e9,
        "lon": fix.lon_e9 / 1e9,
        "acc": math.ceil(accuracy_mm(fix) / 1000),
        "tid": topic[-2:],
        "topic": topic,
    }
    location |= {name: round(value) for name, value in scaled(fix, _FIELDS).items()}
    if "cog" in location:
        location["cog"] %= 360
    extra = attributes(fix)
    if "battery" in extra:
        location["batt"] = extra.pop("battery")
    if "battery_state" in extra:
        location["bs"] = _BATTERY_STATES.get(str(extra.pop("battery_state")), 0)
    location |= extra
    return location
