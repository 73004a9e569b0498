"""GPSLogger's form, which Home Assistant's integration of that name takes: one fix per request.

It refuses a field that it does not know, so most of the user's own attributes are left out. It
knows no times: a position is where the device is when it comes, so it gets them in their order.
"""

from urllib.parse import urlencode

from telemetry_agent.fields import degrees
from telemetry_agent.model import Batch, Fix, Payload
from telemetry_agent.upload.formats.answers import judge
from telemetry_agent.upload.formats.packing import accuracy_mm, attributes, without_doubt
from telemetry_agent.upload.interfaces import Compression, WireFormat

_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}


def encode(batch: Batch, *, compression: Compression) -> Payload:  # noqa: ARG001 - never
    """The request for ``batch``."""
    return Payload("".join([_form(r.fix, batch.device) for r in batch.records]).encode(), _HEADERS)


def _form(fix: Fix, device: str) -> str:
    form = {"device": device, "latitude": degrees(fix.lat_e9), "longitude": degrees(fix.lon_e9)}
    for name, value in (
        ("accuracy", accuracy_mm(fix)),
        ("altitude", fix.alt_mm),
        ("speed", fix.speed_mm_s),
        ("direction", fix.course_mdeg),
    ):
        if value is not None:
            form[name] = repr(value / 1e3)
    for name, own in attributes(fix).items():
        is_number = not isinstance(own, str)
        if name in {"activity", "provider"} or (name == "battery" and is_number):
            form[name] = str(own)
    return urlencode(form)


FORMAT = WireFormat(encode, judge, without_doubt, one_by_one=True, oldest_first=True)
