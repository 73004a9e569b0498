"""Overland's format, which Dawarich, PhoneTrack and Compass take: GeoJSON features."""

import json
from typing import Any

from telemetry_agent.fields import rfc3339
from telemetry_agent.model import Answer, Batch, Delivered, Fix, Outcome, Payload
from telemetry_agent.upload.formats.answers import judge, unclear
from telemetry_agent.upload.formats.packing import (
    accuracy_mm,
    attributes,
    packed,
    scaled,
    to_json,
    unsure_time,
)
from telemetry_agent.upload.interfaces import Compression, WireFormat
from telemetry_agent.upload.quoting import quoted

_FIELDS = {
    "altitude": ("alt_mm", 1e3),
    "speed": ("speed_mm_s", 1e3),
    "course": ("course_mdeg", 1e3),
    "vertical_accuracy": ("err_v_mm", 1e3),
}
_BATTERY_STATES = {"charging": "charging", "full": "full", "discharging": "unplugged"}


def encode(batch: Batch, compression: Compression) -> Payload:
    """The request for ``batch``."""
    features = [_feature(record.fix, batch.device) for record in batch.records]
    body = to_json({"locations": features}).encode()
    return packed(body, {"Content-Type": "application/json"}, compression, len(features))


def read(answer: Answer, batch: Batch) -> Outcome:
    """What ``answer`` means: only ``{"result":"ok"}`` or a right ``received`` accepts the batch."""
    outcome = judge(answer, batch)
    if not isinstance(outcome, Delivered) or outcome.counted:
        return outcome
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and value.get("result") == "ok":
        return outcome
    said = quoted(answer.body) or "nothing"
    return unclear(answer, f'{answer.status}, but it says {said}, not {{"result":"ok"}}')


def _feature(fix: Fix, device: str) -> dict[str, Any]:
    properties: dict[str, Any] = {"timestamp": rfc3339(fix.time_ms), "device_id": device}
    properties["horizontal_accuracy"] = accuracy_mm(fix) / 1e3
    properties |= scaled(fix, _FIELDS)
    extra = attributes(fix)
    if "battery" in extra:
        properties["battery_level"] = float(extra.pop("battery")) / 100
    if "battery_state" in extra:
        properties["battery_state"] = _BATTERY_STATES.get(
            str(extra.pop("battery_state")), "unknown"
        )
    properties |= extra
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [fix.lon_e9 / 1e9, fix.lat_e9 / 1e9]},
        "properties": properties,
    }


FORMAT = WireFormat(encode, read, unsure_time, gzip="proven")
