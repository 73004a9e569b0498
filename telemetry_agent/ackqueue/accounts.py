"""The accounts of the streams of a queue in use, for the endpoint; what they are: ``streams``."""

from collections.abc import Collection

from telemetry_agent.ackqueue.file.rows import SEQ, decode
from telemetry_agent.ackqueue.file.store import ROWS_PER_READ
from telemetry_agent.ackqueue.shared_state import SharedState
from telemetry_agent.ackqueue.streams import STREAMS_MAX, KnownSeqs
from telemetry_agent.model import StreamAccount


class Accounts:
    """Reads and settles them."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared

    def read(self) -> tuple[list[StreamAccount], int | None]:
        """What became of the fixes of each stream, and until when that is everything.

        Of each stream that is not finished, or is since ``settle``; the oldest first, at most 20.

        Returns:
            The accounts, and the GNSS time of the newest fix before all that is to be delivered;
            ``None``: nobody knows.

        Raises:
            StorageError: The file cannot be read.
        """
        with self._shared.disk:
            return self._read()

    def settle(self, accounts: Collection[StreamAccount]) -> None:
        """The endpoint has these accounts: what is finished in them, and still so, is settled.

        Raises:
            StorageError: The file cannot be read.
        """
        shared = self._shared
        with shared.disk:
            shared.use()
            now, _ = self._read()
            with shared.lock:
                shared.ledger.streams.settle([account for account in accounts if account in now])

    def _read(self) -> tuple[list[StreamAccount], int | None]:
        shared, ledger = self._shared, self._shared.ledger
        shared.check_open()
        if shared.writer.placed:
            shared.write()
            if shared.writer.placed:  # refused: on disk these rows are in other places
                return [], None
        seqs = KnownSeqs()
        accounts = None
        while accounts is None or seqs.wanted:
            while seqs.wanted:
                row = seqs.wanted.pop()
                seqs[row] = next((found[SEQ] for found in shared.read(row, row)), None)
            with shared.lock:
                oldest = ledger.oldest_pending() or shared.committed + 1
                # What is older is not in any account, and not delivered.
                if ledger.away.any or oldest < ledger.streams.first_row:
                    return [], None
                accounts = ledger.streams.accounts(shared.last, shared.stream, seqs)
        if len(accounts) == STREAMS_MAX:  # the next report has others
            return accounts, None
        newest = shared.ask(lambda store: store.read_back(oldest - 1, ROWS_PER_READ))
        records = map(decode, newest)
        return accounts, next((r.fix.time_ms for r in records if r and r.fix.time_is_sure), None)
