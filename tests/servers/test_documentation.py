"""The settings that the documentation shows are right."""

from pathlib import Path

import pytest
from documents import blocks

from telemetry_agent.config import loader

BLOCKS = [
    text for name in ("servers.md", "endpoint.md", "fleet.md") for text in blocks(name, "toml")
]


@pytest.mark.parametrize("text", BLOCKS)
def test_each_config_of_the_documentation_is_right(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    upload = "" if "[upload]" in text else '[upload]\nurl = "https://x/"\n'
    path.write_text(f'device = "van-07"\n{text}{upload}')
    loader.load(path)
