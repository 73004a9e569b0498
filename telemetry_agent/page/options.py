"""What the user has set for the page, besides where it listens and its token."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PageOptions:
    """The settings that reach the web server."""

    names: tuple[str, ...] = ()
    """Names, or names with ports, under which a reverse proxy serves the page."""
    tiles: str = ""
    """The template of a tile server's URLs; empty: none."""
    tiles_credit: str = ""
    """What the tile server's licence asks to be shown."""
    map_file: Path | None = None
    """A PMTiles file."""
    history_file: Path | None = None
    """Where the history is kept."""
