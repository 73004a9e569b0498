"""From the settings and systemd's credentials to what the endpoint is shown."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from telemetry_agent.addresses import is_loopback
from telemetry_agent.config.settings import Page, Upload
from telemetry_agent.errors import ConfigError
from telemetry_agent.page.libraries import server_missing
from telemetry_agent.secrecy import read_secret, secrets_in_url
from telemetry_agent.upload.http.credentials import Credentials

_SHORTEST_TOKEN = 16


def build_access(upload: Upload, secrets: set[str]) -> Credentials:
    """Read the secrets that the config names; where it names none, the credential of that name.

    Args:
        upload: the settings.
        secrets: every secret that is read is added to it, now and later.

    Raises:
        ConfigError: a file cannot be used, the settings and the credentials contradict each other,
            or a secret would be sent in the clear.
    """
    token = upload.token_file or _credential("token")
    password = upload.password_file or _credential("password") if upload.username else None
    if upload.username and token is not None:
        raise ConfigError(f"config: upload.username is set, and there is a token {token}: keep one")
    if upload.username and password is None:
        raise ConfigError("config: upload.password_file is missing, upload.username is set")
    if token is not None and (fault := upload.secret_in_the_clear()):
        raise ConfigError(f"config: {fault}")
    secrets |= secrets_in_url(upload.url)
    return Credentials(
        upload.headers,
        token=token,
        scheme=_scheme(upload),
        username=upload.username,
        password=password,
        ca_file=upload.ca_file,
        client_cert=upload.client_cert,
        client_key=(upload.client_key or _credential("client_key")) if upload.client_cert else None,
        secrets=secrets,
    )


def build_page_token(page: Page, secrets: set[str]) -> str | None:
    """Read what lets a viewer of the page in; ``None``: everybody on this machine may look.

    Raises:
        ConfigError: there is a page that cannot be, or that others could open without a token.
    """
    if page.listen is None:
        return None
    if (missing := server_missing()) is not None:
        raise ConfigError(f"config: page.listen is set, and {missing}")
    path = page.token_file or _credential("page_token")
    if path is not None:
        token = read_secret("page.token_file", path)
        if len(token) < _SHORTEST_TOKEN:
            raise ConfigError(
                f"page.token_file: {path} must hold at least {_SHORTEST_TOKEN} characters, such "
                "as `openssl rand -hex 16` makes"
            )
        secrets.add(token)
        return token
    if page.names:
        raise ConfigError(
            "config: page.names: whoever reaches the proxy could see where this device is: set "
            "page.token_file"
        )
    if not is_loopback(page.listen[0]):
        raise ConfigError(
            f"config: page.listen: whoever reaches {page.listen[0]} could see where this device "
            "is: set page.token_file, or listen on 127.0.0.1"
        )
    return None


def _scheme(upload: Upload) -> str:
    """InfluxDB 2 has a word of its own for what others call a bearer token."""
    path = urlsplit(upload.url).path
    return "Token" if upload.format == "influx" and path.endswith("/api/v2/write") else "Bearer"


def _credential(name: str) -> Path | None:
    """The file of one of the service's credentials, if it has that."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder, name)
    return path if folder and path.exists() else None
