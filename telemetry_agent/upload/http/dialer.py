"""Opens connections to the endpoint, within the exchange that needs them."""

import math
from collections.abc import Callable

from telemetry_agent.addresses import LOOK_UP_S, Resolve, Resolver, UnreachableError, resolve
from telemetry_agent.clock import Clock
from telemetry_agent.connecting import Connecting
from telemetry_agent.upload.http.connection import Connection, Handshakes, IdleLife
from telemetry_agent.upload.http.exchange import CurrentExchange, NetworkError


class Dialer:
    """What opens connections for one exchange at a time.

    Args:
        clock: the machine's clocks.
        resolve: finds the addresses of a name.
        look_up_timeout_s: how long to wait for a name server if older addresses are known.
        gnss_ms: UTC now according to the receiver, in milliseconds since 1970; ``None``: unknown.
            It tells an expired certificate from a wrong clock.
    """

    def __init__(
        self,
        clock: Clock,
        resolve: Resolve = resolve,
        look_up_timeout_s: float = LOOK_UP_S,
        gnss_ms: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.exchange = CurrentExchange(clock)
        """Its deadline holds for each connection that is opened here."""
        self.idle_life = IdleLife()
        self._clock = clock
        self._resolver = Resolver(resolve)
        self._look_up_timeout_s = look_up_timeout_s
        self._handshakes = Handshakes(clock, gnss_ms)

    def connect(self, host: str, port: int) -> Connection:
        """Connect to any address of ``host``.

        Raises:
            NetworkError: none could be reached, the exchange was aborted, or its time has passed.
        """
        self.exchange.note_connecting()
        connecting = Connecting(
            self._resolver,
            host,
            port,
            self._clock.monotonic_s(),
            known_after_s=self._look_up_timeout_s,
            look_up_s=math.inf,  # the deadline of the exchange
        )
        try:
            sock = connecting.run(
                self._clock,
                lambda wait_s, watched: self.exchange.wait(connecting.doing, watched, wait_s),
            )
        except UnreachableError as error:
            raise NetworkError(str(error), error.state) from error
        return Connection(self.exchange, sock, self._handshakes, self.idle_life)
