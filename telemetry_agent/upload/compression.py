"""Whether requests are compressed: what the setting means, and what the endpoint takes.

Theory of operation. An endpoint that does not look at ``Content-Encoding`` finds no fixes in a
compressed body, may answer 200 all the same, and the fixes are lost. So with ``auto`` gzip is
earned: by a format whose servers are known to unpack it, by an answer that names gzip in
``Accept-Encoding``, or by one that counts what it received, because that would show the loss.

A compressed request that is refused before any was accepted is worth repeating plain. If that is
accepted, requests stay plain for an hour: an endpoint may learn gzip, and bytes cost money.
"""

import logging

from telemetry_agent.model import Answer, Delivered, Outcome
from telemetry_agent.upload.formats.answers import offers_gzip
from telemetry_agent.upload.interfaces import Compression, CompressionSetting, WireFormat

_log = logging.getLogger(__name__)

_TRY_AGAIN_AFTER_S = 3600.0


class CompressionChoice:
    """How to encode the next request."""

    def __init__(self, setting: CompressionSetting, wire_format: WireFormat) -> None:
        self.proven = False
        """Whether a compressed request was accepted."""
        self._may_earn = setting == "auto" and wire_format.may_be_packed
        self._wanted: Compression = "none"
        if setting == "gzip" or (setting == "auto" and wire_format.unpacks):
            self._wanted = "gzip"
        self._plain_until_s: float | None = None

    def choice(self, now_s: float) -> Compression:
        """What to try."""
        plain = self._plain_until_s is not None and now_s < self._plain_until_s
        return "none" if plain else self._wanted

    @property
    def safe(self) -> Compression:
        """What is known to be accepted."""
        return self._wanted if self.proven else "none"

    def learn(self, answer: Answer, outcome: Outcome) -> None:
        """Note what an answer says about gzip."""
        if self._may_earn and self._wanted == "none":
            counted = isinstance(outcome, Delivered) and outcome.counted
            if counted or offers_gzip(answer):
                self._wanted = "gzip"
                _log.info("the endpoint unpacks gzip: uploads are compressed from here on")

    def accepted(self) -> None:
        """A compressed request was delivered."""
        if self._plain_until_s is not None:
            _log.info("the endpoint accepts gzip now")
        self.proven = True
        self._plain_until_s = None

    def only_plain(self, status: int, now_s: float) -> None:
        """A compressed request was refused with ``status``, and the same one accepted plain."""
        if self._plain_until_s is None:
            _log.info("the endpoint does not accept gzip (%s): uploads stay plain", status)
        self._plain_until_s = now_s + _TRY_AGAIN_AFTER_S
