"""With any memory limit, the user reads what is short and what to do."""

import compileall
import re
from pathlib import Path

import pytest
from processes import AGENT, ROOT, running
from rig import write_config

PLAIN = re.compile(
    "telemetry-agent: the system refuses (memory: raise the limit|"
    "a thread for the .*: memory or tasks are short: raise the limits) .*"
)


# With less memory, the interpreter itself can end without a message.
@pytest.mark.parametrize("limit_mb", [45, 50, 52, 55, 60, 65, 70, 73, 75, 80, 100, 200])
def test_a_start_with_short_memory_ends_in_words(limit_mb: int, tmp_path: Path) -> None:
    # Compile first, like an installation: the compiler has other messages for short memory.
    compileall.compile_dir(ROOT / "telemetry_agent", quiet=2)
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", log={"level": "warning"})
    for _ in range(2):  # the second start finds the files of the first one
        command = ("prlimit", f"--as={limit_mb * 1_000_000}", *AGENT, "run")
        with running(*command, "--config", str(config)) as daemon:
            daemon.wait_for_line(f"{PLAIN.pattern}|/dev/none: no such device", 60)
            began = any("no such device" in line for line in daemon.err)
            status = daemon.end() if began else daemon.wait(60)
        assert status == (0 if began else 71), daemon.text()
        assert began or PLAIN.fullmatch(daemon.err[-1]), daemon.text()
        assert "Traceback" not in daemon.text()
        assert "may be lost" not in daemon.text()
        assert "damaged" not in daemon.text()


@pytest.mark.parametrize("limit_mb", [38, 40, 42, 44, 46, 48, 60])
def test_a_command_with_short_memory_ends_in_words(limit_mb: int, tmp_path: Path) -> None:
    compileall.compile_dir(ROOT / "telemetry_agent", quiet=2)
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    command = ("prlimit", f"--as={limit_mb * 1_000_000}", *AGENT, "config", "show")
    with running(*command, "--config", str(config)) as shown:
        status = shown.wait()
    assert status in {0, 71}, shown.text()
    assert shown.err == [] if status == 0 else PLAIN.fullmatch(shown.err[-1]), shown.text()
    assert "Traceback" not in shown.text()
