"""The page's task: it listens, and its step runs the web server until the task is closed.

A crash of it stops nothing else. If it cannot listen (a port in use, a token that cannot be read),
it logs that once and tries again. The web server is imported only when the page is on.
"""

import logging
import math
from typing import TYPE_CHECKING

from telemetry_agent.addresses import bracketed, is_loopback
from telemetry_agent.errors import ConfigError, limit_reached
from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.libraries import server_missing
from telemetry_agent.secrecy import or_credential, read_secret
from telemetry_agent.snapshot import PageView
from telemetry_agent.tasks import Bell, Task
from telemetry_agent.trouble import Trouble

if TYPE_CHECKING:
    from telemetry_agent.page.server import PageServer

log = logging.getLogger(__name__)

_LISTEN_AGAIN_S = 10.0
_SHORTEST_TOKEN = 16  # each peer may guess ten times a minute


class Page(Task):
    """The task."""

    max_step_s = math.inf

    def __init__(self, agent: AgentView) -> None:
        self.bell = Bell()
        self._agent = agent
        self._closed = False
        self._server: PageServer | None = None
        self._fault: str | None = None
        self._trouble = Trouble(log, agent.clock)

    def step(self, now_s: float) -> float | None:  # noqa: ARG002 - the task's signature
        """Listen, and run the server until the task ends."""
        if self._closed or self._agent.listen is None:
            return None
        self._server = server = self._listen(*self._agent.listen)
        if server is None:
            return _LISTEN_AGAIN_S
        try:
            if self._closed:  # meanwhile
                server.stop()
            server.run()
        finally:
            self._server = None
        return 0

    def status(self) -> PageView | None:
        """Whether the page can be opened; ``None``: it is off. Any thread may look."""
        if self._agent.listen is None:
            return None
        return PageView("held", fault) if (fault := self._fault) else PageView()

    @property
    def viewers(self) -> int:
        """How many viewers there are now. Any thread may ask."""
        server = self._server
        return 0 if server is None else server.site.streams.count

    def nudge(self) -> None:
        """Make the next event soon: something has changed. Any thread may call this."""
        if (server := self._server) is not None:
            server.nudge()

    def wake(self) -> None:
        """See ``Task.wake``: end every connection."""
        super().wake()
        if (server := self._server) is not None:
            server.stop()

    def close(self) -> None:
        """See ``Task.close``."""
        self._closed = True
        self.wake()

    def _listen(self, host: str, port: int) -> "PageServer | None":
        url = f"http://{bracketed(host)}:{port}/"
        try:
            token = self._read_token(host)
            from telemetry_agent.page.server import PageServer, bound  # noqa: PLC0415 - may be missing

            listener = bound(host, port)
        except (ConfigError, OSError) as error:
            self._fault = str(refused := limit_reached(error) or error)
            if isinstance(refused, OSError):
                self._fault = f"page.listen: {bracketed(host)}:{port}: {refused.strerror or error}"
            if isinstance(refused, PermissionError):
                self._fault += ": ports below 1024 are for root, choose a higher one"
            self._trouble.failed(f"no page at {url}: {self._fault}; trying again")
            return None
        server = PageServer(listener, self._agent, host, token)
        self._fault = None
        log.info("the page is at %s", url)
        self._trouble.over("the page is there")
        return server

    def _read_token(self, host: str) -> str | None:
        """What admits viewers; ``None``: nothing is needed, only this machine reaches the page.

        Raises:
            ConfigError: the page cannot be served, or others could open it without a token.
        """
        agent = self._agent
        if (missing := server_missing()) is not None:
            raise ConfigError(f"page.listen is set, and {missing}")
        if (file := agent.token_file) is not None:
            token = read_secret("page.token_file", file)
            if len(token) < _SHORTEST_TOKEN:
                raise ConfigError(
                    f"page.token_file: {file} must hold at least {_SHORTEST_TOKEN} characters",
                    "`openssl rand -hex 16` makes one",
                )
            agent.secrets.add(token)
            return token
        if agent.names:
            raise ConfigError(
                "page.names: everyone who reaches the proxy could see where this device is",
                f"set page.token_file{or_credential('page_token')}",
            )
        if not is_loopback(host):
            raise ConfigError(
                f"page.listen: everyone who reaches {host} could see where this device is",
                f"listen on 127.0.0.1, or set page.token_file{or_credential('page_token')}",
            )
        return None
