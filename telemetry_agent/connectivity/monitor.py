"""The monitor: knows whether the endpoint can be reached, and reports when it can again.

Theory of operation. There are two sources of knowledge. The kernel reports at once when routes
change, but knows nothing beyond the first hop. A probe (a TCP connection) does, but costs traffic.
So the monitor always listens to the kernel, and probes only when there is a reason::

    up         no traffic at all. Ends when the kernel has no path to any address of the endpoint,
               or when a probe fails; a probe is made after an exchange without an answer (doubt)
    not up     (no-route or unreachable) a probe every ``probe_every_s``, and at once when the path
               to the endpoint has changed
    returning  a probe has succeeded: still not up, for a random part of the spread, so that a
               fleet does not return all at once. Then up, and ``on_return`` is called. If the path
               is lost before that, the return is cancelled

The spread is ``resume_spread_s``, but at most a tenth of the outage: an outage that a whole region
shares is long, and after a tunnel a device should not have to wait.

All other state is in the instants at which something is due: a step does what is due and returns
the time until the next. A doubt that the probe does not confirm is not a return: otherwise an
endpoint that accepts connections and drops every exchange would cut every backoff short.

The monitor delays uploads and never forbids them. At the start it assumes that the endpoint is up,
and an exchange that was answered outweighs its own state.
"""

import logging
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from telemetry_agent.addresses import Address, Resolve, Resolver, UnreachableError, resolve
from telemetry_agent.clock import Clock
from telemetry_agent.connecting import Connecting
from telemetry_agent.connectivity.routes import Path, path
from telemetry_agent.tasks import KernelBell, Task

Word = Literal["up", "no-route", "unreachable"]

_log = logging.getLogger(__name__)

_SPREAD_PER_OUTAGE = 0.1
_SETTLE_S = 0.05  # one change of the network is a burst of messages


@dataclass(frozen=True, slots=True)
class NetworkState:
    """The monitor's state; a snapshot for any thread."""

    word: Word
    since_s: float
    """Monotonic; since when it is up, or since when it is not."""
    error: str = ""
    """Why it is not up; empty when it is."""


class Probe:
    """Tries to connect to ``host:port``, an address without brackets or a name. For one thread.

    A network can return before its name server does, or after it. So the name is looked up, and at
    the same time the addresses that are already known are tried.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        resolve: Resolve = resolve,
        path: Callable[[Address], Path | None] = path,
    ) -> None:
        """``path``: the kernel's path to an address; nothing is sent to one without."""
        self._host, self._port = host, port
        self._resolver = Resolver(resolve)
        self._path = path

    def begin(self, now_s: float) -> Connecting:
        """Begin a probe. If it is cancelled, its look-up continues, and the result is kept."""
        return Connecting(
            self._resolver,
            self._host,
            self._port,
            now_s,
            known_after_s=0,
            has_route=lambda address: self._path(address) is not None,
        )

    def paths(self) -> dict[Address, Path | None]:
        """The kernel's current path to each address that the last look-up found."""
        known = self._resolver.known(self._host, self._port)
        return {address: self._path(address) for address in known}


class Monitor(Task):
    """The task.

    Args:
        bell: what the loop waits on. It is rung by the kernel's messages about links, addresses and
            routes, by ``doubt`` and ``answered``, and by the probe's sockets.
        probe_every_s: time between probes while the endpoint is not up.
        resume_spread_s: the longest random wait between the network's return and ``on_return``.
        on_return: called in the monitor's thread when the network came back, with the seconds
            within which all devices with the same outage return.
        on_change: called in the monitor's thread when the path to the endpoint has changed or is
            gone: connections over the old path would hang.
    """

    bell: KernelBell
    max_step_s = 30.0  # it asks the kernel for the path to each address

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
        now_s = (clock or Clock()).monotonic_s()
        self.state = NetworkState("up", now_s)
        self._probe = probe
        self._probe_every_s = probe_every_s
        self._resume_spread_s = resume_spread_s
        self._on_return = on_return
        self._on_change = on_change
        self._rng = rng or random.Random()  # noqa: S311 - spreads a fleet, hides nothing
        self._running: Connecting | None = None  # the probe
        self._paths: dict[Address, Path | None] = {}
        self._in_doubt = True
        self._doubts = 0  # while it is up, since the last answer
        # The result of the last exchange only.
        self._results: deque[Literal["doubt", "answer"]] = deque(maxlen=1)
        self._check_due_s = math.inf
        self._probe_due_s = now_s
        self._return_due_s = math.inf

    def closed(self) -> tuple[Literal["no-route", "unreachable"], str] | None:
        """Why the endpoint cannot be reached; ``None``: it can, as far as is known."""
        state = self.state
        # The caller may have got an answer a moment ago that the next step has yet to process.
        just_answered = self._results.count("answer") > 0
        return None if state.word == "up" or just_answered else (state.word, state.error)

    def next_due_s(self) -> float | None:
        """The monotonic time of the next probe, or of the return that it led to."""
        due_s = min(self._probe_due_s, self._return_due_s)
        return None if due_s == math.inf else due_s

    def doubt(self) -> None:
        """Note that an exchange got no answer. Any thread may call."""
        self._results.append("doubt")
        self.bell.ring()

    def answered(self) -> None:
        """Note that an exchange got an answer of any kind. Any thread may call."""
        self._results.append("answer")
        self.bell.ring()

    def step(self, now_s: float) -> float | None:
        """Do what is due. Blocks only in the callbacks."""
        if self._results:
            self._process_result(now_s)
        # Messages that come while the check is due do not postpone it: they may never end.
        if self.bell.messages():
            self._check_due_s = min(self._check_due_s, now_s + _SETTLE_S)
        if now_s >= self._check_due_s:
            self._check_paths(now_s)
        if now_s >= self._probe_due_s:
            self._start_probe(now_s)
        if self._running is not None:
            self._follow_probe(self._running, now_s)
        elif now_s >= self._return_due_s:
            self._mark_up(now_s)
        running = self._running
        self.bell.watch(running.watched() if running else [])
        next_s = running.due_s() if running else self._return_due_s
        due_s = min(self._check_due_s, self._probe_due_s, next_s)
        return None if due_s == math.inf else max(0.0, due_s - now_s)

    def close(self) -> None:
        """Free the sockets."""
        self._end_probe()
        self.bell.close()

    def _process_result(self, now_s: float) -> None:
        if self._results.pop() == "answer":
            self._in_doubt, self._doubts = False, 0
            if self.state.word != "up":
                self._mark_up(now_s)
        elif self.state.word == "up" and not self._in_doubt:
            # Each second one. A load balancer gives connections to its servers in turn: if each
            # attempt followed a probe, all could get the same server, which may be the broken one.
            self._doubts += 1
            if self._doubts % 2:
                self._in_doubt = True
                self._start_probe(now_s)

    def _check_paths(self, now_s: float) -> None:
        """Ask the kernel whether the path is still the same."""
        self._check_due_s = math.inf
        before, self._paths = self._paths, self._probe.paths()
        paths = self._paths
        # Late look-ups find new addresses. An address without an earlier path has not changed.
        changed = any(now != before.get(address, now) for address, now in paths.items())
        routed = any(paths.values())
        if paths and not routed:
            self._mark_down(now_s, "no-route", f"no route to {', '.join(map(str, paths))}")
        if changed:
            self._on_change()  # last: the callback sees the new state
        if self.state.word == "up" and not self._in_doubt:
            return
        # Without a route to the known addresses, look the name up again: another network, for
        # example one with NAT64, may give it other addresses. And a route may have been gone for
        # so short a time that only a probe has noticed: then nothing has changed.
        if paths != before or not routed or self.state.word == "no-route":
            self._start_probe(now_s)

    def _start_probe(self, now_s: float) -> None:
        self._probe_due_s = math.inf
        self._end_probe()
        self._running = self._probe.begin(now_s)

    def _end_probe(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running = None

    def _follow_probe(self, running: Connecting, now_s: float) -> None:
        connected = failure = None
        try:
            connected = running.poll(now_s)
        except UnreachableError as error:
            failure = error
        # Add new addresses; a changed path of a known one is left to _check_paths.
        self._paths = {
            address: self._paths.get(address, now) for address, now in self._probe.paths().items()
        }
        if connected is None and failure is None:
            return
        self._end_probe()
        if connected is not None:
            connected.close()
            if self.state.word != "up" and self._return_due_s == math.inf:
                self._return_due_s = now_s + self._rng.uniform(0, self._spread_s(now_s))
        # Unless an exchange was answered since:
        elif failure is not None and (self.state.word != "up" or self._in_doubt):
            self._mark_down(now_s, failure.state, str(failure))
            self._probe_due_s = now_s + self._probe_every_s
        self._in_doubt = False

    def _mark_down(self, now_s: float, word: Word, error: str) -> None:
        self._return_due_s, self._doubts = math.inf, 0
        before = self.state
        if word != before.word:
            _log.debug("the endpoint is %s: %s", word, error)
        since_s = now_s if before.word == "up" else before.since_s
        self.state = NetworkState(word, since_s, error)

    def _mark_up(self, now_s: float) -> None:
        self._return_due_s = math.inf
        self._probe_due_s = math.inf
        spread_s = self._spread_s(now_s)
        _log.debug("the endpoint can be reached again")
        self.state = NetworkState("up", now_s)
        self._on_return(spread_s)

    def _spread_s(self, now_s: float) -> float:
        outage_s = now_s - self.state.since_s
        return min(self._resume_spread_s, _SPREAD_PER_OUTAGE * outage_s)
