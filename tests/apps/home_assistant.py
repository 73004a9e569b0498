"""Home Assistant with only its webhooks for OwnTracks and GPSLogger. Arguments: FOLDER PORT.

Run it with the Python that has Home Assistant. It appends a line of JSON to FOLDER/stored each
time a tracker has a new state.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from homeassistant import bootstrap, config_entries, loader
from homeassistant.core import HomeAssistant, callback
from homeassistant.core_config import async_process_ha_core_config
from homeassistant.setup import async_setup_component

DOMAINS = ("owntracks", "gpslogger")


def entry(domain: str) -> dict[str, Any]:
    """The entry that is stored when a user adds the integration in the browser."""
    return {
        "created_at": "2026-01-01T00:00:00+00:00",
        "modified_at": "2026-01-01T00:00:00+00:00",
        "data": {"webhook_id": domain, "cloudhook": False, "secret": ""},
        "disabled_by": None,
        "discovery_keys": {},
        "domain": domain,
        "entry_id": domain,
        "minor_version": 1,
        "options": {},
        "pref_disable_new_entities": False,
        "pref_disable_polling": False,
        "source": "user",
        "subentries": [],
        "title": domain,
        "unique_id": None,
        "version": 1,
    }


async def main(folder: Path, port: int) -> None:
    key = "core.config_entries"
    storage = folder / ".storage" / key
    storage.parent.mkdir(exist_ok=True)
    data = {"entries": [entry(domain) for domain in DOMAINS]}
    storage.write_text(json.dumps({"version": 1, "minor_version": 5, "key": key, "data": data}))
    hass = HomeAssistant(str(folder))
    hass.config.skip_pip = True
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await bootstrap.async_load_base_functionality(hass)
    await async_process_ha_core_config(hass, {})
    http = {"http": {"server_host": "127.0.0.1", "server_port": port}}
    assert await async_setup_component(hass, "http", http)
    with (folder / "stored").open("a") as stored:

        @callback  # type: ignore[untyped-decorator]  # otherwise states may be reordered
        def write(event: Any) -> None:
            state = event.data["new_state"]
            if state.entity_id.startswith("device_tracker.") and "latitude" in state.attributes:
                print(json.dumps(dict(state.attributes)), file=stored, flush=True)

        hass.bus.async_listen("state_changed", write)
        for domain in DOMAINS:
            assert await async_setup_component(hass, domain, {})
        await hass.async_start()
        sys.stdout.write("started\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
