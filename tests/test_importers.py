"""Each foreign library has one place that imports it, so that one place knows its traps."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "telemetry_agent"

IMPORTERS = {
    "sqlite3": {"ackqueue/schema.py", "ackqueue/store.py", "endpoint/store.py"},
    "httpx": {"upload/transport.py"},
    "httpcore": {"upload/transport.py"},
    "h11": {"upload/pipeline.py"},
    "tenacity": {"upload/retry.py"},
    "pynmea2": {"gnss/sentences.py"},
    "serial": {"gnss/sources/serial.py"},
    "prometheus_client": {"page/metrics.py"},
    "pydantic": {"config/__init__.py", "config/settings.py", "config/values.py"},
    "pydantic_settings": {"config/__init__.py", "config/settings.py"},
    "time": {"clock.py"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("library", IMPORTERS)
def test_only_its_own_room_imports(library: str) -> None:
    importers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if library in imported(path)
    }
    assert importers == IMPORTERS[library]
