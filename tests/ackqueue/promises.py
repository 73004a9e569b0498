"""What a queue has promised at each moment, and whether a disk after a power cut keeps it.

A moment is a position in the disk's log. A workload notes ``Promises`` as the queue's calls return.
``check`` opens the files that a cut left, with the real code and the real sqlite3, and raises
``BrokenPromiseError`` for the first broken promise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ackqueue.queue_parts import fix_at
from judge import audit

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import carry_over
from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Batch, Record, StreamAccount

Name = tuple[str, int]
NEVER = 10**12


class BrokenPromiseError(AssertionError):
    """A promise was not kept."""


@dataclass
class Call:
    """A change in the state of some fixes between two moments: all of them change, or none."""

    begun: int
    states: Mapping[Name, State]
    returned: int = NEVER


@dataclass
class Life:
    """What the queue reported about one fix, and when."""

    record: Record
    put: int
    first: State = State.READY
    committed: int = NEVER
    sent: int = NEVER
    may_go: int = NEVER
    """From this moment on, it may be deleted: it is delivered, and old enough."""
    arrived: bool = False
    """The endpoint accepted it in an earlier life."""
    calls: list[Call] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The state after the last call."""
        return self.calls[-1].states[_name(self.record)] if self.calls else self.first

    def was_given_up(self, moment: int) -> bool:
        """Whether it is gone, or may be gone, and counts as lost."""
        settled, possible = self.states(moment)
        return State.GONE in {settled, *possible}

    def has_arrived(self, moment: int) -> bool:
        """Whether the endpoint has accepted it. The queue learns of that later."""
        name = _name(self.record)
        return self.arrived or any(
            call.begun <= moment and call.states[name] is State.ACKED for call in self.calls
        )

    def states(self, moment: int) -> tuple[State, set[State]]:
        """Its state on disk, and the other possible states while a call is in progress."""
        settled = self.first
        possible: set[State] = set()
        for call in self.calls:
            state = call.states[_name(self.record)]
            if call.returned <= moment:
                settled = state
                possible.clear()
            elif call.begun <= moment:
                possible.add(state)
        return settled, possible


@dataclass
class Seal:
    """A batch without an answer: it stays the same from one moment to another."""

    names: set[Name]
    since: int = NEVER
    until: int = NEVER


class Promises:
    """All promises of the queue."""

    def __init__(self, lost: int = 0) -> None:
        self.lives: dict[Name, Life] = {}
        self._lost = lost  # the count at the start of this life
        self.seals: list[Seal] = []
        self._calls: list[Call] = []
        self._unsettled: list[Life | Call | Seal] = []

    def put(self, record: Record, begun: int) -> None:
        if _name(record) in self.lives:
            raise BrokenPromiseError(f"two fixes have the name {_name(record)}")
        self.lives[_name(record)] = Life(record, begun)
        self._unsettled.append(self.lives[_name(record)])

    def changed(self, states: Mapping[Name, State], begun: int) -> None:
        self._calls.append(Call(begun, states))
        self._unsettled.append(self._calls[-1])
        for name in states:
            self.lives[name].calls.append(self._calls[-1])

    def sealed(self, batch: Batch) -> None:
        self.seals.append(Seal(set(names(batch.records))))
        self._unsettled.append(self.seals[-1])

    def settled(self, moment: int) -> None:
        """Note that the queue reports everything as on disk."""
        for promise in self._unsettled:
            match promise:
                case Life():
                    promise.committed = moment
                case Call():
                    promise.returned = moment
                case Seal():
                    promise.since = moment
        self._unsettled.clear()

    def sent(self, batch: Batch, begun: int, moment: int) -> None:
        """End the promise of each earlier batch that contains one of these fixes."""
        some = names(batch.records)
        for name in some:
            self.lives[name].sent = min(self.lives[name].sent, moment)
        for seal in self.seals:
            if seal.until == NEVER and not seal.names.isdisjoint(some):
                seal.until = begun

    def after(self, moment: int, found: Mapping[Name, State]) -> "Promises":
        """The promises at the start of the next life's log. That life found these fixes."""
        following = Promises(self._lost + self._given_up(found, moment))
        for name, life in self.lives.items():
            later = Life(life.record, 0, found.get(name, State.READY))
            later.arrived = life.has_arrived(moment)
            following.lives[name] = later
            if name in found and life.committed <= moment:
                later.committed = 0
            elif name in found:
                following._unsettled.append(later)  # from a torn commit
        following.seals = [
            Seal(seal.names, 0) for seal in self.seals if seal.since <= moment < seal.until
        ]
        return following

    def check(self, path: Path, moment: int) -> dict[Name, State]:
        """Check the disk after a cut at ``moment`` against the earlier promises.

        Returns:
            The states of the fixes on the disk.

        Raises:
            BrokenPromiseError: For the first broken promise.
        """
        try:
            queue = AckQueue(path)
        except StorageError as error:
            raise BrokenPromiseError(f"it does not open: {error}") from error
        with queue:
            try:
                return self._check(queue, moment)
            except StorageError as error:
                raise BrokenPromiseError(f"it cannot be used: {error}") from error

    def _check(self, queue: AckQueue, moment: int) -> dict[Name, State]:
        carry_over(queue)
        (verdict,) = queue.shared.store._connection.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise BrokenPromiseError(f"integrity_check: {verdict}")
        found: dict[Name, State] = {}
        for stored in queue.stored():
            name = _name(stored.record)
            if name in found:
                raise BrokenPromiseError(f"{name} is there twice")
            life = self.lives.get(name)
            if life is None or life.put > moment or life.record != stored.record:
                raise BrokenPromiseError(f"{name} was never put like this: {stored.record}")
            found[name] = stored.state
        self._check_states(found, moment)
        lost = queue.stats().lost
        if sum(lost.values()) != self._lost + self._given_up(found, moment):
            raise BrokenPromiseError(f"lost: {lost}")
        arrived = {name for name, life in self.lives.items() if life.has_arrived(moment)}
        accounts: dict[str, StreamAccount] = {}
        self._check_account(queue, found, moment, arrived, accounts)
        for batch in self._check_batches(queue, found, moment):
            queue.ack(batch)
            arrived.update(names(batch.records))
        self._check_account(queue, found, moment, arrived, accounts)
        record = queue.put(fix_at(), "after")
        if (record.stream, record.seq) in self.lives:
            raise BrokenPromiseError(f"the name {record.stream} {record.seq} is given again")
        queue.commit()
        return found

    def _check_states(self, found: Mapping[Name, State], moment: int) -> None:
        gone = [
            (name, life)
            for name, life in self.lives.items()
            if name not in found and moment < life.may_go and not life.was_given_up(moment)
        ]
        for name, life in gone:
            if life.sent <= moment:
                raise BrokenPromiseError(f"{name} was handed out, and is not on disk")
        for name, life in gone:
            if life.committed <= moment:
                raise BrokenPromiseError(f"{name} was committed, and is gone")
        for name, state in found.items():
            settled, possible = self.lives[name].states(moment)
            if state not in {settled, *possible}:
                raise BrokenPromiseError(f"{name} was {settled.name}, and is {state.name} again")
        under_way = [call for call in self._calls if call.begun <= moment < call.returned]
        if len(under_way) == 1:
            (call,) = under_way
            done = {
                found.get(name, State.GONE) == state
                for name, state in call.states.items()
                if self.lives[name].states(moment)[0] != state and moment < self.lives[name].may_go
            }
            if len(done) > 1:
                raise BrokenPromiseError("half a call is on disk")

    def _given_up(self, found: Mapping[Name, State], moment: int) -> int:
        return sum(
            life.was_given_up(moment) for name, life in self.lives.items() if name not in found
        )

    def _check_batches(
        self, queue: AckQueue, found: Mapping[Name, State], moment: int
    ) -> list[Batch]:
        """Check that each ready fix is handed out once, and no other fix."""
        leased: list[Batch] = []
        while batch := queue.lease(10_000):
            leased.append(batch)
        handed_out = [name for batch in leased for name in names(batch.records)]
        batches = [set(names(batch.records)) for batch in leased]
        ready = {name for name, state in found.items() if state is State.READY}
        if len(handed_out) != len(ready) or set(handed_out) != ready:
            raise BrokenPromiseError("what is handed out is not what is ready")
        for seal in self.seals:
            if seal.since <= moment < seal.until and seal.names not in batches:
                raise BrokenPromiseError("a batch without an answer does not come again as it was")
        return leased

    def _check_account(
        self,
        queue: AckQueue,
        found: Mapping[Name, State],
        moment: int,
        arrived: set[Name],
        accounts: dict[str, StreamAccount],
    ) -> None:
        """Check that the queue's accounts agree with what the endpoint accepted.

        ``accounts`` are the accounts that the endpoint already has. New ones are added.
        """
        while some := [a for a in queue.accounts()[0] if accounts.get(a.stream) != a]:
            accounts |= {account.stream: account for account in some}
            queue.settle(some)  # a report has at most 20
        said = audit(accounts.values(), arrived)
        # The queue can give up an accepted fix if it still considers the fix ready.
        not_coming = {
            name
            for name in arrived
            if found.get(name) is State.ACK_FAILED
            or (name not in found and self.lives[name].was_given_up(moment))
        }
        stored = sum(stream["stored"] - stream["expected"] for stream in said["streams"])
        if not said["complete"] or said["unaccounted"] or stored > len(not_coming):
            raise BrokenPromiseError(f"the endpoint's audit: {said}")
        through = {stream["stream"]: stream["through"] for stream in said["streams"]}
        if not queue.backlog().ready and any(seq > through.get(of, 0) for of, seq in found):
            raise BrokenPromiseError(f"all is delivered, but the endpoint's audit: {said}")


def _name(record: Record) -> Name:
    return record.stream, record.seq


def names(records: Iterable[Record]) -> list[Name]:
    return [_name(record) for record in records]
