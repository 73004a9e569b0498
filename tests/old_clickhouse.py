"""Debian's ClickHouse 18.16, which is older than the version that the agent needs.

It supports neither the deduplication token nor milliseconds: a relay removes the token, and a
recorded drive has only whole seconds.
"""

import re
import urllib.error
import urllib.request

from documents import blocks
from standins import Asked, Said

TABLE, *_ = blocks("servers.md", "sql")
ORDER = "PARTITION BY toYYYYMM(time) ORDER BY (device, time, stream, seq)"


def columns() -> str:
    """The documentation's columns in the types that 18.16 supports."""
    listed = TABLE[TABLE.index("gps.fixes (") + len("gps.fixes") : TABLE.index("ENGINE")]
    listed = listed.replace("DateTime64(3, 'UTC')", "DateTime('UTC')")
    return re.sub(r"LowCardinality\((\w+)\)", r"\1", re.sub(r" CODEC\(.*\)", "", listed))


def without_token(url: str, asked: Asked, body: bytes | None = None) -> Said | None:
    """Forward a request to ClickHouse without its deduplication token."""
    target, tokens = re.subn(r"&insert_deduplication_token=\w+", "", asked.target)
    assert tokens == 1
    kept = {k: v for k, v in asked.headers.items() if k in {"authorization", "content-encoding"}}
    request = urllib.request.Request(url + target, data=body or asked.body, headers=kept)
    try:
        with urllib.request.urlopen(request, timeout=60) as said:
            return Said(said.status, said.read())
    except urllib.error.HTTPError as error:
        return Said(error.code, error.read())
    except OSError:
        return None
