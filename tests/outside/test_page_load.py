"""Twenty browsers are connected, and the agent records as without them."""

import http.client
import sys
import threading
from contextlib import closing
from pathlib import Path

from ports import free_port
from rig import simulated, started, stats, write_config

from telemetry_agent.lab.endpoint import Endpoint

BROWSERS = 20
EPOCHS = 100
RSS_MAX_KB = 60_000


class Viewer(threading.Thread):
    """Read events until the agent ends."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.events = 0
        self.looks = threading.Event()
        self.keeps_looking = threading.Event()

    def run(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as line:
            line.request("GET", "/events")
            try:
                for text in line.getresponse():
                    if text.startswith(b"data:"):
                        self.events += 1
                        self.looks.set()
                        if self.events > 5:
                            self.keeps_looking.set()
            except (OSError, http.client.HTTPException):
                return


def test_twenty_browsers_cost_the_reader_no_fix(tmp_path: Path) -> None:
    port = free_port()
    viewers = [Viewer(port) for _ in range(BROWSERS)]
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint:
        config = write_config(
            tmp_path, str(tmp_path / "gps"), endpoint.url, page={"listen": f"127.0.0.1:{port}"}
        )
        with started(config) as daemon:
            daemon.wait_for_line("the page is at")
            for viewer in viewers:
                viewer.start()
            assert all(viewer.looks.wait(60) for viewer in viewers)
            with simulated(tmp_path, EPOCHS, rate_hz=20) as simulator:
                assert simulator.done.wait(60)
            assert all(viewer.keeps_looking.wait(60) for viewer in viewers)
            status = Path(f"/proc/{daemon.process.pid}/status").read_text()
            assert daemon.end() == 0
        for viewer in viewers:
            viewer.join(60)
    counts = stats(tmp_path)
    assert counts.ready + counts.unack + counts.acked == EPOCHS
    rss_kb = int(status.partition("VmRSS:")[2].split()[0])
    sys.stdout.write(f"{rss_kb} kB\n")
    assert rss_kb <= RSS_MAX_KB
