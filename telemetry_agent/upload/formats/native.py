"""The native format: one JSON object per batch, and an answer that may name single fixes."""

from collections.abc import Mapping

from telemetry_agent.fields import fix_json
from telemetry_agent.model import Batch, Payload
from telemetry_agent.upload.formats.answers import judge
from telemetry_agent.upload.formats.packing import digest, packed, to_json
from telemetry_agent.upload.interfaces import Compression, WireFormat


def encode(
    batch: Batch, compression: Compression, agent: Mapping[str, object] | None = None
) -> Payload:
    """The request for ``batch``: compressed only where that makes it smaller.

    ``agent`` is what the agent reports about itself; a batch without fixes carries nothing else.

    The ``Idempotency-Key`` is made of the names in the batch, and of the report: the same content
    has the same key however often it is sent, and other content has another.
    """
    fixes = [f'{{"seq":{seq},{fix_json(fix)}}}' for _, seq, _, fix in batch.records]
    agent_json = "" if agent is None else to_json(agent)
    report = f',"agent":{agent_json}' if agent_json else ""
    body = (
        f'{{"format":"native/1","device":{to_json(batch.device)},"stream":"{batch.stream}",'
        f'"fixes":[{",".join(fixes)}]{report}}}'
    ).encode()
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f'"{digest(batch, agent_json)}"',
    }
    return packed(body, headers, compression, len(batch.records))


FORMAT = WireFormat(encode, judge, gzip="proven", encode_report=encode)
