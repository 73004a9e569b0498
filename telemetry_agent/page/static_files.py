"""The page's own files, compressed, as they were when the page started.

They take 170 kB of memory. If the package is upgraded or removed meanwhile, a browser still gets
files that belong together, and to this process.
"""

import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.responses import Response

from telemetry_agent.page.libraries import STATIC

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
_PACKED = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
_SMALL_BYTES = 600  # one packet either way
_LEVEL = 6
# RFC 9110, 12.5.3: a coding with q=0 is refused.
_TAKES_GZIP = re.compile(
    r"(^|,)\s*gzip\s*(;\s*q=(?!0(\.0*)?\s*(,|$))[\d.]+\s*)?(,|$)", re.IGNORECASE
)


class _File(NamedTuple):
    tag: str
    packed: bytes
    media_type: str


@cache
def static_files() -> dict[str, _File]:
    """The files by their paths. Only these are served, so no path leads out of the folder."""
    return {
        str(path.relative_to(STATIC)): _file(path)
        for path in STATIC.rglob("*")
        if path.suffix in _TYPES
    }


def static_file(name: str, asked: Mapping[str, str]) -> Response:
    """The file, or that the browser has it already; ``asked`` are the headers of the request."""
    file = static_files().get(name)
    if file is None:
        raise HTTPException(404, "There is no such file.")
    headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
    if file.tag in asked.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if _TAKES_GZIP.search(asked.get("accept-encoding", "")):
        return Response(file.packed, 200, headers | _PACKED, file.media_type)
    return Response(gzip.decompress(file.packed), 200, headers, file.media_type)


def static_text(name: str) -> str:
    """The text of a file."""
    return gzip.decompress(static_files()[name].packed).decode()


def _file(path: Path) -> _File:
    data = path.read_bytes()
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return _File(tag, gzip.compress(data, _LEVEL, mtime=0), _TYPES[path.suffix])


def compressed(
    data: bytes, media_type: str, asked: Mapping[str, str], headers: Mapping[str, str] = {}
) -> Response:
    """An answer, compressed if that pays. It takes milliseconds: large ones need a thread.

    ``asked`` are the headers of the request, ``headers`` further ones of the answer.
    """
    if len(data) < _SMALL_BYTES or not _TAKES_GZIP.search(asked.get("accept-encoding", "")):
        return Response(data, 200, headers, media_type)
    packed = gzip.compress(data, _LEVEL, mtime=0)
    return Response(packed, 200, {**headers, **_PACKED}, media_type)
