"""The page shows the worst state, in a real browser with a real daemon; the doctor's checks."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from browsing import browsing, comes_true
from once import DRAWN
from ports import free_port
from rig import START_MS, simulated, started, write_config

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.doctor.storage_checks import file_system
from telemetry_agent.lab.endpoint import Endpoint, Tokens
from telemetry_agent.model import Fix

pytestmark = DRAWN


@contextmanager
def lasting_folder() -> Iterator[Path]:
    """A folder on a disk that passes the check of the doctor."""
    for parent in (tempfile.gettempdir(), "/var/tmp", "/work", str(Path.home())):
        folder = Path(parent)
        if folder.is_dir() and file_system(folder, Path("/")).verdict == "pass":
            break
    else:
        pytest.skip("no disk here outlasts a power cut")
    folder = Path(tempfile.mkdtemp(prefix="telemetry-agent-test-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def refused(folder: Path, count: int) -> None:
    with AckQueue(folder / "queue.db") as queue:
        for number in range(count):
            queue.put(Fix(START_MS + 1000 * number, 48_117_300_000, 11_516_667_000), "van-07")
        batch = queue.lease(count)
        assert batch
        queue.ack(batch, rejected=dict.fromkeys(range(1, count + 1), "400: lat out of range"))


@pytest.mark.parametrize(
    ("case", "tone", "title", "cause"),
    [
        ("well", "good", r"all delivered|\d+ waiting", ""),
        ("refused", "stored", "350 positions refused", "endpoint refused 350.*queue retry"),
        ("pulled out", "bad", "receiver absent", "/dev/none: no such device. To do: plug"),
        ("401", "bad", "held, ", "401.*reload"),
        ("config", "bad", "config not used", "last good config.*upload2.*correct the config"),
        (
            "refusing disk",
            "bad",
            "disk refuses",
            "recording into .*To do: sudo telemetry-agent doctor",
        ),
        ("tmpfs", "bad", "disk not safe", "tmpfs.*power cut loses everything.*queue.path"),
    ],
)
def test_the_worst_has_the_headline_the_title_and_the_icon(
    case: str, tone: str, title: str, cause: str
) -> None:
    port = free_port()
    with ExitStack() as stack:
        folder = stack.enter_context(lasting_folder())
        if case == "refused":
            refused(folder, 350)
        tokens = folder / "tokens"
        tokens.write_text('van-07 = "another-token"\n')
        endpoint = stack.enter_context(
            Endpoint(
                "127.0.0.1:0",
                folder / "received.db",
                tokens=Tokens(tokens) if case == "401" else None,
            )
        )
        stack.enter_context(simulated(folder))
        queue_path = folder / "queue.db"
        if case == "tmpfs":
            if not Path("/dev/shm").is_dir():
                pytest.skip("no tmpfs here")
            memory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
            queue_path = memory / "queue.db"
        if case == "refusing disk":
            (folder / "mount").touch()  # a file, not a folder
            queue_path = folder / "mount" / "queue.db"
        config = write_config(
            folder,
            "/dev/none" if case == "pulled out" else str(folder / "gps"),
            endpoint.url,
            page={"listen": f"127.0.0.1:{port}"},
            queue={"path": str(queue_path)},
        )
        service = {"STATE_DIRECTORY": str(folder), "RUNTIME_DIRECTORY": str(folder / "run")}
        (folder / "run").mkdir()
        if case == "config":
            with started(config, service) as daemon:
                assert daemon.end() == 0
            config.write_text(config.read_text() + "[upload2]\n")
        daemon = stack.enter_context(started(config, service))
        daemon.wait_for_line("the page is at")
        env = {
            "EXPECTED": json.dumps(
                {"tone": tone, "title": title, "cause": cause, "name": case.replace(" ", "-")}
            )
        }
        with browsing("worst", f"http://127.0.0.1:{port}/", env) as browser:
            comes_true(browser)


def test_check_everything_shows_the_doctors_table_and_opens_no_receiver() -> None:
    port = free_port()
    with (
        lasting_folder() as folder,
        Endpoint("127.0.0.1:0", folder / "received.db") as endpoint,
        simulated(folder),
    ):
        page = {"listen": f"127.0.0.1:{port}"}
        config = write_config(folder, str(folder / "gps"), endpoint.url, page=page)
        with started(config) as daemon:
            daemon.wait_for_line("the page is at")
            with browsing("check", f"http://127.0.0.1:{port}/") as browser:
                comes_true(browser)
            assert daemon.end() == 0
            assert "read" not in " ".join(line for line in daemon.err if "WARNING" in line)
