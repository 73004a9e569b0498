import io
import json
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import corpus
import peers
import pytest
from nmea import line

from telemetry_agent.clock import Clock
from telemetry_agent.errors import SourceError
from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.gnss.reader import Reader
from telemetry_agent.gnss.sources import Source, gpsd
from telemetry_agent.gnss.sources.auto import AutoSource
from telemetry_agent.gnss.sources.gpsd import GpsdSource, Reports
from telemetry_agent.gnss.sources.serial import SerialSource
from telemetry_agent.gnss.sources.sockets import TcpSource
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.simulator import Simulator, replay
from telemetry_agent.model import Fix, Satellite

LIMIT_S = 60.0
NEW_YEAR_MS = 1_798_761_600_000
_WEEKS_MS = 1024 * 7 * 86_400_000
END = line("GPTXT,01,01,02,THE END")

# Recordings of NMEA receivers of many makes that gpsd decodes from beginning to end.
TWENTY = [
    "ac12",
    "ait250",
    "blumax-gps009",
    "bt-q818",
    "bu353-glonass",
    "ch-4701",
    "com-1289",
    "firefly-II",
    "garmin-10x",
    "gp-320fw-2019-03-28",
    "gpsdf",
    "mt3339",
    "neo-m8n",
    "nl551e",
    "pharos-360",
    "quectel-L70",
    "sirfstarv-nmea",
    "skytraq-fix",
    "ublox-8",
    "ublox-lea-5h",
]


def decoded(data: bytes) -> list[Fix]:
    decoder = Decoder(fix_rollover=False, eager=False)
    return decoder.feed(data, 0.0) + decoder.finish()


# ---- a real gpsd, fed through a pty


def all_that_gpsd_says(data: bytes) -> bytes:
    """All lines that gpsd sends for one recording: sentences and reports."""
    said = b""
    epochs = [*replay(io.BytesIO(data)), END * 2]
    simulator = Simulator(epochs, rate_hz=100)
    with peers.gpsd(simulator.device) as port, closing(TcpSource("127.0.0.1", port)) as client:
        client.open()
        client.request(b'?WATCH={"enable":true,"json":true,"raw":1};\n')
        while b'"WATCH"' not in said:
            said += client.read(LIMIT_S)
        with simulator:  # the receiver starts to send
            while END not in said:
                more = client.read(LIMIT_S)
                assert more, f"gpsd fell silent after {said[-200:]!r}"
                said += more
    return said


@pytest.mark.skipif(not corpus.FOLDER.is_dir(), reason="the recordings are not there")
@pytest.mark.parametrize("name", TWENTY)
def test_by_way_of_gpsd_a_recording_gives_the_same_fixes(name: str) -> None:
    data = (corpus.FOLDER / f"{name}.nmea").read_bytes()
    directly = decoded(data)
    said = all_that_gpsd_says(data)
    assert decoded(Reports().feed(said)) == directly

    # Only the reports, as for a binary receiver. gpsd 3.22 derives some values and omits an epoch
    # at the start and at the end, but its values agree.
    reports = b"".join(part for part in said.splitlines(keepends=True) if part.startswith(b"{"))
    by_report = decoded(Reports().feed(reports))
    assert len(by_report) >= len(directly) - 2
    for fix in by_report:
        assert any(_agree(fix, other) for other in directly), fix


def _agree(ours: Fix, theirs: Fix) -> bool:
    apart_ms = abs(ours.time_ms - theirs.time_ms) % _WEEKS_MS  # gpsd moves old dates
    if min(apart_ms, _WEEKS_MS - apart_ms) > 10:
        return False
    limits = {"lat_e9": 200, "lon_e9": 200, "alt_mm": 51, "speed_mm_s": 2, "course_mdeg": 1}
    for name, limit in limits.items():
        our, their = getattr(ours, name), getattr(theirs, name)
        if our is not None and their is not None and abs(our - their) > limit:
            return False
    return True


@pytest.mark.skipif(not corpus.FOLDER.is_dir(), reason="the recordings are not there")
def test_a_receiver_that_speaks_only_ubx_gives_fixes_by_way_of_gpsd() -> None:
    data = (corpus.FOLDER / "ublox-neo-m8l.nmea").read_bytes()
    assert decoded(data) == []
    fixes = decoded(Reports().feed(all_that_gpsd_says(data)))
    assert len(fixes) >= 15
    assert {fix.mode for fix in fixes} == {3}
    assert all(fix.alt_mm is not None and fix.speed_mm_s is not None for fix in fixes)
    assert any(fix.sats for fix in fixes)


def test_the_source_follows_the_first_of_two_receivers() -> None:
    first, second = Drive(NEW_YEAR_MS), Drive(NEW_YEAR_MS + 3_600_000)
    one, other = Simulator(first, rate_hz=50), Simulator(second, rate_hz=50)
    with peers.gpsd(one.device, other.device) as port, one, other:
        both = [str(one.device), str(other.device)]
        deadline_s = Clock().monotonic_s() + LIMIT_S
        while gpsd.devices("127.0.0.1", port) != both:  # gpsd answers before it has both
            assert Clock().monotonic_s() < deadline_s
        source = GpsdSource("127.0.0.1", port)
        source.open()
        decoder = Decoder(fix_rollover=True)
        fixes: list[Fix] = []
        while len(fixes) < 10:
            fixes += decoder.feed(source.read(LIMIT_S), 0.0)
        source.close()
    assert {fix.time_ms // 3_600_000 for fix in fixes} == {NEW_YEAR_MS // 3_600_000}


# ---- reports of gpsd, converted to sentences

VERSION = {"class": "VERSION", "release": "3.25", "proto_major": 3, "proto_minor": 15}
TPV = {
    "class": "TPV",
    "device": "/dev/ttyACM0",
    "mode": 3,
    "time": "2026-11-23T12:35:19.250Z",
    "lat": -48.117300123,
    "lon": 11.516667001,
    "altHAE": 592.3,
    "altMSL": 545.4,
    "geoidSep": 46.9,
    "speed": 11.524,
    "track": 84.4,
}
SKY = {
    "class": "SKY",
    "hdop": 0.9,
    "vdop": 1.1,
    "pdop": 1.42,
    "satellites": [
        *({"PRN": n, "gnssid": 0, "svid": n, "used": True} for n in range(1, 15)),
        *({"PRN": n + 64, "gnssid": 6, "svid": n, "used": n > 2} for n in range(1, 5)),
    ],
}


def wire(*reports: object) -> bytes:
    return b"".join(json.dumps(report).encode() + b"\r\n" for report in reports)


def fixes_of(*reports: object) -> list[Fix]:
    return decoded(Reports().feed(wire(VERSION, *reports)))


def test_every_digit_of_a_report_arrives() -> None:
    gst = {"class": "GST", "time": TPV["time"], "lat": 3.0, "lon": 4.0, "alt": 6.5}
    assert fixes_of(TPV, SKY, gst) == [
        Fix(
            time_ms=1_795_437_319_250,
            lat_e9=-48_117_300_123,
            lon_e9=11_516_667_001,
            alt_mm=545_400,
            geoid_sep_mm=46_900,
            speed_mm_s=11_524,
            course_mdeg=84_400,
            mode=3,
            quality="gps",
            hdop_e2=90,
            vdop_e2=110,
            pdop_e2=142,
            sats=16,
            err_h_mm=5_000,
            err_v_mm=6_500,
        )
    ]


def test_the_satellites_in_view_are_in_as_many_sentences_as_they_need() -> None:
    said = Reports().feed(wire(VERSION, TPV, SKY)).decode()
    heads = [line.split(",")[:5] for line in said.splitlines() if line[3:6] == "GSV"]
    assert heads == [
        ["$GPGSV", "4", "1", "14", "1"],
        ["$GPGSV", "4", "2", "14", "5"],
        ["$GPGSV", "4", "3", "14", "9"],
        ["$GPGSV", "4", "4", "14", "13"],
        ["$GLGSV", "1", "1", "4", "1"],
    ]


def test_the_satellites_of_a_report_are_in_view() -> None:
    seen: list[dict[str, object]] = [
        {"PRN": 4, "gnssid": 0, "svid": 4, "el": 40.0, "az": 100.5, "ss": 41.0, "used": True},
        {"PRN": 131, "gnssid": 1, "svid": 131, "el": 10, "az": 90, "ss": 0, "used": False},
        {"PRN": 305, "gnssid": 2, "svid": 5, "el": None, "az": 1, "ss": 30.6, "used": True},
        {"PRN": 437, "gnssid": 3, "svid": 37, "el": -5, "az": 1, "used": False},
        {"PRN": 193, "gnssid": 5, "svid": 1, "used": False},
        {"PRN": 72, "gnssid": 6, "svid": 8, "el": 7, "az": 8, "ss": 9, "used": True},
        {"PRN": 173, "gnssid": 4, "svid": 1, "used": False},  # a beacon, not a satellite
    ]
    expected = (
        Satellite("BeiDou", 37, None, 1, None, used=False),
        Satellite("GLONASS", 8, 7, 8, 9, used=True),
        Satellite("GPS", 4, 40, 100, 41, used=True),
        Satellite("Galileo", 5, None, 1, 30, used=True),
        Satellite("QZSS", 1, None, None, None, used=False),
        Satellite("SBAS", 131, 10, 90, 0, used=False),
    )
    # gpsd before 3.18 has only the NMEA numbers.
    old = [{key: one[key] for key in one if key not in {"gnssid", "svid"}} for one in seen]
    for satellites in (seen, old):
        reports, decoder = Reports(), Decoder(fix_rollover=False)
        sky = {"class": "SKY", "satellites": satellites}
        decoder.feed(reports.feed(wire(VERSION, TPV, sky, {"class": "SKY", "hdop": 1.1})), 0.0)
        (fix,) = decoder.finish()
        assert (fix.sats, fix.hdop_e2) == (3, 110)
        assert decoder.satellites() == expected
        assert reports.rejected == {"gpsd-el": 1}


def test_what_a_report_leaves_out_is_unknown() -> None:
    least = {key: TPV[key] for key in ("class", "time", "lat", "lon")} | {"mode": 2}
    (fix,) = fixes_of(least)
    assert fix == Fix(1_795_437_319_250, -48_117_300_123, 11_516_667_001)


@pytest.mark.parametrize(
    ("heights", "alt_mm"),
    [
        ({"alt": 545.4}, 545_400),  # gpsd before 3.20
        ({"altHAE": 592.3, "altMSL": 545.4, "alt": 545.4}, 545_400),
        ({"altHAE": 592.3, "alt": 592.3}, None),
        ({"altHAE": 592.3, "alt": 592.3, "geoidSep": 46.9}, 545_400),
        ({"altHAE": None, "alt": 592.3, "geoidSep": 46.9}, None),
        ({"altHAE": 592.3, "altMSL": None, "alt": 592.3}, None),
        ({"altHAE": 10.5, "geoidSep": -30.25}, 40_750),
    ],
)
def test_a_height_above_the_ellipsoid_is_not_one_above_the_sea(
    heights: dict[str, object], alt_mm: int | None
) -> None:
    known = {key: TPV[key] for key in ("class", "time", "lat", "lon", "mode")}
    (fix,) = fixes_of(known | heights)
    assert fix.alt_mm == alt_mm


@pytest.mark.parametrize("mode", [0, 1])
def test_a_report_without_a_fix_gives_none(mode: int) -> None:
    assert fixes_of(TPV | {"mode": mode}) == []
    decoder = Decoder(fix_rollover=False)
    decoder.feed(Reports().feed(wire({"class": "TPV", "mode": mode, "time": TPV["time"]})), 0.0)
    decoder.finish()
    assert decoder.state == "no-fix"


@pytest.mark.parametrize(
    ("report", "state", "count"),
    [
        ({"class": "TPV", "device": "/dev/ttyACM0", "mode": 1}, "no-fix", "no-fix"),
        ({key: TPV[key] for key in TPV if key != "time"}, "no-date", "no-time"),
    ],
)
def test_a_receiver_without_a_time_is_not_silent(
    report: dict[str, object], state: str, count: str
) -> None:
    reports, decoder = Reports(), Decoder(fix_rollover=False)
    for second in range(20):
        assert decoder.feed(reports.feed(wire(report)), second) == []
        assert decoder.tick(second + 0.9) == []
    assert decoder.state == state
    assert decoder.counts == {count: 17}  # sentences could still have followed the first
    # Sentences of the receiver still have priority.
    said = reports.feed(line("GPRMC,,V,,,,,,,,,,N") + wire(report) * 3)
    assert said == line("GPRMC,,V,,,,,,,,,,N")


@pytest.mark.parametrize("missing", ["time", "lat", "lon"])
def test_half_a_report_is_passed_over(missing: str) -> None:
    assert fixes_of({key: value for key, value in TPV.items() if key != missing}) == []


@pytest.mark.parametrize(
    ("status", "quality"),
    [
        (0, "gps"),
        (1, "gps"),
        (2, "dgps"),
        (3, "rtk"),
        (4, "float-rtk"),
        (5, "estimated"),
        (6, "estimated"),
        (7, "manual"),
        (8, "simulated"),
        (9, "pps"),
    ],
)
def test_the_quality_of_a_report(status: int, quality: str) -> None:
    assert [fix.quality for fix in fixes_of(TPV | {"status": status})] == [quality]


def test_reports_count_only_where_no_sentences_come() -> None:
    own = Drive(NEW_YEAR_MS)
    reports = Reports()
    said = b""
    for i in range(5):
        epoch = own.epoch(i)
        time = f"2027-01-01T00:00:0{i}.000Z"
        said += reports.feed(epoch + wire(TPV | {"time": time}))
    assert decoded(said) == decoded(b"".join(islice(own, 5)))
    # Now gpsd switches the receiver to its binary protocol.
    later = [TPV | {"time": f"2027-01-01T00:00:1{i}.000Z"} for i in range(4)]
    fixes = decoded(reports.feed(wire(*later)))
    assert [fix.time_ms - NEW_YEAR_MS for fix in fixes] == [10_000, 11_000, 12_000, 13_000]


_NO_VALUES: dict[str, list[object]] = {
    "lat": [None, math.nan, math.inf, "48.1", True, [48.1], 90.1, 10**400],
    "lon": [None, -math.inf, {}, "", False, -180.5],
    "time": [None, 12, 1e300, "", [], "9999-12-31T23:59:59-23:00", "2126-11-23T12:35:19Z"],
    "mode": [None, "3", 2.5, math.nan, True, 4, []],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in _NO_VALUES.items() for value in values]
)
def test_a_report_whose_position_is_none_is_counted_by_name(name: str, value: object) -> None:
    earlier = TPV | {"time": "2026-11-23T12:35:18.000Z"}
    reports = Reports()
    fixes = decoded(reports.feed(wire(VERSION, earlier, TPV | {name: value})))
    assert [fix.time_ms for fix in fixes] == [1_795_437_318_000]
    assert reports.rejected == {f"gpsd-{name}": 1}


@pytest.mark.parametrize("missing", ["lat", "lon", "mode"])
def test_a_key_that_is_missing_is_counted(missing: str) -> None:
    reports = Reports()
    reports.feed(wire(VERSION, {key: value for key, value in TPV.items() if key != missing}))
    assert reports.rejected == {f"gpsd-{missing}": 1}


@pytest.mark.parametrize("value", [None, math.nan, "7", True, [], {}, 10**400])
@pytest.mark.parametrize("name", ["altMSL", "geoidSep", "speed", "track", "status"])
def test_a_quantity_that_is_none_is_unknown_and_counted(name: str, value: object) -> None:
    reports = Reports()
    (fix,) = decoded(reports.feed(wire(VERSION, TPV | {name: value})))
    (whole,) = fixes_of(TPV)
    unknown: dict[str, Any] = {
        "altMSL": {"alt_mm": None},
        "geoidSep": {"geoid_sep_mm": None},
        "speed": {"speed_mm_s": None},
        "track": {"course_mdeg": None},
        "status": {},
    }
    assert fix == whole._replace(**unknown[name])
    assert reports.rejected == {f"gpsd-{name}": 1}


@pytest.mark.parametrize(
    ("sky", "rejected"),
    [
        ({"satellites": None}, "satellites"),
        ({"satellites": "none"}, "satellites"),
        ({"satellites": [None]}, "satellites"),
        ({"satellites": [{"used": True}]}, "PRN"),
        ({"satellites": [{"used": True, "PRN": "7"}]}, "PRN"),
        ({"satellites": [{"used": 1, "PRN": 7}]}, "used"),
        ({"satellites": [{"used": True, "PRN": 7, "gnssid": []}]}, "gnssid"),
        ({"hdop": "0.9"}, "hdop"),
    ],
)
def test_a_sky_that_is_none_is_counted_by_name(sky: dict[str, object], rejected: str) -> None:
    reports = Reports()
    (fix,) = decoded(reports.feed(wire(VERSION, TPV, {"class": "SKY"} | sky)))
    assert fix.lat_e9 == -48_117_300_123
    assert reports.rejected == {f"gpsd-{rejected}": 1}


def test_a_pulse_is_no_receiver() -> None:
    reports = Reports()
    pulse = {"class": "DEVICE", "path": "/dev/pps0", "driver": "PPS"}
    reports.feed(wire({"class": "DEVICES", "devices": [pulse, {"path": "/dev/ttyAMA0"}]}))
    assert reports.devices == ["/dev/ttyAMA0"]
    reports.feed(wire({"class": "DEVICES", "devices": [pulse]}))
    assert reports.devices == []


@pytest.mark.parametrize("path", ["/dev/x\x1b]0;owned\x07", "/dev/x\nerror: y", "/dev/\u202ex"])
def test_a_path_that_would_change_the_log_or_the_terminal_is_no_receiver(path: str) -> None:
    reports = Reports()
    reports.feed(wire({"class": "DEVICES", "devices": [{"path": path}, {"path": "/dev/ttyAMA0"}]}))
    assert (reports.devices, reports.followed) == (["/dev/ttyAMA0"], "/dev/ttyAMA0")


@pytest.mark.parametrize("devices", [None, "x", [None], [{}], [{"path": None}], [{"path": 3}]])
def test_devices_that_are_none_are_counted(devices: object) -> None:
    reports = Reports()
    reports.feed(wire({"class": "DEVICES", "devices": devices}))
    assert reports.devices == []
    assert reports.rejected.total() == 1


@pytest.mark.parametrize(
    "line", [b'{"class":', b'{"a":' * 100_000, b'{"class":"\xff"}', b'{"n":' + b"9" * 5000 + b"}"]
)
def test_what_is_no_json_is_counted(line: bytes) -> None:
    reports = Reports()
    assert len(decoded(reports.feed(line[:60_000] + b"\n" + wire(VERSION, TPV)))) == 1
    assert reports.rejected == {"gpsd-json": 1}


def test_a_class_of_any_type_is_passed_over() -> None:
    assert fixes_of({"class": []}, {"class": {}}, {"class": None}, {}, {"class": 3}) == []


def test_a_time_with_an_offset_is_brought_to_utc() -> None:
    assert fixes_of(TPV | {"time": "2026-11-23T14:35:19.250+02:00"}) == fixes_of(TPV)


def test_a_time_in_seconds_is_that_of_an_old_gpsd() -> None:
    assert fixes_of(TPV | {"time": 1_795_437_319.25}) == fixes_of(TPV)


def test_the_last_report_of_one_time_counts() -> None:
    known = ("class", "mode", "time", "lat", "lon")
    first = {name: TPV[name] for name in known} | {"lat": -48.117300999, "speed": 3.0}
    assert fixes_of(first, first | {"lat": -48.1173}, TPV) == fixes_of(TPV)


def test_a_report_without_a_fix_may_be_the_first_of_a_time_that_has_one() -> None:
    # For example with the binary protocol of Trimble and with dead reckoning.
    void = {"class": "TPV", "time": TPV["time"], "mode": 1}
    assert fixes_of(void, TPV) == fixes_of(void, void, TPV) == fixes_of(TPV)
    assert fixes_of(void, void) == []


@pytest.mark.parametrize("mode", [0, 1])
def test_a_report_without_a_time_among_others_ends_no_epoch(mode: int) -> None:
    # gpsd reports each device of an NMEA 2000 bus, and repeats a time whenever it receives it.
    alone = {"class": "TPV", "mode": mode}
    decoder = Decoder(fix_rollover=False)
    fixes = decoder.feed(Reports().feed(wire(VERSION, *[TPV] * 5, alone, *[TPV] * 12)), 0.0)
    assert fixes + decoder.finish() == fixes_of(TPV)
    assert decoder.state == "3d"


def test_lines_may_come_in_any_pieces_and_be_anything() -> None:
    junk = b'{"class":\n{}\n[1]\n{"class":"TPV","mode":"x","time":3}\nb5620107\n'
    data = wire(VERSION) + junk + wire(TPV, SKY, TPV | {"time": "2026-11-23T12:35:20.000Z"})
    whole = Reports().feed(data)
    pieces = Reports()
    assert b"".join(pieces.feed(data[i : i + 1]) for i in range(len(data))) == whole
    assert len(decoded(whole)) == 2


# ---- the connection


class Server:
    """A fake gpsd for one client; the test sends the data."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def accept(self) -> socket.socket:
        self._listener.settimeout(LIMIT_S)
        return self._listener.accept()[0]

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_gpsd_is_asked_for_its_first_receiver_and_its_reports_are_read(server: Server) -> None:
    source = GpsdSource("127.0.0.1", server.port)
    source.open()
    with server.accept() as gpsd_side:
        assert gpsd_side.recv(1000) == b'?WATCH={"enable":true,"json":true};\n'
        devices = [{"path": "/dev/a"}, {"path": "/dev/b"}]
        gpsd_side.sendall(wire(VERSION, {"class": "DEVICES", "devices": devices}))
        assert source.read(LIMIT_S) == b""
        asked = gpsd_side.recv(1000)
        assert asked == b'?WATCH={"enable":true,"json":true,"raw":1,"device":"/dev/a"};\n'
        gpsd_side.sendall(wire(TPV, SKY))
        data = b""
        while data.count(b"GSA") < 4:
            data += source.read(LIMIT_S)
        assert len(decoded(data)) == 1
    gone = rf"gpsd://127.0.0.1:{server.port} closed the connection"
    with pytest.raises(SourceError, match=gone):
        source.read(LIMIT_S)
    source.close()
    source.open()
    server.accept().close()
    source.close()


def test_reports_of_another_receiver_do_not_count() -> None:
    """gpsd reports all receivers until it has read the request for one of them."""
    devices = [{"path": "/dev/a"}, {"path": "/dev/b"}]
    (fix,) = fixes_of(
        {"class": "DEVICES", "devices": devices},
        TPV | {"device": "/dev/b", "time": "2026-11-23T12:35:19.100Z"},
        TPV | {"device": "/dev/a"},
        TPV | {"device": "/dev/b", "lat": 50.0},
    )
    assert fix.lat_e9 == -48_117_300_123


@pytest.mark.parametrize("found", ["named", "auto"])
def test_a_receiver_that_says_nothing_gives_way_to_the_next(server: Server, found: str) -> None:
    source: Source = GpsdSource("127.0.0.1", server.port)
    if found == "auto":
        source = AutoSource(
            SerialSource, find=list, gpsd_devices=lambda: ["/dev/ais"], gpsd_source=source
        )
    devices = [{"path": "/dev/ais"}, {"path": "/dev/gps"}]
    ais = b"!AIVDM,1,1,,A,15RTgt0PAso;90TKcjM8h6g208CQ,0*4A\r\n"
    followed = []
    for says, heard in ((ais, b""), (END, END), (b"", b""), (b"", b"")):
        source.open()
        with server.accept() as gpsd_side:
            gpsd_side.sendall(wire(VERSION, {"class": "DEVICES", "devices": devices}))
            asked = gpsd_side.recv(1000)
            while b"device" not in asked:
                source.read(LIMIT_S)
                asked += gpsd_side.recv(1000)
            followed.append(json.loads(asked[asked.rindex(b"{") :].rstrip(b"\n;"))["device"])
            gpsd_side.sendall(says)
            assert source.read(LIMIT_S if heard else 0.1) == heard
        source.close()
    assert followed == ["/dev/ais", "/dev/gps", "/dev/gps", "/dev/ais"]


def test_a_program_that_knows_no_request_but_watch_is_read(server: Server) -> None:
    """For example simulators and protocol bridges. They act only on the first request."""
    source = GpsdSource("127.0.0.1", server.port)
    source.open()
    with server.accept() as program:
        assert program.recv(1000) == b'?WATCH={"enable":true,"json":true};\n'
        program.sendall(wire(VERSION, TPV))
        assert len(decoded(source.read(LIMIT_S))) == 1
        program.sendall(wire({"class": "DEVICES", "devices": [{"path": "/dev/sim"}]}, TPV))
        source.read(LIMIT_S)
        assert json.loads(program.recv(1000)[7:].rstrip(b"\n;"))["device"] == "/dev/sim"
    source.close()


def test_a_gpsd_without_a_receiver_says_how_to_give_it_one(server: Server) -> None:
    source = GpsdSource("127.0.0.1", server.port)
    source.open()
    with server.accept() as gpsd_side:
        gpsd_side.sendall(wire(VERSION, {"class": "DEVICES", "devices": []}))
        with pytest.raises(SourceError, match=r"has no receiver: `sudo gpsdctl add"):
            source.read(LIMIT_S)
    source.close()


def test_no_gpsd(server: Server) -> None:
    server.close()
    assert gpsd.devices("127.0.0.1", server.port) == []
    with pytest.raises(SourceError, match=r"cannot be reached \(connection refused by"):
        GpsdSource("127.0.0.1", server.port).open()


def test_something_else_on_the_port_is_no_gpsd(server: Server) -> None:
    def serve() -> None:
        with server.accept() as other:
            other.sendall(b"220 smtp\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    assert gpsd.devices("127.0.0.1", server.port) == []
    thread.join(LIMIT_S)


def test_the_reader_counts_what_gpsd_sends_wrong(server: Server) -> None:
    """As in the public case: a latitude of null, and a satellite without a number."""
    fixes: list[Fix] = []
    source, clock = GpsdSource("127.0.0.1", server.port), Clock()
    reader = Reader(source, lambda: Decoder(fix_rollover=True), fixes.append)
    reader.step(clock.monotonic_s())
    with server.accept() as gpsd_side:
        gpsd_side.sendall(wire(VERSION, {"class": "DEVICES", "devices": [{"path": "/dev/a"}]}))
        times = [f"2026-11-23T12:00:0{n}.000Z" for n in (1, 2, 3)]
        said = [TPV | {"time": time} for time in times]
        said[1]["lat"] = None
        sky = {"class": "SKY", "satellites": [{"used": True}]}
        gpsd_side.sendall(wire(*said[:2], sky, said[2]))
        while len(fixes) < 2:
            reader.step(clock.monotonic_s())
        reader.step(clock.monotonic_s())
        assert reader.status.counts == {"gpsd-lat": 1, "gpsd-PRN": 1}
        reader.close()
    assert [fix.time_ms % 60_000 for fix in fixes] == [1000, 3000]


def test_what_is_wrong_with_a_gpsd_that_sends_no_data() -> None:
    source = gpsd.GpsdSource("127.0.0.1")
    assert str(source.advice("silent", b"")).startswith(
        "gpsd has a receiver but receives no data from it: check the receiver's wiring and power"
    )
    source._reports.feed(wire({"class": "ERROR", "message": "no such device\n" + "x" * 90}))
    assert "data from it, and answers 'no such device\\nxxx" in str(source.advice("silent", b""))
    assert len(str(source.advice("silent", b""))) < 250
    assert "is not NMEA: check what its sender sends" in str(source.advice("wrong-baud", b""))
