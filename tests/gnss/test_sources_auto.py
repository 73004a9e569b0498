import logging
from collections import Counter
from pathlib import Path

import pytest

from telemetry_agent.errors import Advice, SourceError
from telemetry_agent.gnss.sources import BusyError, ForbiddenError, Source
from telemetry_agent.gnss.sources.auto import AutoSource
from telemetry_agent.gnss.sources.machine import Candidate, Holder, Kind, explain
from telemetry_agent.model import ReceiverState


class Port(Source):
    """A source with given data that records the calls to it."""

    def __init__(self, name: str, says: bytes = b"", error: SourceError | None = None) -> None:
        self.name = name
        self.says = says
        self.error = error
        self.done: list[str] = []

    def open(self) -> None:
        self.done.append("open")
        if self.error:
            raise self.error

    def read(self, timeout_s: float) -> bytes:
        return self.says

    def cancel(self) -> None:
        self.done.append("cancel")

    def close(self) -> None:
        self.done.append("close")

    def advice(self, state: ReceiverState, heard: bytes) -> Advice:
        return Advice(f"{self.name} is {state}")


class Bench:
    """Some ports, and the source that selects one of them."""

    def __init__(self) -> None:
        self.ports: dict[Path, Port] = {}
        self.found: list[Candidate] = []
        self.served: list[str] = []
        self.gpsd = Port("gpsd://localhost:2947", b"$")
        self.gpsd.rejected = Counter({"gpsd-json": 1})
        self.source = AutoSource(
            self.ports.__getitem__,
            find=lambda: self.found,
            gpsd_devices=lambda: self.served,
            gpsd_source=self.gpsd,
        )

    def add(self, kind: Kind, name: str, says: bytes = b"$", **more: object) -> Port:
        path = Path("/dev") / name
        blocked = more.get("blocked")
        self.found.append(
            Candidate(path, path, kind, f"a {name}", str(blocked) if blocked else None)
        )
        error = more.get("error")
        port = Port(str(path), says, error if isinstance(error, SourceError) else None)
        self.ports[path] = port
        return port


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level(logging.INFO)
    return Bench()


def test_the_best_is_used_and_the_others_are_told(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.add("receiver", "ublox")
    header = bench.add("header", "serial0", blocked="a login console has it: `sudo x`")
    modem = bench.add("modem", "lte")
    bridge = bench.add("unknown", "ftdi")
    for _ in range(2):
        bench.source.open()
        assert bench.source.read(1) == b"$"
        bench.source.close()
    assert bench.source.name == "/dev/ublox"
    assert [port.done for port in (header, modem, bridge)] == [[], [], []]
    (said,) = caplog.messages
    assert said == (
        "using a ublox: /dev/ublox; a serial0 is not free: a login console has it: `sudo x`; "
        'not used: a lte (gps.source = "/dev/lte"); a ftdi may be a receiver: '
        'if it is, set gps.source = "/dev/ftdi"'
    )


def test_a_login_that_is_started_again_on_another_port_is_logged_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.add("modem", "lte")
    for pid in range(700, 720):
        bench.found[1:] = []
        bench.add("header", "serial0", blocked=str(explain(Path("ttyS0"), Holder(pid, "agetty"))))
        bench.source.open()
        bench.source.close()
    assert len(caplog.messages) == 1


def test_a_gpsd_that_has_a_receiver_comes_first(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    port = bench.add("receiver", "ublox")
    bench.served = ["/dev/ublox"]
    bench.source.open()
    assert bench.source.rejected == {"gpsd-json": 1}
    assert bench.source.name == "gpsd://localhost:2947"
    assert (port.done, bench.gpsd.done) == ([], ["open"])
    assert caplog.messages == [
        "gpsd has /dev/ublox: using gpsd://localhost:2947",
    ]


def test_a_gpsd_that_cannot_be_reached_is_named(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.gpsd.error = SourceError("gpsd cannot be reached")
    bench.served = ["/dev/ublox"]
    with pytest.raises(SourceError, match="no usable receiver: gpsd cannot be reached"):
        bench.source.open()
    bench.add("modem", "lte")
    bench.source.open()
    assert caplog.messages == ["using a lte: /dev/lte; gpsd cannot be reached"]


def test_a_gpsd_that_says_nothing_gives_way_and_keeps_its_ports(
    bench: Bench, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    ais = bench.add("receiver", "ais")
    bench.add("receiver", "ublox")
    bench.gpsd.says = b""
    name = tmp_path / "gps0"  # another name of the port
    name.symlink_to("/dev/ais")
    bench.served = [str(name)]
    names = []
    for _ in range(3):
        bench.source.open()
        names.append(bench.source.name)
        bench.source.read(0)
        bench.source.close()
    assert names == ["gpsd://localhost:2947", "/dev/ublox", "/dev/ublox"]
    assert ais.done == []
    assert caplog.messages[1:] == ["using a ublox: /dev/ublox"]


def test_what_is_not_known_to_be_a_receiver_is_told_and_never_opened(bench: Bench) -> None:
    arduino = bench.add("unknown", "arduino")
    with pytest.raises(SourceError, match=r"usable receiver: a arduino may be a receiver"):
        bench.source.open()
    assert arduino.done == []


def test_nothing_at_all(bench: Bench) -> None:
    with pytest.raises(SourceError, match="no receiver found: plug one in"):
        bench.source.open()


def test_one_that_cannot_be_opened_gives_way_to_the_next(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.add("receiver", "ublox", error=BusyError("ublox is taken"))
    bench.add("modem", "lte")
    bench.source.open()
    assert bench.source.name == "/dev/lte"
    assert caplog.messages == ["using a lte: /dev/lte; ublox is taken"]


def test_when_all_fail_each_says_why(bench: Bench) -> None:
    bench.add("receiver", "ublox", error=BusyError("ublox is taken"))
    bench.add("modem", "lte", error=SourceError("no permission to read lte"))
    with pytest.raises(BusyError, match="ublox is taken; no permission to read lte"):
        bench.source.open()


def test_a_port_that_may_not_be_read_is_named_as_the_cause(bench: Bench) -> None:
    bench.add("receiver", "ublox", error=SourceError("ublox: no such device"))
    bench.add("modem", "lte", error=ForbiddenError("no permission to read lte"))
    with pytest.raises(ForbiddenError, match="ublox: no such device; no permission to read lte"):
        bench.source.open()


def test_one_that_says_nothing_goes_to_the_end_of_the_row(bench: Bench) -> None:
    bench.add("receiver", "ublox", says=b"")
    modem = bench.add("modem", "lte", says=b"")
    used = []
    for _ in range(4):
        bench.source.open()
        bench.source.read(1)
        used.append(bench.source.name)
        bench.source.close()
    assert used == ["/dev/ublox", "/dev/lte", "/dev/ublox", "/dev/lte"]
    modem.says = b"$"
    for _ in range(3):
        bench.source.open()
        bench.source.read(1)
        used.append(bench.source.name)
        bench.source.close()
    assert used[4:] == ["/dev/ublox", "/dev/lte", "/dev/lte"]


def test_one_that_has_sent_data_again_has_its_old_place(bench: Bench) -> None:
    port = bench.add("receiver", "ublox", says=b"")
    for port.says in (b"", b"$"):
        bench.source.open()
        bench.source.read(1)
        bench.source.close()
    bench.add("modem", "lte")
    bench.source.open()
    assert bench.source.name == "/dev/ublox"


def test_the_rest_goes_to_the_port_in_use(bench: Bench) -> None:
    bench.source.cancel()
    bench.source.close()
    port = bench.add("receiver", "ublox")
    bench.source.open()
    bench.source.cancel()
    bench.source.close()
    assert port.done == ["open", "cancel", "close"]
    assert str(bench.source.advice("silent", b"")) == "/dev/ublox is silent"
