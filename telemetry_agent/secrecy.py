"""Secrets: where they come from, which settings hold some, and how they are masked."""

import json
import os
import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from telemetry_agent.addresses import is_loopback
from telemetry_agent.errors import ConfigError
from telemetry_agent.small_files import answered, read_small_file

MASK = "***"
CUT = "…"
"""At the end of a text that was cut."""
SERVICE_CREDENTIALS = Path("/run/credentials/telemetry-agent.service")
"""Where systemd puts the service's credentials while it runs."""
_SHORTEST_SECRET = 4  # masking "a" would hide the text, not the secret

_SECRET_NAME = re.compile(
    r"auth|token|key|secret|passw|cookie|credential|signature|session", re.IGNORECASE
)


# PhoneTrack and many webhooks identify the sender by a long random part of the path.
_RANDOM_PART = re.compile(r"(?<=/)(?=[^/?#]*[0-9])[0-9A-Za-z_-]{24,}(?=[/?#]|$)")


def is_secret_name(name: str) -> bool:
    """Whether a header or URL parameter of this name probably holds a secret."""
    return name == "p" or bool(_SECRET_NAME.search(name))  # "p": InfluxDB's password


def secret_values(headers: Mapping[str, str]) -> set[str]:
    """The secrets in headers; of ``Bearer abc`` also ``abc`` alone."""
    values = {value for name, value in headers.items() if is_secret_name(name)}
    return values | {value.partition(" ")[2] for value in values if " " in value}


def read_secret(key: str, path: Path) -> str:
    """Read the secret in a file; ``key`` is the setting that names the file.

    Raises:
        ConfigError: it cannot be read, or is not one line of text.
    """
    remedy = ""
    if path.parent == SERVICE_CREDENTIALS:  # systemd's copy of it
        remedy = (
            "correct its file in /etc/credstore, then `sudo systemctl restart telemetry-agent`: a "
            "reload does not read it"
        )
    try:
        content = answered(path, partial(read_small_file, path))
        text = content.decode("utf-8").removeprefix("\ufeff").strip("\r\n")
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}: {path} is not text", remedy) from error
    if not text:
        raise ConfigError(f"{key}: {path} is empty", remedy)
    if not text.isprintable():
        said = f"{key}: {path} must contain one line of printable characters"
        raise ConfigError(said, remedy)
    return text


def see_service_credentials() -> None:
    """Look at the service's credentials, which systemd names only to the service itself."""
    if os.access(SERVICE_CREDENTIALS, os.X_OK):  # root may read them
        os.environ.setdefault("CREDENTIALS_DIRECTORY", str(SERVICE_CREDENTIALS))


def credential(name: str) -> Path | None:
    """The file of one of the service's credentials, if there is one."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder, name)
    return path if folder and path.exists() else None


def or_credential(name: str) -> str:
    """The end of a remedy for a missing secret; systemd passes credentials only at a start."""
    if "CREDENTIALS_DIRECTORY" not in os.environ and "INVOCATION_ID" not in os.environ:
        return ""
    return (
        f"; or put the secret into /etc/credstore/telemetry-agent.{name} and "
        "`sudo systemctl restart telemetry-agent`: a reload does not read it"
    )


def secrets_in_url(url: str) -> set[str]:
    """The secrets in a URL: values of secret names, and long random parts of its path."""
    parts = urlsplit(url)
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    values = {value for name, _, value in pairs if value and is_secret_name(name)}
    return values | {unquote(value) for value in values} | set(_RANDOM_PART.findall(parts.path))


def masked(text: str, secrets: Collection[str]) -> str:
    """``text`` without the secrets of 4 or more characters, however they are quoted."""
    # A copy, made in one step: another thread may add the secrets that it has read.
    forms = {form for secret in tuple(secrets) for form in _forms(secret)}
    # The longest first: one secret may contain another.
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= _SHORTEST_SECRET:
            text = text.replace(form, MASK)
            for length in range(len(form) - 1, _SHORTEST_SECRET - 1, -1) if CUT in text else ():
                text = text.replace(form[:length] + CUT, MASK + CUT)
    return text


def _forms(secret: str) -> set[str]:
    """As a server may quote it: plain, in JSON, in a URL; each also with its spaces joined."""
    in_json = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    in_url = {quote(secret, safe=""), quote(secret)}
    lower = {re.sub("%..", lambda found: found[0].lower(), form) for form in in_url}
    forms = {secret, *in_json, *(form.replace("/", "\\/") for form in in_json), *in_url, *lower}
    return forms | {" ".join(form.split()) for form in forms}


def masked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with their secrets masked."""
    return {name: MASK if is_secret_name(name) else value for name, value in headers.items()}


def masked_url(url: str) -> str:
    """A URL with its password and the secrets of ``secrets_in_url`` masked."""
    url = re.sub(r"//[^/?#]*@", f"//{MASK}@", url)
    head, mark, query = url.partition("?")
    url = _RANDOM_PART.sub(MASK, head) + mark + query
    return re.sub(
        r"([?&])([^=&#]*)=[^&#]*",
        lambda found: f"{found[1]}{found[2]}={MASK}" if is_secret_name(found[2]) else found[0],
        url,
    )


def in_the_clear(*urls: str) -> str | None:
    """The first host other than loopback that one of these URLs reaches without encryption."""
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            return parts.hostname
    return None
