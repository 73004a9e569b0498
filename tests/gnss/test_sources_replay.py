import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.sources import EndOfSourceError
from telemetry_agent.gnss.sources.replay import ReplaySource


def until_end(source: ReplaySource) -> Iterator[bytes]:
    try:
        while True:
            yield source.read(60)
    except EndOfSourceError:
        return


def test_a_file_is_read_to_its_end_and_replayed_by_an_open(tmp_path: Path) -> None:
    path = tmp_path / "track.nmea"
    path.write_bytes(content := os.urandom(10_000))
    source = ReplaySource(path)
    for _ in range(2):
        source.open()
        assert b"".join(until_end(source)) == content
        source.close()
        source.close()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.nmea cannot be replayed: No such file"):
        ReplaySource(tmp_path / "none.nmea").open()


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="pipe is not a file"):
        ReplaySource(tmp_path / "pipe").open()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    source = ReplaySource(tmp_path / "track.nmea")
    with pytest.raises(SourceError, match="is not open"):
        source.read(1)
    assert "does not contain NMEA" in source.advice("silent", b"").message
