"""The modules of the page alone, in Node."""

import shutil
import subprocess

import pytest
from browsing import require_browser
from processes import ROOT


@pytest.mark.once("it runs in Node, without the agent")
@pytest.mark.parametrize("module", ["words", "track"])
def test_the_module(module: str) -> None:
    require_browser()
    done = subprocess.run(
        [shutil.which("node") or "node", "--test", f"tests/page/{module}.test.mjs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout
