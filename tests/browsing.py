"""A real browser on the page, for the stories of ``browser.mjs``."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from processes import ROOT, Running, running

STORIES = ROOT / "tests/page/browser.mjs"
PICTURES = os.environ.get("TELEMETRY_AGENT_PICTURES", "")


def require_browser() -> None:
    """Skip the test if a part is missing; in CI, fail."""
    missing = [name for name in ("node", "chromium") if shutil.which(name) is None]
    if not (ROOT / "node_modules/playwright-core").exists():
        missing.append("playwright-core (npm ci)")
    if missing and not os.environ.get("CI"):
        pytest.skip(f"needs {', '.join(missing)}")
    assert not missing


@contextmanager
def browsing(story: str, url: str, env: Mapping[str, str] = {}) -> Iterator[Running]:
    """A browser that runs the story."""
    require_browser()
    arguments = [PICTURES] if PICTURES else []
    node = shutil.which("node") or "node"
    with running(node, str(STORIES), story, url, *arguments, env=env) as browser:
        yield browser


def comes_true(browser: Running, limit_s: float = 250) -> None:
    """Wait until the story has succeeded."""
    assert browser.wait(limit_s) == 0, browser.text()
