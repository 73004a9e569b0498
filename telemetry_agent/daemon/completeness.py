"""The accounts of streams in the reports, and until when the endpoint is complete."""

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.errors import StorageError
from telemetry_agent.model import StreamAccount


class Completeness:
    """Keeps the accounts of a report until the endpoint accepts it. For the uploader's thread."""

    def __init__(self, queue: AckQueue) -> None:
        self.until_ms: int | None = None
        """GNSS time until which the endpoint has confirmed everything; for any thread."""
        self._queue = queue
        self.sent: list[StreamAccount] = []
        self._sent_until_ms: int | None = None

    def report(self) -> dict[str, object]:
        """``streams`` of a report; empty without an account."""
        try:
            self.sent, self._sent_until_ms = self._queue.accounts()
        except StorageError:  # reading and writing fixes logs it
            self.sent = []
        return {"streams": [as_json(account) for account in self.sent]} if self.sent else {}

    def taken(self) -> None:
        """The endpoint has accepted the last report."""
        if self.sent:
            self.until_ms = self._sent_until_ms or self.until_ms
            if any(account.finished for account in self.sent):
                self._queue.settle(self.sent)


def as_json(account: StreamAccount) -> dict[str, object]:
    """An entry of ``streams``."""
    entry: dict[str, object] = {
        "stream": account.stream,
        "through": account.through,
        "recorded": account.recorded,
    }
    if account.not_coming:
        entry["not_coming"] = dict(account.not_coming)
    if account.damaged_in is not None:
        entry["damaged_in"] = list(account.damaged_in)
    if account.finished:
        entry["finished"] = True
    return entry
