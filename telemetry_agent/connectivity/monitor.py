"""The monitor: knows whether there is a way to the endpoint, and says when it comes back.

Theory of operation. Two witnesses are heard. The kernel tells at once when routes change, but knows
nothing of what lies behind the first hop. A probe (a TCP connection) knows, but costs traffic. So
the kernel is listened to always, and a probe is made only while there is reason for one::

    up       no traffic at all; leaves it when the kernel has no path to any address of the
             endpoint, or when a probe fails. One is made when an exchange went unanswered (doubt)
    away     a probe each ``probe_every_s``, and at once when the path to the endpoint changed
    return   a probe succeeded: away still, for a random part of the spread, so that a fleet does
             not come back as one; then up, and ``on_return`` is called. What ends the path
             meanwhile ends the return

The spread is ``resume_spread_s``, but no more than a tenth of the time away: an outage that a
region shares is long, and after a tunnel nobody should have to wait.

Every other state is in the instants at which something is due; a step does what is due and says
when the next thing is. A doubt that the probe does not confirm is no return: else an endpoint that
accepts connections and drops every exchange would have each backoff cut short.

The monitor delays and never forbids. At the start, not knowing, it counts the endpoint as up; and
an exchange that was answered outweighs what the monitor thinks.
"""

import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from telemetry_agent.addresses import Address, no_route_to
from telemetry_agent.clock import Clock
from telemetry_agent.connectivity.probe import Probe, Word
from telemetry_agent.connectivity.routes import KernelBell, Path

log = logging.getLogger(__name__)

_SPREAD_OF_AWAY = 0.1
_SETTLE_S = 0.05  # one change of the network is a burst of messages
_CALLBACKS_TAKE_S = 30.0  # resuming rows waits for the disk, and that may be busy


@dataclass(frozen=True, slots=True)
class NetworkState:
    """What the monitor knows; a snapshot for any thread."""

    word: Word
    since_s: float
    """Monotonic; since when it is up, or since when it is not."""
    error: str = ""
    """Why it is not up; empty when it is."""
    returns: int = 0
    """How often the network came back since the start."""


class Monitor:
    """The task.

    Args:
        probe: tries the endpoint; shares the bell.
        bell: what the loop waits on. The kernel rings it with news of links, addresses and
            routes, ``doubt`` and ``answered`` ring it, and so do the probe's sockets.
        probe_every_s: between probes while away.
        resume_spread_s: the longest random wait between the network's return and ``on_return``.
        on_return: called in the monitor's thread when the network came back, with the seconds
            within which whoever was away as long comes back too.
        on_change: called in the monitor's thread when the path to the endpoint is another one, or
            gone: connections that use the old one would hang.
        clock: only says since when the first state holds; a step gets its time passed in.
        rng: draws the random wait.
    """

    name = "connectivity"

    def __init__(
        self,
        probe: Probe,
        bell: KernelBell,
        *,
        probe_every_s: float,
        resume_spread_s: float,
        on_return: Callable[[float], None],
        on_change: Callable[[], None],
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.bell = bell
        self.max_step_s = _CALLBACKS_TAKE_S
        now_s = (clock or Clock()).monotonic_s()
        self.state = NetworkState("up", now_s)
        self._probe = probe
        self._probe_every_s = probe_every_s
        self._resume_spread_s = resume_spread_s
        self._on_return = on_return
        self._on_change = on_change
        self._rng = rng or random.Random()  # noqa: S311 - spreads a fleet, hides nothing
        self._paths: dict[Address, Path | None] = {}
        self._in_doubt = True
        self._failed_probes = 0
        # What exchanges told, the last word only.
        self._told: deque[Literal["doubt", "answer"]] = deque(maxlen=1)
        self._look_due_s: float | None = None
        self._probe_due_s: float | None = now_s
        self._return_due_s: float | None = None

    def closed(self) -> tuple[Literal["no-route", "unreachable"], str] | None:
        """Why there is no way to the endpoint; ``None``: there is one, as far as is known."""
        state = self.state
        # Who asks may have got through a moment ago, and the next step has yet to hear of it.
        just_answered = self._told.count("answer") > 0
        return None if state.word == "up" or just_answered else (state.word, state.error)

    def doubt(self) -> None:
        """An exchange got no answer. Any thread may say so."""
        self._told.append("doubt")
        self.bell.ring()

    def answered(self) -> None:
        """An exchange got an answer, whatever it said. Any thread may say so."""
        self._told.append("answer")
        self.bell.ring()

    def step(self, now_s: float) -> float | None:
        """Do what is due. Never blocks but in the callbacks."""
        if self._told:
            self._be_told(now_s)
        if self.bell.heard() and self._look_due_s is None:
            self._look_due_s = now_s + _SETTLE_S
        if self._look_due_s is not None and now_s >= self._look_due_s:
            self._look(now_s)
        if self._probe_due_s is not None and now_s >= self._probe_due_s:
            self._start_probe(now_s)
        if self._probe.running:
            self._follow_probe(now_s)
        elif self._return_due_s is not None and now_s >= self._return_due_s:
            self._come_back(now_s)
        self.bell.watch(self._probe.watched())
        return self._wait_s(now_s)

    def wake(self) -> None:
        """Ring; no step blocks."""
        self.bell.ring()

    def close(self) -> None:
        """Free the sockets."""
        self._probe.cancel()
        self.bell.close()

    def _be_told(self, now_s: float) -> None:
        if self._told.pop() == "answer":
            self._in_doubt = False
            if self.state.word != "up":
                self._come_back(now_s)
        elif self.state.word == "up" and not self._in_doubt:
            self._in_doubt = True
            self._start_probe(now_s)

    def _look(self, now_s: float) -> None:
        """The kernel had news: is the path still the same?"""
        self._look_due_s = None
        paths = self._probe.paths()
        changed = any(paths[address] != self._paths.get(address) for address in paths)
        self._paths = paths
        routed = any(paths.values())
        if paths and not routed:
            self._go_away(now_s, "no-route", str(no_route_to(paths)))
        if changed:
            self._on_change()  # last: whoever hears it sees the new state
        if self.state.word == "up" and not self._in_doubt:
            return
        # Without a way to a known address the name may have others by now, as where a network
        # that translates IPv4 into IPv6 took the place of another.
        if changed or not routed:
            self._start_probe(now_s)

    def _start_probe(self, now_s: float) -> None:
        self._probe_due_s = None
        self._probe.start(now_s)

    def _follow_probe(self, now_s: float) -> None:
        verdict = self._probe.poll(now_s)
        # New addresses are noted; a known one's path that changed is left for _look to find.
        self._paths = {
            address: self._paths.get(address, now) for address, now in self._probe.paths().items()
        }
        if verdict is None:
            return
        if verdict.word == "up":
            if self.state.word != "up" and self._return_due_s is None:
                self._return_due_s = now_s + self._rng.uniform(0, self._spread_s(now_s))
        elif self.state.word != "up" or self._in_doubt:  # else: answered meanwhile
            self._failed_probes += 1
            self._go_away(now_s, verdict.word, verdict.error)
            self._probe_due_s = now_s + self._probe_every_s
        self._in_doubt = False

    def _go_away(self, now_s: float, word: Word, error: str) -> None:
        self._return_due_s = None
        before = self.state
        if word != before.word:
            log.debug("%s %s: %s", self._probe.target, word, error)
        since_s = now_s if before.word == "up" else before.since_s
        self.state = NetworkState(word, since_s, error, before.returns)

    def _come_back(self, now_s: float) -> None:
        self._return_due_s = None
        self._probe_due_s = None
        before = self.state
        spread_s = self._spread_s(now_s)
        log.debug(
            "%s is back after %.0f s and %d probes in vain",
            self._probe.target,
            now_s - before.since_s,
            self._failed_probes,
        )
        self._failed_probes = 0
        self.state = NetworkState("up", now_s, "", before.returns + 1)
        self._on_return(spread_s)

    def _spread_s(self, now_s: float) -> float:
        away_s = now_s - self.state.since_s
        return min(self._resume_spread_s, _SPREAD_OF_AWAY * away_s)

    def _wait_s(self, now_s: float) -> float | None:
        dues = [self._look_due_s, self._probe_due_s]
        dues.append(self._probe.due_s() if self._probe.running else self._return_due_s)
        return min((max(0.0, due_s - now_s) for due_s in dues if due_s is not None), default=None)
