"""The output of the demo, on any terminal."""

import contextlib
import http.client
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from processes import AGENT, ROOT, agent, running

from telemetry_agent.cli.demo import _CUT_S, _summary


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
        assert demo.wait(150) == 0, demo.text()
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_it_is_not_about_a_tmp_in_memory() -> None:
    """Debian 13 has such a /tmp."""
    # The program may itself be somewhere below /tmp.
    script = (
        'mount --bind "$0" /mnt; mount -t tmpfs tmpfs /tmp; '
        'mkdir -p "$0"; mount --bind /mnt "$0"; exec "$@"'
    )
    argv = ("unshare", "--mount", "sh", "-euc", script, str(ROOT), *AGENT, "demo", "--for", "3s")
    with running(*argv, env={"TMPDIR": ""}) as demo:
        assert demo.wait(120) == 0, demo.text()
    assert "a power cut" not in demo.text()


def test_the_cut_waits_for_the_first_viewer() -> None:
    with agent("demo", "--for", "600s") as demo:  # without a viewer, the cut comes after 200 s
        port = int(demo.wait_for_line(r"Look at http://127.0.0.1:(\d+)/")[1])
        demo.wait_for_line(f"^ +{2 * _CUT_S:.0f} s ", limit_s=120)
        assert "no network" not in demo.text()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as line:
            line.request("GET", "/events")
            line.getresponse()
            cut = demo.wait_for_line(r"^ *(\d+) s .*no network", limit_s=120)
            assert int(cut[1]) < 200
            assert demo.end(by=signal.SIGINT) == 0, demo.text()


CUT_BEFORE_THE_LAST_ANSWER = """
from polling import wait_until
from telemetry_agent.cli import demo, main

def watch(agent, simulator, network, *_):
    def is_the_last_under_way():
        stats = agent.queue.stats()
        return stats.in_flight and stats.acked + stats.in_flight == simulator.sent
    assert simulator.done.wait(60)
    wait_until(is_the_last_under_way)
    network.cut(True)
    assert network._endpoint.wait_for(simulator.sent, 60)
    raise KeyboardInterrupt

demo._watch = watch
main(["demo", "--for", "3s", "--no-page"])
"""


def test_an_end_whose_last_answer_was_lost_waits_for_another() -> None:
    tests = {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    with running(sys.executable, "-c", CUT_BEFORE_THE_LAST_ANSWER, env=tests) as demo:
        assert demo.wait(120) == 0, demo.text()
    assert "None was lost" in demo.out[-1]


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGQUIT])
def test_the_end_of_its_terminal_leaves_no_file(how: int, tmp_path: Path) -> None:
    with agent("demo", "--for", "600s", env={"TMPDIR": str(tmp_path)}) as demo:
        demo.wait_for_line("^ +1 s ")
        assert list(tmp_path.iterdir())
        assert demo.end(by=how) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("acked", "waiting", "arrived", "words"),
    [
        (19, 0, 19, "19 are missing"),  # 38 were sent
        (30, 8, 30, "8 still wait on the disk, none is lost."),
        (22, 16, 30, "16 still wait on the disk, none is lost."),  # 8 arrived without an answer
        (22, 12, 30, "8 are missing"),  # 4 of them do not wait either
        (38, 0, 38, "each arrived exactly once. None was lost."),
    ],
)
def test_what_waits_is_not_missing_even_where_the_endpoint_has_it(
    acked: int, waiting: int, arrived: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    received = [("demo", number, str(number)) for number in range(arrived)]
    _summary(38, received, delivered=acked, waiting=waiting)
    assert words in capsys.readouterr().out
