"""What the tests of uploads share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from uploading import FIX

from telemetry_agent.model import Answer, Batch, Fix, Outcome, Payload, Record
from telemetry_agent.upload.formats.choice import choose
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import Compression, FormatName, NoAnswer

STREAM = "9f0c2d0000000000"
FULL = Fix(
    1764426119250,
    48_117300000,
    -11_516667123,
    alt_mm=545_400,
    geoid_sep_mm=46_900,
    speed_mm_s=11_524,
    course_mdeg=359_700,
    mode=3,
    hdop_e2=90,
    vdop_e2=130,
    pdop_e2=158,
    sats=8,
    err_h_mm=2_600,
    err_v_mm=4_100,
    odo_m=1234,
    flags=("jump",),
)


def batch_of(*fixes: Fix, device: str = "van-07") -> Batch:
    records = tuple(Record(STREAM, 17 + n, device, fix) for n, fix in enumerate(fixes))
    return Batch(1, STREAM, device, records, live=False)


def encoded(
    name: FormatName,
    *fixes: Fix,
    url: str = "http://x/",
    username: str = "",
    device: str = "van-07",
    compression: Compression = "none",
) -> Payload:
    batch = batch_of(*fixes, device=device)
    return choose(name, url, username).encode(batch, compression)


def outcome(
    name: FormatName, status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> Outcome:
    answer = Answer(status, headers or {}, body, verified_tls=False)
    return choose(name, "http://x/").read(answer, batch_of(FIX))


PAYLOAD = Payload(b'{"fixes":[]}', {"Content-Type": "application/json"})


@contextmanager
def transport_to(url: str, **how: Any) -> Iterator[Transport]:
    transport = Transport(url, **how)
    try:
        yield transport
    finally:
        transport.close()


def answered(outcome: Answer | NoAnswer) -> Answer:
    assert isinstance(outcome, Answer), outcome
    return outcome


def unanswered(outcome: Answer | NoAnswer) -> str:
    assert isinstance(outcome, NoAnswer), outcome
    return outcome.reason
