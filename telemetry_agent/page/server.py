"""The event loop of the page, with the web server in it. One thread runs it, a turn at a time.

Viewers must not use up the file descriptors of the agent: the receiver needs one each time it is
plugged in. So connections are accepted here, one by one, up to a limit. asyncio would accept many
at a time, and log a traceback for each that the system refuses.
"""

import asyncio
import errno
import resource
import socket
from pathlib import Path
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from telemetry_agent.page.access_policy import AccessPolicy
from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.history import take_samples
from telemetry_agent.page.site import Site
from telemetry_agent.tasks import Bell, within

CONNECTIONS = 128
_BACKLOG = 32
_REQUEST_S = 10.0  # from the connection, or the last answer, to the end of the next request's head
_LARGEST_HEAD_BYTES = 16 * 1024
_UNREAD_MS = 20_000  # a viewer that does not read what was sent, or whose machine is gone
_END_S = 0.2
_CANCELLED_S = 2.0  # of a machine that is too busy to give the loop its turns
_ACCEPT_AGAIN_S = 1.0
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class PageServer:
    """Answers the viewers that connect to ``listener``, a socket bound to ``host``; closes it.

    ``token`` admits viewers; ``None``: none is needed. ``bell`` ends a turn, and makes the next
    event soon: something may have changed.
    """

    def __init__(
        self, listener: socket.socket, bell: Bell, agent: AgentView, host: str, token: str | None
    ) -> None:
        self._loop = loop = asyncio.new_event_loop()
        self._state = state = ServerState()
        name = socket.gethostname()
        access = AccessPolicy({host, name, f"{name}.local"}, token, agent.names)
        self.site = Site(agent, access)
        config = _uvicorn_config(self.site.app)
        self._connection = lambda: ViewerConnection(config, state, loop)
        self._connections_max = _connections_max()
        self._bell = bell
        loop.add_reader(bell, self._rung)
        self._listener = listener
        listener.setblocking(False)
        self._ending = False
        self._listen()
        self._background = [
            loop.create_task(work)
            for work in (
                self.site.streams.run(),
                self.site.streams.scan(),
                take_samples(agent, self.site.history),
            )
        ]
        for task in self._background:
            task.add_done_callback(self._halt)

    def turn(self, seconds: float) -> None:
        """Run for so long, or until the bell rings. Raises what failed outside a request."""
        end = self._loop.call_later(seconds, self._halt)
        self._loop.run_forever()
        end.cancel()
        for task in self._background:
            if task.done():
                task.result()
        for connection in self._connections():
            connection.sweep(self._loop.time())

    def close(self) -> None:
        """End every connection. Called between turns, and once."""
        self._ending = True
        self._loop.remove_reader(self._bell)
        self._loop.run_until_complete(self._end())
        self._loop.close()
        self.site.close()
        # A card that hangs must not delay the end.
        within(_END_S, self.site.history.save)

    def _rung(self) -> None:
        self.site.streams.nudge()
        self._halt()

    def _halt(self, _task: asyncio.Task[None] | None = None) -> None:
        if not self._ending:
            self._loop.stop()

    def _listen(self) -> None:
        if not self._ending:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError as error:
            # The listener stays readable: without a pause the loop would spin.
            if error.errno in _NO_DESCRIPTOR:
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_ACCEPT_AGAIN_S, self._listen)
            return
        if len(self._state.connections) >= self._connections_max:
            accepted.close()
            return
        self._loop.create_task(self._loop.connect_accepted_socket(self._connection, accepted))

    async def _end(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for connection in self._connections():
            connection.transport.abort()
        tasks = {*self._background, *asyncio.all_tasks()} - {asyncio.current_task()}
        for task in tasks:  # it ends in a few turns: what it waits for in a thread is left behind
            task.cancel()
        await asyncio.wait(tasks, timeout=_CANCELLED_S)

    def _connections(self) -> "list[ViewerConnection]":
        return [one for one in self._state.connections if isinstance(one, ViewerConnection)]


class ViewerConnection(H11Protocol):
    """One viewer's connection: uvicorn's, and it is ended if no request comes."""

    def __init__(self, config: Config, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, state, {}, loop)
        self._since_s = loop.time()

    def on_response_complete(self) -> None:
        """See ``H11Protocol``."""
        self._since_s = self.loop.time()
        super().on_response_complete()

    def sweep(self, now_s: float) -> None:
        """End it if no request has come for too long at ``now_s``, in the loop's time."""
        asks_nothing = self.cycle is None or self.cycle.response_complete
        if asks_nothing and now_s - self._since_s > _REQUEST_S:
            self.transport.abort()


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
        date_header=False,  # the clock of a device may be wrong by years
        h11_max_incomplete_event_size=_LARGEST_HEAD_BYTES,
    )
    config.load()
    return config


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
        # The connections inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
