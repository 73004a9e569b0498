"""Whether requests are compressed: what the setting means, and what the endpoint takes."""

import logging

from telemetry_agent.upload.interfaces import Compression, CompressionSetting, WireFormat

_log = logging.getLogger(__name__)

_TRY_AGAIN_AFTER_S = 3600.0


def wanted(setting: CompressionSetting, wire_format: WireFormat) -> Compression:
    """What ``upload.compression`` means for a format.

    An endpoint of somebody's own, or a web application, may not look at ``Content-Encoding``: it
    finds no fixes in the body, answers 200, and they are lost.
    """
    if setting == "auto":
        return "gzip" if wire_format.unpacks else "none"
    return setting


class CompressionChoice:
    """How to encode the next request.

    Until one compressed request was taken, one that is refused is worth repeating plain. If that
    is taken, requests stay plain for an hour: an endpoint may learn gzip, and bytes cost money.
    """

    def __init__(self, wanted: Compression) -> None:
        self.proven = False
        """Whether a compressed request was taken."""
        self._wanted = wanted
        self._plain_until_s: float | None = None

    def choice(self, now_s: float) -> Compression:
        """What to try."""
        plain = self._plain_until_s is not None and now_s < self._plain_until_s
        return "none" if plain else self._wanted

    @property
    def safe(self) -> Compression:
        """What is known to be taken."""
        return self._wanted if self.proven else "none"

    def taken(self) -> None:
        """A compressed request was delivered."""
        if self._plain_until_s is not None:
            _log.info("the endpoint takes gzip now")
        self.proven = True
        self._plain_until_s = None

    def only_plain(self, status: int, now_s: float) -> None:
        """A compressed request was refused with ``status``, and the same one taken plain."""
        if self._plain_until_s is None:
            _log.info("the endpoint takes no gzip (%s): uploads stay plain", status)
        self._plain_until_s = now_s + _TRY_AGAIN_AFTER_S
