"""One viewer's connection: uvicorn's, with bounds on what it may cost.

One on which nothing happens is ended, and so is one whose viewer does not read what it asked for.
"""

import asyncio
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CONNECTIONS = 128
_REQUEST_S = (
    10.0  # from the connection, or from the last answer, to the end of the next request's head
)
_UNREAD_S = 20.0
_LARGEST_HEAD_BYTES = 16 * 1024


class ViewerConnection(H11Protocol):
    """For the event loop alone."""

    def __init__(self, config: Config, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, state, {}, loop)
        self._since_s = loop.time()
        self._unread_since_s: float | None = None

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._unread_since_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._unread_since_s = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """See ``H11Protocol``."""
        self._since_s = self.loop.time()
        super().on_response_complete()

    def sweep(self, now_s: float) -> None:
        """End it if it has cost enough, at the loop's time ``now_s``."""
        if self._unread_since_s is not None:
            useless = now_s - self._unread_since_s > _UNREAD_S
        else:
            asks_nothing = self.cycle is None or self.cycle.response_complete
            useless = asks_nothing and now_s - self._since_s > _REQUEST_S
        if useless:
            self.transport.abort()


def uvicorn_config(app: Any) -> Config:
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
