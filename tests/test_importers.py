"""Each third-party library is imported in one place, which handles its pitfalls."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest
from once import SOURCE
from processes import environment

PACKAGE = Path(__file__).parent.parent / "telemetry_agent"

IMPORTERS = {
    "sqlite3": {"ackqueue/file/schema.py", "ackqueue/file/store.py", "lab/endpoint/database.py"},
    "httpx": {"upload/http/transport.py"},
    "h11": {"upload/http/http1.py"},
    "tenacity": {"upload/retry.py"},
    "pynmea2": {"gnss/sentences.py"},
    "serial": {"gnss/sources/serial.py"},
    "prometheus_client": {"page/metrics.py"},
    "pydantic": {"config/loader.py", "config/settings.py", "config/values.py"},
    "pydantic_core": {"config/settings.py", "config/values.py"},
    "pydantic_settings": {"config/loader.py"},
    "time": {"clock.py"},
}


@functools.cache  # it takes 1 s of CPU time for the whole package
def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@SOURCE
@pytest.mark.parametrize("library", IMPORTERS)
def test_only_its_own_room_imports(library: str) -> None:
    importers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if library in imported(path)
    }
    assert importers == IMPORTERS[library]


RUN = """
import sys
from telemetry_agent.cli import main
try:
    main(["run", "--config", "/none"])
finally:
    print(*sys.modules)
"""


def test_the_agent_keeps_nothing_in_memory_that_it_seldom_needs() -> None:
    argv = [sys.executable, "-c", RUN]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 78, done.stderr
    imported = set(done.stdout.split())
    assert "telemetry_agent.daemon.app" in imported
    unneeded = "click pydantic pydantic_core pydantic_settings asyncio difflib tomllib xml"
    unneeded += " telemetry_agent.doctor.page_doctor telemetry_agent.page.events"
    assert not imported & set(unneeded.split())


def test_the_agent_imports_nothing_that_happens_to_be_installed(tmp_path: Path) -> None:
    for name in ("rich", "trio", "uvicorn", "starlette", "prometheus_client"):
        (tmp_path / f"{name}.py").write_text("print(__name__)\n")
    path = {"PYTHONPATH": f"{tmp_path}:{PACKAGE.parent}"}
    code = "import telemetry_agent.daemon.service"
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=environment(path), capture_output=True, text=True, check=True)
    assert done.stdout == ""
