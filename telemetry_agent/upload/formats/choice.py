"""From what the config says to the format that it means."""

from telemetry_agent.upload.formats import clickhouse, influx, native, osmand, overland, owntracks
from telemetry_agent.upload.interfaces import FormatName, WireFormat


def choose(name: FormatName, url: str, username: str = "") -> WireFormat:
    """The format; what a server wants to know beside the fixes stands in its own URL."""
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
