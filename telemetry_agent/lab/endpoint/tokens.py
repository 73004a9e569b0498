"""Who may send: a token for each device."""

import hmac
import re
import tomllib
from pathlib import Path

from telemetry_agent.errors import ConfigError


class Tokens:
    """The tokens of a TOML file: ``van-07 = "a long random text"``, one line for each device."""

    def __init__(self, path: Path) -> None:
        """Read them.

        Raises:
            ConfigError: the file cannot be read, or does not hold tokens.
        """
        try:
            tokens = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"--tokens: cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            # Without the parser's message: it may quote a token.
            raise ConfigError(f'--tokens: {path} must hold lines like van-07 = "token"') from None
        if "" in tokens:  # its token would show the reports of all devices
            raise ConfigError(f"--tokens: {path}: a device needs a name")
        wrong = next((name for name, token in tokens.items() if not _is_token(token)), None)
        if wrong is not None:
            raise ConfigError(f"--tokens: {path}: {wrong} needs a token: ASCII without spaces")
        if len(set(tokens.values())) < len(tokens):
            raise ConfigError(f"--tokens: {path}: two devices have the same token")
        self._device_by_token: dict[str, str] = {token: name for name, token in tokens.items()}

    def device_of(self, authorization: str) -> str | None:
        """The device with this token; ``None``: no device has it."""
        word, _, sent = authorization.partition(" ")
        if word.lower() != "bearer":
            return None
        found = None
        for token, device in self._device_by_token.items():
            # Compare with each token in constant time: the time taken shows nothing.
            if hmac.compare_digest(token.encode(), sent.strip().encode("utf-8", "replace")):
                found = device
        return found


def _is_token(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch("[!-~]+", value))
