"""The native format: one JSON object per batch, and an answer that may name single fixes."""

import json
from collections.abc import Mapping
from typing import Any

from telemetry_agent.fields import fix_json
from telemetry_agent.model import Answer, Batch, Deferred, Delivered, Outcome, Payload
from telemetry_agent.upload.formats.answers import judge, unclear, words
from telemetry_agent.upload.formats.packing import digest, packed
from telemetry_agent.upload.interfaces import Compression, WireFormat

_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def encode(
    batch: Batch,
    *,
    compression: Compression,
    agent: Mapping[str, object] | None = None,
) -> Payload:
    """The request for ``batch``: compressed only where that makes it smaller.

    ``agent`` is what the agent reports about itself; a batch without fixes carries nothing else.

    The ``Idempotency-Key`` is made of the names in the batch, and of the report: the same content
    has the same key however often it is sent, and other content has another.
    """
    fixes = [f'{{"seq":{seq},{fix_json(fix)}}}' for _, seq, _, fix in batch.records]
    said = "" if agent is None else _to_json(agent)
    report = f',"agent":{said}' if said else ""
    body = (
        f'{{"format":"native/1","device":{_to_json(batch.device)},"stream":"{batch.stream}",'
        f'"fixes":[{",".join(fixes)}]{report}}}'
    ).encode()
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f'"{digest(batch, said)}"',
    }
    return packed(body, headers, compression)


def read(answer: Answer, batch: Batch) -> Outcome:
    """What ``answer`` means for ``batch``."""
    outcome = judge(answer)
    if outcome is not None:
        return outcome
    text = answer.body.strip()
    if not text:
        return Delivered(status=answer.status)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        if text.startswith(b"{") or "json" in answer.headers.get("content-type", "").lower():
            return unclear(answer, f"{answer.status} with JSON that does not parse")
        return Delivered(status=answer.status)
    if not isinstance(said, dict):
        return Delivered(status=answer.status)
    return _read_object(said, answer, batch)


def _read_object(said: dict[str, Any], answer: Answer, batch: Batch) -> Delivered | Deferred:
    rejected_items, retry_items = said.get("rejected") or [], said.get("retry") or []
    if not isinstance(rejected_items, list) or not isinstance(retry_items, list):
        return unclear(answer, f"{answer.status} rejects fixes without naming them")
    batch_names = {record.seq for record in batch.records}
    retry = [_name(seq) for seq in retry_items]
    rejected = [
        (_name(item.get("seq")), item.get("reason")) if isinstance(item, dict) else (0, None)
        for item in rejected_items
    ]
    stay = frozenset(seq for seq in retry if seq in batch_names)
    return Delivered(
        rejected={
            seq: words(str(reason or "")) or "rejected by the endpoint"
            for seq, reason in rejected
            if seq in batch_names and seq not in stay  # said both: keeping it loses nothing
        },
        retry=stay,
        unknown_names=sum(seq not in batch_names for seq in (*retry, *(s for s, _ in rejected))),
        status=answer.status,
    )


def _name(value: object) -> int:
    """A seq; 0, which names no fix, for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


FORMAT = WireFormat(encode, read, encode_report=encode)
