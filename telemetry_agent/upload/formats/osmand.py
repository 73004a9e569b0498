"""OsmAnd's live tracking, which Traccar takes (port 5055): one fix per request, in the query.

Traccar knows a device by ``id``: ours, or the one in the URL. Speeds are in knots. It computes
distances from one position to the next, so it needs them in their order.

It answers 400 to anything that it refuses, most often because it does not know the device. Then
every fix is refused, and uploads are held.
"""

from urllib.parse import parse_qsl, quote, urlsplit

from telemetry_agent.fields import degrees
from telemetry_agent.model import Answer, Batch, Fix, Outcome, Payload, Refused
from telemetry_agent.upload.formats.answers import judge
from telemetry_agent.upload.formats.packing import accuracy_mm, attributes, scaled, unsure_time
from telemetry_agent.upload.interfaces import Compression, WireFormat

_NAMES = {"battery": "batt", "battery_state": "batteryState"}  # as Traccar names them
_FIELDS = {
    "altitude": ("alt_mm", 1e3),
    "bearing": ("course_mdeg", 1e3),
    "hdop": ("hdop_e2", 1e2),
    "vdop": ("vdop_e2", 1e2),
    "pdop": ("pdop_e2", 1e2),
}
_MM_S_PER_KNOT = 514.444444


def format_for(url: str) -> WireFormat:
    """The format for a server at ``url``."""
    named = identifier_in(url)

    def encode(batch: Batch, compression: Compression) -> Payload:  # noqa: ARG001 - no body
        device = "" if named else f"id={quote(batch.device, safe='')}&"
        query = [device + _query(record.fix) for record in batch.records]
        return Payload(b"", {}, query="".join(query))

    def read(answer: Answer, batch: Batch) -> Outcome:
        if answer.status == 400 and not answer.body:
            identifier = named or batch.device
            return Refused(f"400: the server does not know the device {identifier}", status=400)
        return judge(answer, batch)

    return WireFormat(encode, read, unsure_time, one_by_one=True, pipelined=True, oldest_first=True)


def identifier_in(url: str) -> str | None:
    """The device's identifier, if the URL names one: it is sent in place of the device's name."""
    pairs = parse_qsl(urlsplit(url).query)
    return next((value for name, value in pairs if name in {"id", "deviceid"}), None)


def _query(fix: Fix) -> str:
    query = f"timestamp={fix.time_ms}&lat={degrees(fix.lat_e9)}&lon={degrees(fix.lon_e9)}"
    query += f"&accuracy={accuracy_mm(fix) / 1e3!r}"
    query += "".join([f"&{name}={value!r}" for name, value in scaled(fix, _FIELDS).items()])
    if fix.speed_mm_s is not None:
        query += f"&speed={fix.speed_mm_s / _MM_S_PER_KNOT:.4f}"
    if fix.sats is not None:
        query += f"&sat={fix.sats}"
    if fix.odo_m is not None:
        query += f"&odometer={fix.odo_m}"
    for name, value in attributes(fix).items():
        query += f"&{_NAMES.get(name, name)}={quote(str(value), safe='')}"
    return query
