"""Whether this installation has the libraries of the page. Imports none of them."""

from importlib.util import find_spec
from pathlib import Path

STATIC = Path(__file__).parent / "static"

_PYTHON = ("starlette", "uvicorn", "prometheus_client")
_BROWSER = tuple(
    STATIC / "vendor" / name for name in ("leaflet.js", "uPlot.js", "protomaps-leaflet.js")
)


def server_missing() -> str | None:
    """Why the page cannot run at all, and the remedy; ``None``: it can."""
    missing = next((name for name in _PYTHON if find_spec(name) is None), None)
    return missing and f"{missing} is not installed: pip install 'telemetry-agent[page]'"


def browser_missing() -> str | None:
    """Why the page cannot show a map and a chart, and the remedy; ``None``: it can."""
    if all(file.exists() for file in _BROWSER):
        return None
    return (
        "The map and the charts come from npm, which was missing at the installation. Install Node "
        "20 with npm, then telemetry-agent again (in a checkout: make clean demo)"
    )
