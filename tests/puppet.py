"""An agent whose receiver and endpoint are set by the test. None of its threads runs."""

from pathlib import Path

from fakes import FakeClock

from telemetry_agent.config.settings import (
    GpsSettings,
    QueueSettings,
    SamplingSettings,
    Settings,
    UploadSettings,
)
from telemetry_agent.daemon.app import Agent
from telemetry_agent.daemon.status import report
from telemetry_agent.gnss.reader import ReceiverStatus
from telemetry_agent.model import Fix
from telemetry_agent.snapshot import Snapshot
from telemetry_agent.upload.upload_status import UploadStatus


class Puppet:
    """The agent, and the state of its receiver and endpoint."""

    def __init__(self, folder: Path, device: str = "van-07") -> None:
        self.clock = FakeClock()
        settings = Settings(
            device=device,
            gps=GpsSettings(source="/dev/gps"),
            sampling=SamplingSettings(interval_s=0),
            queue=QueueSettings(path=folder / "queue.db"),
            upload=UploadSettings(url="http://example.com/"),
        )
        self.agent = agent = Agent(settings, self.clock)
        agent.storage = None  # the result must not depend on the tests' disk
        self.queue = agent.queue
        self.receiver = ReceiverStatus("/dev/gps", "absent", self.clock.now_s)
        self.upload = UploadStatus(since_s=self.clock.now_s)
        agent.recording.receiver = lambda: self.receiver  # type: ignore[method-assign]
        agent.delivery.status = lambda: self.upload  # type: ignore[method-assign]

    def fix_comes(self, fix: Fix) -> None:
        """Record a fix as if it came from the receiver."""
        self.agent.recording._record(fix)

    def uploader_stepped(self, upload: UploadStatus) -> None:
        self.upload = self.agent.delivery._keeper.status = upload
        self.agent.delivery._stepped()

    @property
    def snapshot(self) -> Snapshot:
        return self.agent.snapshot()

    @property
    def report(self) -> dict[str, object]:
        return report(self.snapshot)
