"""The page's own files, as the browser gets them: compressed once, and kept while unchanged."""

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

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
_SMALL_BYTES = 600  # one packet either way
_LEVEL = 6


class _Kept(NamedTuple):
    modified_ns: int
    tag: str
    data: bytes
    """Compressed."""


class Files:
    """Serves the files below ``static`` by name, so that no path leads out of the folder."""

    def __init__(self) -> None:
        self._names = {
            str(file.relative_to(STATIC)) for file in STATIC.rglob("*") if file.suffix in _TYPES
        }
        self._kept: dict[str, _Kept] = {}

    def answer(self, name: str, headers: Mapping[str, str]) -> Response | None:
        """The file, or that the browser has it already; ``None``: there is no such file."""
        if name not in self._names:
            return None
        kept = self._read(name)
        rules = {"ETag": kept.tag, "Cache-Control": "no-cache"}
        if kept.tag in headers.get("if-none-match", ""):
            return Response(status_code=304, headers=rules)
        kind = _TYPES[Path(name).suffix]
        if takes_gzip(headers):
            rules |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
            return Response(kept.data, 200, rules, kind)
        return Response(gzip.decompress(kept.data), 200, rules, kind)

    def text(self, name: str) -> str:
        """A file's text."""
        return gzip.decompress(self._read(name).data).decode()

    def _read(self, name: str) -> _Kept:
        file = STATIC / name
        modified_ns = file.stat().st_mtime_ns
        kept = self._kept.get(name)
        if kept is None or kept.modified_ns != modified_ns:
            data = file.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            kept = _Kept(modified_ns, tag, gzip.compress(data, _LEVEL, mtime=0))
            self._kept[name] = kept
        return kept


def takes_gzip(headers: Mapping[str, str]) -> bool:
    """Whether the viewer unpacks gzip."""
    for part in headers.get("accept-encoding", "").split(","):
        name, _, rest = part.strip().partition(";")
        if name.strip().lower() == "gzip":
            return rest.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False


def compressed(data: bytes, kind: str, headers: Mapping[str, str], **more: str) -> Response:
    """An answer, compressed where that pays. It takes milliseconds: large ones in a thread."""
    if len(data) < _SMALL_BYTES or not takes_gzip(headers):
        return Response(data, 200, more, kind)
    more |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(gzip.compress(data, _LEVEL, mtime=0), 200, more, kind)
