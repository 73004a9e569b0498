"""Every code block of every page runs, here or in the test that reads it, or says why not.

A block after ``<!-- shown only: WHY -->`` does not run.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import PAGES, Block, every_block
from processes import ROOT, environment
from rig import simulated, started, write_config

from telemetry_agent.config import loader
from telemetry_agent.lab.endpoint import Endpoint

READ_BY = {
    ("README.md", "sh"): "packages/test_pages_as_printed.py",
    ("ackqueue.md", "python"): "install/test_commands_of_pages.py",
    ("endpoint.md", "python"): "servers/test_postgresql.py",
    ("endpoint.md", "sql"): "servers/test_postgresql.py",
    ("fleet.md", "sql"): "servers/test_clickhouse.py",
    ("install.md", "sh"): "packages/test_pages_as_printed.py",
    ("operations.md", "sh"): "packages/test_pages_as_printed.py",
    ("page.md", "caddy"): "page/test_proxy.py",
    ("page.md", "nginx"): "page/test_proxy.py",
    ("protocol.md", "http"): "vectors.py",
    ("servers.md", "sql"): "old_clickhouse.py",
    ("upgrade.md", "sh"): "packages/test_pages_as_printed.py",
}
"""The test that runs these blocks, by page and language."""

RUN = [block for block in every_block() if block.shown_only is None]
CONFIGS = [block for block in RUN if block.language == "toml"]
TYPED = [block for block in RUN if not block.language]


def name(block: Block) -> str:
    return f"{block.page}: {block.text.splitlines()[0]}"


def test_no_block_escapes() -> None:
    fences = sum(line.startswith("```") for page in PAGES for line in page.read_text().splitlines())
    assert fences == 2 * len(every_block())  # no block is missed
    assert not [page for page in PAGES if "\n  ```" in page.read_text()]
    others = {(block.page, block.language) for block in RUN if block not in CONFIGS + TYPED}
    assert others == set(READ_BY)
    for (page, _), test in READ_BY.items():
        assert f'"{page}"' in (ROOT / "tests" / test).read_text()


@pytest.mark.parametrize("block", CONFIGS, ids=name)
def test_each_config_of_a_page_is_right(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    upload = "" if "[upload]" in block.text else '[upload]\nurl = "https://x/"\n'
    table = "" if block.text.startswith("[") else "[gps]\n"
    path.write_text(f'device = "van-07"\n{table}{block.text}{upload}')
    loader.load(path)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running agent that has recorded and delivered."""
    folder = tmp_path_factory.mktemp("device")
    with (
        Endpoint("127.0.0.1:0", folder / "received.db") as endpoint,
        simulated(folder, rate_hz=2) as receiver,
        started(write_config(folder, str(receiver.device), endpoint.url)),
    ):
        assert endpoint.wait_for(5, 60)
        yield folder


@pytest.mark.once("it shows what the pages print; the commands have tests of their own")
@pytest.mark.parametrize("block", TYPED, ids=name)
def test_what_is_typed_works_as_printed(block: Block, device: Path) -> None:
    """If a block has prompts, its lines without a prompt are output."""
    if "sqlite3 " in block.text and shutil.which("sqlite3") is None:
        pytest.skip("needs Debian's sqlite3")
    lines = block.text.splitlines()
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")] or lines
    foreign = re.findall(r"\b(?:apt|journalctl|python|rm|systemctl)\b", "\n".join(typed))
    assert not foreign, "what changes the machine is marked sh, or shown only"
    script = "\n".join(['sudo() { "$@"; }', *typed])
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=device,
        env=environment({"PATH": path}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
