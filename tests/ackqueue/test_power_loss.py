"""5,000 crash states of the queue, and a check that the proof finds faults.

``python benchmarks/power_loss.py`` checks any number of states.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest
from ackqueue import promises
from ackqueue.power_loss import Subject, prove
from ackqueue.promises import BrokenPromiseError
from judge import Name, audit
from once import TEETH, mostly_once

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.model import Batch, StreamAccount

if TYPE_CHECKING:
    from ackqueue.recorded_disk import Recorded


@pytest.mark.parametrize("seed", mostly_once(range(8), 3))
def test_every_promise_outlasts_a_power_cut_at_any_moment(seed: int) -> None:
    assert prove(seed, 500).states >= 500


def test_the_life_after_a_cut_is_cut_too() -> None:
    tally = prove(8, 1000)
    assert tally.of_recoveries >= 30
    assert tally.states == 1000 + tally.of_recoveries


class _AcksBeforeCommit(AckQueue):
    """Writes the acknowledgement to disk with the next call, to save one transaction."""

    def ack(
        self,
        batch: Batch,
        *,
        rejected: Mapping[int, str] = MappingProxyType({}),
        retry: Collection[int] = (),
    ) -> None:
        with self.shared.lock:
            self.shared.ledger.ack(batch, rejected, retry)


class _LeasesBeforeCommit(AckQueue):
    """Hands out the fixes of its transaction, and commits them with the next one."""

    def lease(self, limit: int, **how: Any) -> Batch | None:
        disk = cast("Recorded", self.shared.store._connection).disk
        disk.commits_late = True
        try:
            return super().lease(limit, **how)
        finally:
            disk.commits_late = False


def prove_all(seeds: Iterable[int], subject: Subject) -> None:
    for seed in seeds:
        prove(seed, 500, subject)


@TEETH
@pytest.mark.parametrize(
    ("subject", "broken"),
    [
        (Subject(pragmas=("PRAGMA synchronous = NORMAL",)), r"is not on disk|is gone|again|lost"),
        (Subject(pragmas=("PRAGMA synchronous = OFF",)), r"."),
        (Subject(_AcksBeforeCommit), r"was ACKED, and is READY again"),
        (Subject(_LeasesBeforeCommit), "was handed out, and is not on disk"),
    ],
    ids=["synchronous=NORMAL", "synchronous=OFF", "ack before commit", "lease before commit"],
)
def test_a_careless_queue_is_caught(subject: Subject, broken: str) -> None:
    with pytest.raises(BrokenPromiseError, match=broken):
        prove_all(range(3, 8), subject)


@TEETH
def test_an_endpoint_that_forgets_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(accounts: Iterable[StreamAccount], received: Iterable[Name]) -> dict[str, Any]:
        return audit(accounts, sorted(received)[1:])

    monkeypatch.setattr(promises, "audit", forgets)
    with pytest.raises(BrokenPromiseError, match=r"the endpoint's audit: .*'missing': 1"):
        prove(0, 500)
