"""The page's task: it listens, and runs the web server for a few seconds in each step.

So it has a beat and an end like every other task, and a crash of it stops nothing else. If it
cannot listen (a port in use, a token that cannot be read), it logs that once and tries again. The
web server is imported only when the page is on.
"""

import logging
import threading
from typing import TYPE_CHECKING

from telemetry_agent.addresses import bracketed, is_loopback
from telemetry_agent.errors import ConfigError, refusal
from telemetry_agent.page.agent_view import AgentView
from telemetry_agent.page.libraries import server_missing
from telemetry_agent.secrecy import or_credential, read_secret
from telemetry_agent.snapshot import PageView
from telemetry_agent.tasks import Bell, Task
from telemetry_agent.trouble import Trouble

if TYPE_CHECKING:
    from telemetry_agent.page.server import PageServer

log = logging.getLogger(__name__)

_TURN_S = 5.0
_LISTEN_AGAIN_S = 10.0
_CLOSE_S = 0.3
_SHORTEST_TOKEN = 16  # each peer may guess ten times a minute


class Page(Task):
    """The task."""

    max_step_s = 30.0

    def __init__(self, agent: AgentView) -> None:
        self.bell = Bell()
        self._agent = agent
        self._in_step = threading.Lock()
        self._closed = False
        self._server: PageServer | None = None
        self._fault: str | None = None
        self._trouble = Trouble(log, agent.clock)

    def step(self, now_s: float) -> float | None:  # noqa: ARG002 - the task's signature
        """Run the server for a while; if there is none yet, listen."""
        with self._in_step:
            if self._closed or self._agent.listen is None:
                return None
            if self._server is None:
                self._server = self._listen(*self._agent.listen)
                return _LISTEN_AGAIN_S if self._server is None else 0
            try:
                self._server.turn(_TURN_S)
            finally:
                if self._closed:  # ``close`` may not have waited for this step
                    self._close_server()
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
        if self._server is not None:
            self.bell.ring()

    def close(self) -> None:
        """See ``Task.close``: end every connection."""
        self._closed = True
        self.wake()
        if self._in_step.acquire(timeout=_CLOSE_S):  # else the step hangs, or closes it at its end
            try:
                self._close_server()
            finally:
                self._in_step.release()

    def _close_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _listen(self, host: str, port: int) -> "PageServer | None":
        url = f"http://{bracketed(host)}:{port}/"
        try:
            token = self._read_token(host)
            from telemetry_agent.page.server import PageServer, bound  # noqa: PLC0415 - may be missing

            listener = bound(host, port)
        except (ConfigError, OSError) as error:
            self._fault = str(refusal(error) or getattr(error, "strerror", None) or error)
            self._trouble.failed(f"no page at {url}: {self._fault}; trying again")
            return None
        server = PageServer(listener, self.bell, self._agent, host, token)
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
