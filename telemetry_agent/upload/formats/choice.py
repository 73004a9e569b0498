"""The wire format that the config names."""

from dataclasses import replace
from urllib.parse import urlsplit

from telemetry_agent.model import Answer, Batch, Delivered, Outcome
from telemetry_agent.upload.formats import (
    clickhouse,
    gpslogger,
    influx,
    native,
    osmand,
    overland,
    owntracks,
)
from telemetry_agent.upload.formats.answers import unclear
from telemetry_agent.upload.interfaces import FormatName, WireFormat

_ANYWHERE = {
    "native": native.FORMAT,
    "overland": overland.FORMAT,
    "gpslogger": gpslogger.FORMAT,
    "influx": influx.FORMAT,
}

WEBHOOK_PATH = "/api/webhook/"
_WEBHOOKS_HOST = "hooks.nabu.casa"


def choose(name: FormatName, url: str, username: str = "") -> WireFormat:
    """The format; what a server needs to know besides the fixes is in its URL."""
    match name:
        case "osmand":
            chosen = osmand.format_for(url)
        case "owntracks":
            chosen = owntracks.format_for(url, username)
        case "clickhouse":
            chosen = clickhouse.format_for(url)
        case _:
            chosen = _ANYWHERE[name]
    return _at(url, chosen) if chosen.one_by_one else chosen


def is_webhook(url: str) -> bool:
    """Whether it is one of Home Assistant's: at its own address, or through its cloud."""
    parts = urlsplit(url)
    return WEBHOOK_PATH in parts.path or parts.hostname == _WEBHOOKS_HOST


def _at(url: str, wire_format: WireFormat) -> WireFormat:
    """The format as Home Assistant's webhooks answer, if ``url`` is one of them.

    Its integrations for trackers answer with a body. It answers an empty 200 to a webhook that it
    does not know or allows only in its own network, and if its code has failed.
    """
    if not is_webhook(url):
        return wire_format

    def read(answer: Answer, batch: Batch) -> Outcome:
        outcome = wire_format.read(answer, batch)
        if isinstance(outcome, Delivered) and not answer.body:
            text = f"{answer.status} with an empty body: Home Assistant does not know the webhook"
            return unclear(answer, text)
        return outcome

    return replace(wire_format, read=read)
