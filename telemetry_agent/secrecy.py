"""What must not be seen: which settings are secrets, and how they are shown instead."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from telemetry_agent.addresses import is_loopback
from telemetry_agent.errors import ConfigError

MASK = "***"
_SHORTEST_SECRET = 4  # masking "a" would hide the text, not the secret

_SECRET_NAME = re.compile(
    r"auth|token|key|secret|passw|cookie|credential|signature|session", re.IGNORECASE
)


# PhoneTrack, and many a webhook, knows who sends by a long random part of the path.
_RANDOM_PART = re.compile(r"(?<=/)(?=[^/?#]*[0-9])[0-9A-Za-z_-]{24,}(?=[/?#]|$)")


def is_secret_name(name: str) -> bool:
    """Whether a header or a URL parameter of this name holds a secret, as far as one can tell."""
    return name == "p" or bool(_SECRET_NAME.search(name))  # "p": InfluxDB's password


def secret_values(headers: Mapping[str, str]) -> set[str]:
    """The secrets among some headers; of ``Bearer abc`` the ``abc`` is one by itself."""
    values = {value for name, value in headers.items() if is_secret_name(name)}
    return values | {value.partition(" ")[2] for value in values if " " in value}


def read_secret(key: str, path: Path) -> str:
    """The secret that a file holds; ``key`` is what names that file in the config.

    Raises:
        ConfigError: It cannot be read, or is no line of text.
    """
    try:
        text = path.read_text("utf-8").strip("\r\n")
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}: {path} is no text") from error
    if not text:
        raise ConfigError(f"{key}: {path} is empty")
    if not text.isprintable():
        raise ConfigError(f"{key}: {path} must hold one line of printable characters")
    return text


def secrets_in_url(url: str) -> set[str]:
    """The secrets that a URL holds: values of keys, and long random parts of its path."""
    parts = urlsplit(url)
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    values = {value for name, _, value in pairs if value and is_secret_name(name)}
    return values | {unquote(value) for value in values} | set(_RANDOM_PART.findall(parts.path))


def masked(text: str, secrets: Collection[str]) -> str:
    """``text`` without any of the secrets (of 4 characters or more), which may grow meanwhile."""
    # The longest first: one secret may hold another.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    return text


def masked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers as they may be shown."""
    return {name: MASK if is_secret_name(name) else value for name, value in headers.items()}


def masked_url(url: str) -> str:
    """A URL as it may be shown: without a password, and without what ``secrets_in_url`` finds."""
    url = re.sub(r"//[^/?#]*@", f"//{MASK}@", url)
    head, mark, query = url.partition("?")
    url = _RANDOM_PART.sub(MASK, head) + mark + query
    return re.sub(
        r"([?&])([^=&#]*)=[^&#]*",
        lambda found: f"{found[1]}{found[2]}={MASK}" if is_secret_name(found[2]) else found[0],
        url,
    )


def in_the_clear(*urls: str) -> str | None:
    """The first host beyond loopback that these URLs lead to without encryption."""
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            return parts.hostname
    return None
