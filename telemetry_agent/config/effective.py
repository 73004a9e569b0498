"""The settings as a flat list that may be shown. Without pydantic: the agent uses it too."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any

from telemetry_agent.config.settings import Settings, key_of
from telemetry_agent.config.values import duration_text, size_text
from telemetry_agent.secrecy import masked_headers, masked_url


def known_keys() -> list[str]:
    """Every key path, in the order of the settings."""
    return [".".join(map(key_of, path)) for path in _paths()]


def effective(settings: Settings) -> dict[str, Any]:
    """Key path -> value as in effect (durations in seconds)."""
    values = {
        ".".join(map(key_of, path)): attrgetter(".".join(path))(settings) for path in _paths()
    }
    for name, one in settings.extra.attributes.items():
        parts = {"file": str(one.file), "scale": one.scale, "unit": one.unit or None}
        values[f"extra.{name}"] = {key: value for key, value in parts.items() if value is not None}
    return values


def shown(settings: Settings) -> dict[str, Any]:
    """``effective`` as written in a config file, with secrets masked."""
    upload = settings.upload
    values = effective(settings)
    for path in _paths():
        key = ".".join(map(key_of, path))
        if path[-1].endswith("_s"):
            values[key] = duration_text(values[key])
        elif path[-1].endswith("_bytes"):
            values[key] = size_text(values[key])
    return values | {
        "upload.url": masked_url(upload.url),
        "upload.headers": masked_headers(upload.headers),
        "page.tiles": masked_url(settings.page.tiles),
    }


def _paths() -> Iterator[tuple[str, ...]]:
    """The attribute path of each setting, without the user's own attributes."""
    for section in fields(Settings):
        if not (isinstance(section.type, type) and is_dataclass(section.type)):
            yield (section.name,)
            continue
        for setting in fields(section.type):
            if setting.name != "attributes":
                yield section.name, setting.name
