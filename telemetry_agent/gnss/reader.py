"""The reader: keeps a source open, and passes each fix on.

A step is one read of at most a second, or one open, which may take seconds while the baud rate is
detected. When the device goes away, the source is closed at once, so that the same node can come
back, and opened again by name with a growing backoff, which a newly plugged receiver ends. A source
without data, or without a sentence, is closed and opened again at once: some receivers need only
that, and others have changed their baud rate. Later the time before the next opening grows, so that
slow data can arrive. The decoder's open epoch is recorded before the decoder is dropped.

Several threads meet here. Steps run in the reader's own; ``wake``, ``close``, ``satellites`` and
``status`` are for others too. ``close`` may come during a step: it cancels the read, then waits
until the step releases the source, so decoder and source have one user at a time.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from telemetry_agent.clock import Clock
from telemetry_agent.errors import Advice, SourceError, counted
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.diagnosis import Diagnosis
from telemetry_agent.gnss.framing import MAX_SENTENCE
from telemetry_agent.gnss.sources import BusyError, EndOfSourceError, ForbiddenError, Source
from telemetry_agent.gnss.sources.hotplug import PortBell
from telemetry_agent.gnss.sources.machine import without_pids
from telemetry_agent.gnss.sources.protocols import unreadable
from telemetry_agent.model import Fix, ReceiverState, Satellite
from telemetry_agent.tasks import Task
from telemetry_agent.trouble import Trouble

_log = logging.getLogger(__name__)

_LONGEST_READ_S = 1.0
_SILENT_AFTER_S = 10.0  # some receivers take 8 s for an epoch
_UNREADABLE_AFTER_S = 5.0
_DATELESS_S = 60.0  # some receivers send the date rarely
_MAX_PATIENCE = 6  # multiplies these times before such a source is opened again
_UNREAD_BYTES = 4096  # kept of a line without sentences, to find out what it is
_BACKOFF_S = 1.0
_BACKOFF_MAX_S = 30.0
_CLOSE_S = 1.0
_REST_S = 0.5  # of an instant's sentences, on a slow line

_WORKING: set[ReceiverState] = {"no-fix", "2d", "3d"}


@dataclass(frozen=True, slots=True)
class ReceiverStatus:
    """The state of the receiver."""

    source: str
    state: ReceiverState
    since_s: float
    """Monotonic: when it entered this state."""
    fixes: int = 0
    """Passed on since the start."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """The decoder's counts since the start."""
    antenna: str | None = None
    """The receiver's last message about its antenna: OK, OPEN, SHORT, …"""
    diagnosis: Diagnosis | None = None
    """Why it sends data without positions."""
    notices: tuple[str, ...] = ()
    """What the user should know although the receiver sends positions."""
    trouble: Advice | None = None
    """Why there is no position, as in the log; ``None``: no fault."""
    is_forbidden: bool = False
    """Whether the system does not let this user open it."""


class Reader(Task):
    """The reader task.

    Args:
        source: where bytes come from.
        decoder: makes a new decoder each time the source was opened.
        record: takes each fix once, in the order of arrival. What it raises ends the step; the next
            step, or ``close``, passes on the fixes after it.
        clock: the machine's clocks.
        heard: takes all bytes as they came. It is called in the thread of the step or of ``close``,
            as ``changed`` is; neither may wait or raise.
        changed: called when ``status`` has another state or antenna.
        bell: what the loop waits on. A port that is plugged in ends the wait for a reopening.
        room: whether fixes can be recorded now; if not, the reader waits for ``wake``. Only for a
            source that can wait, not for a receiver.
    """

    bell: PortBell
    max_step_s = 30.0  # an open may look for a gpsd (12 s) and then try nine baud rates (11 s)

    def __init__(
        self,
        source: Source,
        decoder: Callable[[], Decoder],
        record: Callable[[Fix], object],
        clock: Clock | None = None,
        heard: Callable[[bytes], object] = lambda _data: None,
        changed: Callable[[], object] = lambda: None,
        bell: PortBell | None = None,
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        self.bell = bell or PortBell()
        self._heard = heard
        self._changed = changed
        self._source = source
        self._new_decoder = decoder
        self._record = record
        self._clock = clock or Clock()
        self._room = room
        self._in_step = threading.Lock()
        self._over = False
        self._decoder: Decoder | None = None  # there is one exactly while the source is open
        self._waiting: deque[Fix] = deque()
        self._fixes = 0
        self._counts: Counter[str] = Counter()  # of the decoders before this one
        self._bytes_s = 0.0  # when the last ones came, or the source was opened
        self._sentences = 0
        self._unread = b""  # the bytes since the last sentence
        self._unread_s = 0.0  # when the first of them came
        self._patience = 1
        self._retry_s = float("-inf")
        self._backoff_s = _BACKOFF_S
        self._trouble = Trouble(_log, self._clock)
        self._advice: dict[ReceiverState, Advice] = {}  # the last one, for the state it is about
        self._is_forbidden = False
        self._noticed: set[str] = set()
        self.status = ReceiverStatus(source.name, "absent", self._clock.monotonic_s())
        """A snapshot, replaced as a whole after each step; read it from any thread."""

    def step(self, now_s: float) -> float | None:
        """See ``Task.step``: open the source, or read it once."""
        with self._in_step:
            if self._over:
                return None
            wait_s = self._step(now_s)
            if self._over:  # ``close`` was called meanwhile, and may have returned
                self.bell.close()
                self._close_source()
            return wait_s

    def _step(self, now_s: float) -> float | None:
        if self._decoder and self._room():
            return self._read(self._decoder, now_s, _LONGEST_READ_S)
        # Before each wait: a message that is not taken would end it at once.
        if self.bell.port_was_added():
            self._retry_s = float("-inf")
            self._backoff_s = _BACKOFF_S  # udev may need a moment for its name and permissions
        return None if self._decoder else self._open(now_s)

    def satellites(self) -> tuple[Satellite, ...]:
        """Those in view. Any thread may call."""
        decoder = self._decoder
        return decoder.satellites() if decoder else ()

    def wake(self) -> None:
        """See ``Task.wake``."""
        super().wake()
        self._source.cancel()

    def close(self) -> None:
        """See ``Task.close``: pass on the fix of the open epoch, and free the device.

        Call it as soon as the loop has ended, while ``record`` still takes fixes.
        """
        self._over = True
        self.wake()
        # A step that is blocked in ``record`` still uses the source, and closes it when it ends.
        if self._in_step.acquire(timeout=_CLOSE_S):
            try:
                self.bell.close()
                try:
                    self._read_rest()
                finally:
                    self._close_source()
                self._publish(self.status.state)
            finally:
                self._in_step.release()

    def _open(self, now_s: float) -> float:
        if now_s < self._retry_s:
            return self._retry_s - now_s
        try:
            self._source.open()
        except SourceError as error:
            return self._failed(error, self._clock.monotonic_s())
        self._is_forbidden = False
        self._decoder = self._new_decoder()
        self._bytes_s = self._clock.monotonic_s()
        self._sentences, self._unread = 0, b""
        return 0

    def _read_rest(self) -> None:
        """Read the rest of an instant that has begun: the next reader could not use it."""
        until_s = self._clock.monotonic_s() + _REST_S
        while self._source.live and (decoder := self._decoder) and decoder.has_begun:
            left_s = until_s - (now_s := self._clock.monotonic_s())
            if left_s <= 0:
                return
            self._read(decoder, now_s, left_s)

    def _read(self, decoder: Decoder, now_s: float, most_s: float) -> float | None:
        due_s = decoder.due_s()
        timeout_s = most_s if due_s is None else min(due_s - now_s, most_s)
        try:
            data = self._source.read(max(0.0, timeout_s))
        except EndOfSourceError:
            self._over = True
            self._close_source()
            why = decoder.diagnosis if not self._fixes else None
            self._publish("silent", why)
            _log.info(
                "replayed %s from %s; a restart replays it as new fixes%s",
                counted(self._fixes, "fix"),
                self._source.name,
                f"; {why}" if why else "",
            )
            return None
        except SourceError as error:
            self._close_source()
            return self._failed(error, self._clock.monotonic_s())
        now_s = self._clock.monotonic_s()
        if data:
            self._heard(data)
            self._bytes_s = now_s
            fixes = decoder.feed(data, now_s)
            if decoder.sentences != self._sentences:
                self._sentences, self._unread = decoder.sentences, b""
                self._backoff_s, self._patience = _BACKOFF_S, 1
            else:
                self._unread_s = self._unread_s if self._unread else now_s
                self._unread = (self._unread + data)[-_UNREAD_BYTES:]
            self._pass_on(fixes)
        else:
            self._pass_on(decoder.tick(now_s))
        return self._judge(decoder, now_s)

    def _judge(self, decoder: Decoder, now_s: float) -> float:
        state = decoder.state or self.status.state
        silent_s, unreadable_s = now_s - self._bytes_s, 0.0
        # More bytes than a sentence has: a receiver that sends every 8 s may have begun one long
        # ago.
        if len(self._unread) > MAX_SENTENCE:
            unreadable_s = now_s - self._unread_s
        if silent_s >= _SILENT_AFTER_S:
            self._useless("silent", silent_s >= _SILENT_AFTER_S * self._patience)
        elif unreadable_s >= _UNREADABLE_AFTER_S:
            found = unreadable(self._unread)
            if isinstance(found, Diagnosis):  # opening it again would not help
                self._diagnosed("no-fix", found, now_s)
            else:
                self._useless(found, unreadable_s >= _UNREADABLE_AFTER_S * self._patience)
        else:
            self._diagnosed(state, decoder.diagnosis, now_s)
            if decoder.state in _WORKING and self.status.diagnosis is None:
                self._advice = {}
                self._trouble.over(f"{self._source.name} works again", fields={"STATE": state})
        return 0

    def _diagnosed(self, state: ReceiverState, why: Diagnosis | None, now_s: float) -> None:
        self._publish(state, why)
        name = self._source.name
        if why and (state != "no-date" or now_s - self.status.since_s >= _DATELESS_S):
            advice = Advice(f"{name}: {why.message}", why.remedy)
            self._report(state, advice, counts=advice not in self._advice.values())
        for notice in self.status.notices:
            if notice not in self._noticed:
                self._noticed.add(notice)
                _log.warning("%s: %s", name, notice)

    def _useless(self, state: ReceiverState, again: bool) -> None:
        """Report a source that sends nothing readable, and close it, so that it is opened again.

        At once if the state or the source (``auto`` tries several) is new, then only if ``again``.
        """
        before = self.status
        self._publish(state)
        reported = (state, self._source.name) == (before.state, before.source)
        if reported and not again:
            return
        self._close_source()
        self._patience = min(2 * self._patience, _MAX_PATIENCE)
        self._retry_s = float("-inf")
        if not reported:
            self._report(state, self._source.advice(state, self._unread))
            self._publish(state)  # once more, with the advice

    def _failed(self, error: SourceError, now_s: float) -> float:
        """Report a failed open or read, and choose when to try again."""
        state: ReceiverState = "busy" if isinstance(error, BusyError) else "absent"
        self._is_forbidden = isinstance(error, ForbiddenError)
        self._report(state, Advice(error.message, error.remedy))
        self._publish(state)
        wait_s = self._backoff_s
        self._retry_s = now_s + wait_s
        self._backoff_s = min(2 * wait_s, _BACKOFF_MAX_S)
        return wait_s

    def _report(self, state: ReceiverState, advice: Advice, *, counts: bool = True) -> None:
        self._advice = {state: advice}
        text = str(advice)
        self._trouble.failed(text, kind=without_pids(text), counts=counts, fields={"STATE": state})

    def _pass_on(self, fixes: list[Fix]) -> None:
        self._waiting += fixes
        while self._waiting:
            self._record(self._waiting.popleft())
            self._fixes += 1

    def _close_source(self) -> None:
        """Close it at once, so that its device node can come back; then record its last fixes."""
        assert self._in_step.locked()
        self._source.close()
        decoder, self._decoder = self._decoder, None
        if decoder:
            try:
                self._pass_on(decoder.finish())
            finally:
                self._counts += decoder.counts

    def _publish(self, state: ReceiverState, why: Diagnosis | None = None) -> None:
        before, name = self.status, self._source.name
        since_s = before.since_s if state == before.state else self._clock.monotonic_s()
        counts, decoder = self._counts.copy(), self._decoder
        counts.update(self._source.rejected)
        if decoder:
            counts.update(decoder.counts)
        antenna = (decoder and decoder.antenna) or before.antenna
        notices = decoder.notices if decoder else ()
        self.status = ReceiverStatus(
            name,
            state,
            since_s,
            self._fixes,
            counts,
            antenna,
            why,
            notices,
            self._advice.get(state),
            self._is_forbidden,
        )
        if (state, antenna) != (before.state, before.antenna):
            self._changed()
