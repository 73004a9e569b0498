"""A new field of a fix breaks no table and no config from before the upgrade."""

from pathlib import Path
from urllib.parse import parse_qs

import pytest

from telemetry_agent.config import loader, settings
from telemetry_agent.config.settings import ExtraFile, ExtraSettings
from telemetry_agent.daemon import extras
from telemetry_agent.daemon.extras import Extras
from telemetry_agent.fields import FIELDS
from telemetry_agent.model import Batch, Fix, Record
from telemetry_agent.upload.formats import clickhouse

# Treat the last field of the table as one that was added later.
LATER = tuple(field for field in FIELDS if field.name == "odo")
FIX = Fix(1764426119000, 48_117300000, 11_516667000, odo_m=1234)


def query_at(url: str) -> dict[str, list[str]]:
    batch = Batch(0, "ab" * 8, "van-07", (Record("ab" * 8, 1, "van-07", FIX),), live=True)
    return parse_qs(clickhouse.format_for(url).encode(batch, "none").query)


def test_the_fields_of_the_first_release_are_pinned() -> None:
    """A new field must have ``since``, so that older tables and configs still work."""
    first = " ".join(field.name for field in FIELDS if not field.since)
    assert first == (
        "time lat lon alt geoid_sep speed course mode quality hdop vdop pdop sats err_h err_v odo "
        "flags extra"
    )


def test_a_table_from_before_the_field_takes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clickhouse, "LATER_FIELDS", LATER)
    query = query_at("http://x/")
    assert query["input_format_skip_unknown_fields"] == ["1"]
    assert query["query"][0].startswith("INSERT INTO fixes (device,stream,seq,time,lat,lon,alt,")
    own = query_at("http://x/?input_format_skip_unknown_fields=1")
    assert own["query"] == ["INSERT INTO fixes FORMAT JSONEachRow"]
    assert "query" not in query_at("http://x/?query=INSERT%20INTO%20t%20FORMAT%20JSONEachRow")


def test_an_attribute_of_that_name_goes_on_being_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "odo"
    file.write_text("48.5")
    config = tmp_path / "config.toml"
    config.write_text(f'[extra]\nodo = "{file}"\n[upload]\nurl = "http://x/"\n')
    monkeypatch.setattr(settings, "_TAKEN_NAMES", settings._TAKEN_NAMES - {"odo"})
    assert loader.load(config).settings.extra.files["odo"].file == file

    monkeypatch.setattr(extras, "LATER_FIELDS", LATER)
    fix = Extras(ExtraSettings(attributes={"odo": ExtraFile(file)})).added_to(FIX)
    assert (fix.extra, fix.odo_m) == ('{"odo":48.5}', None)
    assert Extras(ExtraSettings(attributes={"door": ExtraFile(file)})).added_to(FIX).odo_m == 1234
