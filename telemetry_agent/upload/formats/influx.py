"""InfluxDB's line protocol, which InfluxDB 1, 2 and 3, VictoriaMetrics and QuestDB take.

::

    gps,device=van-07 lat=48.1173,lon=11.516667,speed=11.524,mode=3i,sats=8i,seq=17i 1764426119000

Always with the precision, since without it milliseconds land in 1970. A number is always written
in one type, because the first one that a server sees of a field is its type from then on.

InfluxDB stores the good lines of a write that it refuses in part. To send them again changes
nothing there, so such a write is halved like any other that is refused.
"""

from telemetry_agent.fields import Field, outside, writer
from telemetry_agent.model import Answer, Batch, Fix, Held, Outcome, Payload, Record, Refused
from telemetry_agent.upload.formats.answers import judge
from telemetry_agent.upload.formats.packing import attributes, packed, unsure_time
from telemetry_agent.upload.interfaces import Compression, WireFormat
from telemetry_agent.upload.quoting import reason_of, said_by

# Another program has written the same fields in other types: no fix is to blame.
_OTHER_TYPES = ("field type conflict", "cast error")


def encode(batch: Batch, compression: Compression) -> Payload:
    """The request for ``batch``."""
    key = f"gps,device={_escaped(batch.device)}"
    body = "".join(
        [f"{key} {_fields(fix)},seq={seq}i {fix.time_ms}\n" for _, seq, _, fix in batch.records]
    ).encode()
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    return packed(body, headers, compression, len(batch.records), "precision=ms")


def read(answer: Answer, batch: Batch) -> Outcome:
    """What ``answer`` means."""
    # InfluxDB 2.0 answers 500 where the others answer 400 or 422, as often as it is asked.
    if answer.status in {400, 422, 500}:
        said, reason = said_by(answer), reason_of(answer)
        if any(text in said for text in _OTHER_TYPES):
            return Held(reason, status=answer.status)
        if "partial write:" in said:
            return Refused(reason, status=answer.status)
    return judge(answer, batch)


def unfit(record: Record) -> str | None:
    """Why a fix cannot be sent."""
    if record.device.endswith("\\"):
        return "a device's name that ends in a backslash cannot be written in line protocol"
    return unsure_time(record)


def _escaped(tag: str) -> str:
    # A backslash that escapes no other character is literal, so it is not escaped itself.
    return tag.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def _value(value: float | str) -> str:
    """Every number with a fraction: a file may say 48 today and 48.5 tomorrow."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(float(value))


def _part(field: Field) -> str | None:
    if field.kind in {"time", "object"}:
        return None
    text = {"quality": '"{quality}"', "flags": "\"{' '.join(flags)}\""}
    value = f"{{{outside(field)}!r}}" + ("i" if field.per_unit == 1 else "")
    return f"{field.name}={text.get(field.kind, value)}"


_known = writer(_part, {})


def _fields(fix: Fix) -> str:
    own = [f",{name}={_value(value)}" for name, value in attributes(fix).items()]
    return _known(fix) + "".join(own)


FORMAT = WireFormat(encode, read, unfit, gzip="always")
