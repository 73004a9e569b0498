"""ClickHouse over HTTP: one row per fix, by ``INSERT … FORMAT JSONEachRow``.

The URL may carry ClickHouse's own parameters, including the query. By default fixes go into the
table ``fixes``. If the table lacks a column, uploads are held: newer versions would drop its values
silently. But a table may be older than a field that a later release added: then the columns of the
first release are named in the query, and other fields are skipped. The token is made of the
names in the batch, so a repeat of the same batch is one insert where the table keeps tokens. What
comes again in another batch is one row in a ReplacingMergeTree.

ClickHouse reports an error by a code of its own; the status beside it (400, 404, 500) differs
between versions. A fix is only to blame for a value that cannot be read or stored.
"""

import json
import re
from urllib.parse import parse_qsl, quote, urlsplit

from telemetry_agent.fields import FIELDS, LATER_FIELDS, fix_json
from telemetry_agent.model import Answer, Batch, Fix, Held, Outcome, Payload, Refused
from telemetry_agent.upload.formats.answers import judge, later
from telemetry_agent.upload.formats.packing import digest, packed
from telemetry_agent.upload.interfaces import Compression, WireFormat
from telemetry_agent.upload.quoting import reason_of

_SKIP = "input_format_skip_unknown_fields"
_PARAMETERS = {
    "query": "INSERT INTO fixes FORMAT JSONEachRow",
    "date_time_input_format": "best_effort",
    _SKIP: "0",
}
_COLUMNS = ["device", "stream", "seq", *(field.name for field in FIELDS if not field.since)]

# Of ClickHouse's ErrorCodes.
_VALUE = {
    *(6, 26, 27, 32, 38, 41, 69, 70, 72),  # cannot be parsed or converted
    *(131, 349, 469),  # too long, NULL in a column that has none, a constraint
}
_SET_UP = {
    *(16, 47, 60, 81),  # no such column, identifier, table, database
    *(36, 62, 73, 115, 117),  # query, format, setting, a field that the table does not have
    *(43, 44, 50, 53),  # types of the table
    *(164, 192, 193, 194, 195, 291, 497, 516),  # user, password, address, rights
}


def format_for(url: str) -> WireFormat:
    """The format for the table that ``url`` names."""
    named = {name for name, _ in parse_qsl(urlsplit(url).query)}
    parameters = dict(_PARAMETERS)
    if LATER_FIELDS:
        parameters[_SKIP] = "1"
        if _SKIP not in named:  # else the columns are the user's choice
            parameters["query"] = f"INSERT INTO fixes ({','.join(_COLUMNS)}) FORMAT JSONEachRow"
    ours = "&".join(
        f"{name}={quote(value)}" for name, value in parameters.items() if name not in named
    )

    def encode(batch: Batch, compression: Compression) -> Payload:
        device = json.dumps(batch.device)
        names = f'"device":{device},"stream":"{batch.stream}"'
        rows = [f'{{{names},"seq":{seq},{_fields(fix)}}}\n' for _, seq, _, fix in batch.records]
        query = f"{ours}&insert_deduplication_token={digest(batch)}"
        return packed("".join(rows).encode(), {}, compression, len(rows), query.lstrip("&"))

    return WireFormat(encode, read, gzip="always")


def read(answer: Answer, batch: Batch) -> Outcome:
    """What ``answer`` means."""
    code = exception_code(answer)
    if code is None:
        return judge(answer, batch)
    reason = reason_of(answer)
    if code in _VALUE:
        return Refused(reason, status=answer.status)
    if code in _SET_UP:
        return Held(reason, status=answer.status)
    return later(answer, reason)


def _fields(fix: Fix) -> str:
    if fix.extra is None:
        return fix_json(fix)
    # As a text: old versions cannot read an object into a String.
    return f'{fix_json(fix._replace(extra=None))},"extra":{json.dumps(fix.extra)}'


def exception_code(answer: Answer) -> int | None:
    """The code of an exception; old versions only put it into the body."""
    header = answer.headers.get("x-clickhouse-exception-code", "")
    found = re.match(rb"Code: (\d{1,9})[.,]", answer.body)
    code = header if header.isdecimal() and len(header) < 10 else found and found[1]
    return int(code) if code else None
