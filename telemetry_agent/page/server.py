"""The event loop of the page, with the web server in it.

Viewers must not use up the file descriptors of the agent: the receiver needs one each time it is
plugged in. So connections are accepted here, one by one, up to a limit. asyncio would accept many
at a time, and log a traceback for each that the system refuses.
"""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from telemetry_agent.page.access_policy import AccessPolicy
from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.history import take_samples
from telemetry_agent.page.site import Site
from telemetry_agent.tasks import within

CONNECTIONS = 128
_BACKLOG = 32
_IDLE_S = 10  # from the connection, or the last answer, to the next request
_LARGEST_HEAD_BYTES = 16 * 1024
_UNREAD_MS = 20_000  # a viewer that does not read what was sent, or whose machine is gone
_UNREAD_BYTES = 64 * 1024
_END_S = 0.2
_CANCELLED_S = 2.0  # of a machine that is too busy to give the loop its turns
_ACCEPT_AGAIN_S = 1.0


class PageServer:
    """Answers the viewers that connect to ``listener``, a socket bound to ``host``; closes it.

    ``token`` admits viewers; ``None``: none is needed.
    """

    def __init__(
        self, listener: socket.socket, agent: AgentView, host: str, token: str | None
    ) -> None:
        self._loop = loop = asyncio.new_event_loop()
        self._state = state = ServerState()
        name = socket.gethostname()
        access = AccessPolicy({host, name, f"{name}.local"}, token, agent.names)
        self.site = Site(agent, access)
        config = _uvicorn_config(self.site.app)
        self._connection = lambda: ViewerConnection(config, state, {}, loop)
        self._connections_max = _connections_max()
        self._listener = listener
        listener.setblocking(False)
        self._main = loop.create_task(self._serve(agent))

    def run(self) -> None:
        """Answer viewers until ``stop``. Raises what failed outside a request."""
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        finally:
            self._loop.run_until_complete(self._end())
            self._loop.close()
            self.site.close()
            # A card that hangs must not delay the end.
            within(_END_S, self.site.history.save)

    def stop(self) -> None:
        """End every connection. Any thread may call this."""
        self._soon(self._main.cancel)

    def nudge(self) -> None:
        """Make the next event soon: something may have changed. Any thread may call this."""
        self._soon(self.site.streams.nudge)

    def _soon(self, act: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(act)

    async def _serve(self, agent: AgentView) -> None:
        streams = self.site.streams
        samples = take_samples(agent, self.site.history)
        await asyncio.gather(self._accept(), streams.run(), streams.scan(), samples)

    async def _accept(self) -> None:
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(self._listener)
            except OSError:  # the process has no descriptor left for it, or it has left
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            if len(self._state.connections) < self._connections_max:
                await self._loop.connect_accepted_socket(self._connection, accepted)
            else:
                accepted.close()

    async def _end(self) -> None:
        for connection in list(self._state.connections):
            connection.transport.abort()
        # They end in a few turns: what they wait for in a thread is left behind.
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CANCELLED_S)
        self._listener.close()


class ViewerConnection(H11Protocol):
    """One viewer's connection: uvicorn's, and it is ended if no whole request comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See ``H11Protocol``."""
        super().connection_made(transport)
        self._end_at(self.loop.time() + self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """See ``H11Protocol``, which takes the first bytes for a request."""
        end = self.timeout_keep_alive_task
        super().data_received(data)
        if end is not None and (self.cycle is None or self.cycle.response_complete):
            self._end_at(end.when())

    def _end_at(self, loop_s: float) -> None:
        end = self.loop.call_at(loop_s, self.timeout_keep_alive_handler)
        self.timeout_keep_alive_task = end


def _uvicorn_config(app: Any) -> Config:
    """The settings of uvicorn: it logs nothing, and sends no header about itself."""
    config = Config(
        app,
        loop="none",
        http=ViewerConnection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # a client that does not speak HTTP must not fill the log
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_IDLE_S,
        date_header=False,  # the clock of a device may be wrong by years
        h11_max_incomplete_event_size=_LARGEST_HEAD_BYTES,
    )
    config.load()
    logging.getLogger("uvicorn.error").addFilter(_is_not_reported)
    return config


def _is_not_reported(record: logging.LogRecord) -> bool:
    """False for an answer that was broken off: ``StreamedAnswer`` has reported that, once."""
    return "without completing" not in record.getMessage()


def _connections_max() -> int:
    """Half of the descriptors that are free, so that the agent always has some."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(CONNECTIONS, (limit - len(list(Path("/proc/self/fd").iterdir()))) // 2)


def bound(host: str, port: int) -> socket.socket:
    """A listening socket for ``PageServer``.

    Raises:
        OSError: the address is not available.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The connections inherit both.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        # The kernel's own choice is up to 4 MiB each, and counts as memory of the service.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD_BYTES)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
