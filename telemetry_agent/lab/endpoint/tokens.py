"""Who may send: a token for each device."""

import re
import tomllib
from hashlib import sha256
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
        for name, token in tokens.items():
            if not (isinstance(token, str) and re.fullmatch("[!-~]+", token)):
                raise ConfigError(f"--tokens: {path}: {name} needs a token: ASCII without spaces")
        if len(set(tokens.values())) < len(tokens):
            raise ConfigError(f"--tokens: {path}: two devices have the same token")
        self._devices: dict[bytes, str] = {_digest(token): name for name, token in tokens.items()}

    def device_of(self, authorization: str) -> str | None:
        """The device with this token; ``None``: no device has it."""
        word, _, sent = authorization.partition(" ")
        return self._devices.get(_digest(sent.strip())) if word.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    """Tokens are compared by it: the time that this takes shows nothing of them."""
    return sha256(token.encode("utf-8", "replace")).digest()
