"""The wire format that the config names."""

from telemetry_agent.upload.formats import clickhouse, influx, native, osmand, overland, owntracks
from telemetry_agent.upload.interfaces import FormatName, WireFormat


def choose(name: FormatName, url: str, username: str = "") -> WireFormat:
    """The format; what a server needs to know besides the fixes is in its URL."""
    match name:
        case "native":
            return native.FORMAT
        case "overland":
            return overland.FORMAT
        case "osmand":
            return osmand.format_for(url)
        case "owntracks":
            return owntracks.format_for(url, username)
        case "influx":
            return influx.FORMAT
        case "clickhouse":
            return clickhouse.format_for(url)
