"""The recording part: which source it reads, and what depends on the source."""

from dataclasses import asdict
from pathlib import Path

import pytest
from puppet import Puppet

from telemetry_agent.config.settings import GpsSettings, SamplingSettings
from telemetry_agent.daemon.recording import source_of
from telemetry_agent.gnss.sampling import SamplingPolicy
from telemetry_agent.gnss.sources import Source
from telemetry_agent.gnss.sources.auto import AutoSource
from telemetry_agent.gnss.sources.gpsd import GpsdSource
from telemetry_agent.gnss.sources.replay import ReplaySource
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.gnss.sources.sockets import TcpSource, UdpSource
from telemetry_agent.model import Fix


@pytest.mark.parametrize(
    ("source", "kind", "name"),
    [
        ("auto", AutoSource, "the receiver"),
        ("/dev/ttyS0", SerialSource, "/dev/ttyS0"),
        ("gpsd://far", GpsdSource, "gpsd://far:2947"),
        ("gpsd://far:3000", GpsdSource, "gpsd://far:3000"),
        ("tcp://far:4001", TcpSource, "tcp://far:4001"),
        ("udp://127.0.0.1:10110", UdpSource, "udp://127.0.0.1:10110"),
        ("file:///a/b.nmea", ReplaySource, "/a/b.nmea"),
    ],
)
def test_each_source_is_read_as_what_it_is(source: str, kind: type[Source], name: str) -> None:
    made = source_of(GpsSettings(source=source), None)
    assert (type(made), made.name) == (kind, name)


def test_the_defaults_of_the_config_are_those_of_the_sampler() -> None:
    assert SamplingPolicy(**asdict(SamplingSettings())) == SamplingPolicy()


def test_only_what_recording_needs_ends_the_process(tmp_path: Path) -> None:
    agent = Puppet(tmp_path).agent
    with agent.queue:
        tasks = agent.supervisor._tasks
        assert {task.name for task in tasks if task._records} == {"reader", "committer"}
        assert {task.name for task in tasks} > {"reader", "committer", "uploader"}


def test_the_time_is_that_of_the_last_sure_fix_and_goes_on(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    recording, fix = puppet.agent.recording, Fix(1_795_435_200_000, 48_000_000_000, 11_000_000_000)
    with puppet.queue:
        assert (recording.newest_ms(), recording.gnss_ms()) == (None, None)
        puppet.fix_comes(fix)
        puppet.clock.advance(2.5)
        puppet.fix_comes(fix._replace(time_ms=fix.time_ms + 10**9, flags=("time",)))
        assert recording.newest_ms() == fix.time_ms
        assert recording.gnss_ms() == fix.time_ms + 2500
