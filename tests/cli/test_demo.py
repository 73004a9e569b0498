"""What the demo prints, on any terminal."""

import re
from pathlib import Path

import pytest
from processes import agent


@pytest.mark.parametrize(
    ("env", "blocks"),
    [
        ({"PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"}, "█░"),
        ({"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "NO_COLOR": "1"}, "#."),
    ],
)
def test_it_fits_80_columns_obeys_no_color_and_shows_the_backlog_shrink(
    env: dict[str, str], blocks: str, tmp_path: Path
) -> None:
    with agent("demo", "--for", "30s", env=env) as demo:
        assert demo.wait(90) == 0, demo.text()
    assert max(map(len, demo.out)) <= 80
    text = "\n".join(demo.out)
    assert "\x1b" not in text
    assert set(blocks) <= set(text)
    assert re.search(r"http://127.0.0.1:\d+/ shows it on a map", text)
    waiting = [int(found) for found in re.findall(r"waiting +(\d+).*network up", text)]
    away = [int(found) for found in re.findall(r"waiting +(\d+).*no network", text)]
    assert max(away) >= 40
    after = waiting[waiting.index(max(waiting)) :]
    assert sum(count > 10 for count in after) >= 1, after  # not gone in one second
    assert "None was lost" in demo.out[-1]
