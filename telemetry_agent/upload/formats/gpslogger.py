"""GPSLogger's form, which Home Assistant's integration of that name takes: one fix per request.

It refuses a field that it does not know, so most of the user's own attributes are left out. It has
no field for the time: a position is where the device is when it arrives, so it gets them in their
order.
"""

from urllib.parse import urlencode

from telemetry_agent.fields import degrees
from telemetry_agent.model import Batch, Fix, Payload
from telemetry_agent.upload.formats.answers import judge
from telemetry_agent.upload.formats.packing import accuracy_mm, attributes, scaled, unsure_time
from telemetry_agent.upload.interfaces import Compression, WireFormat

_OWN = {"activity", "battery", "provider"}
_FIELDS = {
    "altitude": ("alt_mm", 1e3),
    "speed": ("speed_mm_s", 1e3),
    "direction": ("course_mdeg", 1e3),
}
_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}


def encode(batch: Batch, compression: Compression) -> Payload:  # noqa: ARG001 - never
    """The request for ``batch``."""
    return Payload("".join([_form(r.fix, batch.device) for r in batch.records]).encode(), _HEADERS)


def _form(fix: Fix, device: str) -> str:
    form = {"device": device, "latitude": degrees(fix.lat_e9), "longitude": degrees(fix.lon_e9)}
    own = {name: value for name, value in attributes(fix).items() if name in _OWN}
    if isinstance(own.get("battery"), str):
        del own["battery"]
    return urlencode({**form, "accuracy": accuracy_mm(fix) / 1e3, **scaled(fix, _FIELDS), **own})


FORMAT = WireFormat(encode, judge, unsure_time, one_by_one=True, oldest_first=True)
