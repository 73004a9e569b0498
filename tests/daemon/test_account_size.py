"""How much a stream's account adds to a report, and what makes it long (docs/completeness.md)."""

import random

import pytest

from telemetry_agent.daemon.status import account_json
from telemetry_agent.model import Batch, StreamAccount
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.interfaces import Compression

REPORT = {
    "version": "0.9.0",
    "uptime": 123456,
    "receiver": "3d",
    "upload": "ok",
    "antenna": "OK",
    "sats": 11,
    "pending": 12,
    "oldest_pending": "2026-11-23T14:02:10.000Z",
    "dead_letters": 3,
    "lost": {"thinned": 120},
    "disk_free": 12345678912,
}


def size(accounts: list[StreamAccount], compression: Compression) -> int:
    """Size of a request without fixes, in bytes."""
    batch = Batch(0, "9f0c2d6e11a7b354", "van-07", (), live=True)
    agent = REPORT | (
        {"streams": [account_json(account) for account in accounts]} if accounts else {}
    )
    return len(native.encode(batch, compression=compression, agent=agent).body)


def bytes_a_stream(
    streams: int, reasons: list[str], *, damaged: bool, finished: bool
) -> tuple[int, int]:
    """Return bytes per stream, plain and compressed, of streams of up to 100,000 fixes."""
    draw = random.Random(7)
    accounts = []
    for _ in range(streams):
        through = draw.randrange(1000, 100_000)
        counts = {reason: draw.randrange(1, 1000) for reason in reasons}
        accounts.append(
            StreamAccount(
                f"{draw.getrandbits(64):016x}",
                through,
                through - draw.randrange(900),
                counts,
                (draw.randrange(1000), through) if damaged else None,
                finished=finished,
            )
        )
    plain = size(accounts, "none") - size([], "none")
    compressed = size(accounts, "gzip") - size([], "gzip")
    return -(-plain // streams), -(-compressed // streams)


@pytest.mark.parametrize(
    ("reasons", "damaged", "finished", "one", "each_of_20"),
    [
        ([], False, False, (75, 42), (64, 22)),
        ([], False, True, (91, 51), (80, 23)),
        (["thinned"], False, False, (104, 56), (93, 26)),
        (["thinned", "refused"], False, True, (134, 70), (123, 31)),
        (
            ["thinned", "dropped", "expired", "refused", "damaged"],
            True,
            True,
            (199, 104),
            (189, 49),
        ),
    ],
)
def test_the_account_of_a_stream_costs_no_more_bytes_than_documented(
    reasons: list[str],
    damaged: bool,
    finished: bool,
    one: tuple[int, int],
    each_of_20: tuple[int, int],
) -> None:
    for streams, documented in ((1, one), (20, each_of_20)):
        plain, compressed = bytes_a_stream(streams, reasons, damaged=damaged, finished=finished)
        assert plain <= documented[0]
        assert compressed <= documented[1] + 3  # another zlib version
