"""What the uploader needs: the queue, a wire format, the policy of the config."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from telemetry_agent.model import Answer, Backlog, Batch, Outcome, Payload, Record, UploadState

Compression = Literal["none", "gzip"]
CompressionSetting = Literal["auto", "gzip", "none"]
Speaks = Literal["http", "tls", "other"]
FormatName = Literal[
    "native", "overland", "osmand", "owntracks", "gpslogger", "influx", "clickhouse"
]


PROXY_FAILURES = {502, 504}
"""What a proxy answers if the server behind it is down, fails, or takes too long for the batch;
Caddy also if the body is larger than its ``max_size``."""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The exchange ended without an answer: the endpoint may or may not have the batch."""

    reason: str
    state: UploadState = "unreachable"
    voids_earlier: bool = False
    """The answers that came before it in its series do not count either."""
    proxy_status: int = 0
    """What a proxy answered that does not connect to the endpoint."""
    refuses_certificate: bool = False
    """The endpoint refuses the certificate of this device, or its lack."""
    speaks: Speaks | None = None
    """What the port speaks in place of what the URL says; ``None``: that, or it is unknown."""


OnAnswer = Callable[[Answer], bool]
"""Gets each answer of a series in order; returns whether to send more requests."""


class BatchQueue(Protocol):
    """The part of the queue that the uploader uses. A batch is a lease.

    Only ``lease`` raises a StorageError: what the disk refuses to note, memory knows.
    """

    def lease(
        self,
        limit: int,
        *,
        live_first: bool,
        backlog_only: bool = ...,
        besides: Collection[str] = ...,
    ) -> Batch | None:
        """Lease the newest live fixes if ``live_first`` and there are any; else the oldest.

        Then live fixes are left out if ``backlog_only``, and the fixes of the devices ``besides``.
        """

    def split(self, batch: Batch, at: int) -> tuple[Batch, Batch]:
        """Make two leases of one: the first ``at`` fixes, and the rest."""

    def ack(
        self, batch: Batch, *, rejected: Mapping[int, str] = ..., retry: Collection[int] = ...
    ) -> None:
        """Mark as delivered, except these names: dead letters, and those that stay ready."""

    def fail(self, batch: Batch, reason: str) -> None:
        """Make dead letters of the batch."""

    def release(self, batch: Batch, *, answered: bool = True) -> None:
        """Give the batch back: ready, or unack if no answer came."""

    def resume_unack(self) -> int:
        """Make unack ready again."""

    def backlog(self) -> Backlog:
        """What is to be sent. Leased and unanswered fixes do not count."""


Encode = Callable[[Batch, Compression], Payload]
"""Makes the request for a batch. The compression is allowed, not required."""

EncodeReport = Callable[[Batch, Compression, Mapping[str, object]], Payload]
"""The same with a report of the agent about itself; the batch may hold no fixes."""


@dataclass(frozen=True, slots=True)
class WireFormat:
    """One wire format: pure functions, and what the servers that take it need."""

    encode: Encode
    read: Callable[[Answer, Batch], Outcome]
    """What an answer means for the batch."""
    unfit: Callable[[Record], str | None] = lambda _: None
    """Why a fix cannot be sent in this format."""
    one_by_one: bool = False
    """A request holds one fix."""
    gzip: Literal["never", "proven", "always"] = "never"
    """When ``auto`` compresses: "proven" is once an answer shows that the server unpacks gzip,
    "always" is safe because the servers unpack it or refuse it."""
    pipelined: bool = False
    """Several requests may be sent before the first is answered."""
    oldest_first: bool = False
    """The server needs the fixes in their order."""
    encode_report: EncodeReport | None = None


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """How the uploader behaves: the config's ``[upload]``."""

    max_batch: int = 1000
    flush_every_s: float = 10.0
    timeout_s: float = 30.0
    live_first: bool = True
    """False: the order counts, so the oldest fixes go first."""
    compression: CompressionSetting = "auto"
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 120.0


class Reachability(Protocol):
    """Whether the endpoint can be reached, as far as known. It delays attempts, never forbids."""

    def closed(self) -> tuple[UploadState, str] | None:
        """Why the endpoint cannot be reached: state and reason; ``None``: it can."""

    def doubt(self) -> None:
        """Note that an exchange got no answer."""

    def answered(self) -> None:
        """Note that an exchange got an answer, of any kind."""
