"""The map under the track: tiles from a server, or a map file on the device."""

import http.client
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from area_map import write
from browsing import browsing, comes_true
from once import DRAWN
from ports import free_port
from rig import START_MS, started, write_config
from test_site import served  # type: ignore[import-not-found]

from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.config.settings import PageSettings
from telemetry_agent.errors import ConfigError
from telemetry_agent.model import Fix
from telemetry_agent.page.map_file import asked_range, open_map

GREY = b"\x89PNG\r\n\x1a\n"


def picture() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\x00" + bytes([200, 220, 200]) * 256 for _ in range(256))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 256, 8, 2, 0, 0, 0))
    return GREY + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class TileServer:
    """A tile server that, like OpenStreetMap, refuses requests without a Referer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        tile, asked = picture(), self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                referer = self.headers["Referer"]
                asked.append((self.path, referer))
                self.send_response(200 if referer else 403)
                self.send_header("Content-Type", "image/png")
                self.send_header("Content-Length", str(len(tile) if referer else 0))
                self.end_headers()
                if referer:
                    self.wfile.write(tile)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    @contextmanager
    def serving(self) -> Iterator["TileServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def config_with_track(folder: Path, port: int, **page: str) -> Path:
    with AckQueue(folder / "queue.db") as queue:
        for number in range(200):
            lat_e9 = 48_117_300_000 + 450_000 * number
            queue.put(
                Fix(START_MS + 1000 * number, lat_e9, 11_250_000_000 + 250_000 * number), "van-07"
            )
    listen = f"127.0.0.1:{port}"
    return write_config(folder, "/dev/none", "http://127.0.0.1:9/", page={"listen": listen, **page})


@DRAWN
def test_tiles_get_the_origin_as_referer_and_their_credit_is_shown(tmp_path: Path) -> None:
    port = free_port()
    with TileServer().serving() as tiles:
        template = f"http://{{s}}.localhost:{tiles.port}/{{z}}/{{x}}/{{y}}{{r}}.png?key=k"
        config = config_with_track(
            tmp_path, port, tiles=template, tiles_credit="© <b>them</b> & others"
        )
        with started(config) as daemon:
            daemon.wait_for_line("the page is at")
            env = {"STRANGER": f".localhost:{tiles.port}/"}
            with browsing("tiles", f"http://127.0.0.1:{port}/", env) as browser:
                comes_true(browser)
    assert tiles.asked
    assert {referer for _, referer in tiles.asked} == {f"http://127.0.0.1:{port}/"}
    assert any("@2x.png" in path for path, _ in tiles.asked)


@DRAWN
def test_a_map_on_the_device_needs_no_network(tmp_path: Path) -> None:
    port = free_port()
    config = config_with_track(tmp_path, port, map=str(write(tmp_path / "area.pmtiles")))
    with started(config) as daemon:
        daemon.wait_for_line("the page is at")
        with browsing("offline", f"http://127.0.0.1:{port}/") as browser:
            comes_true(browser)


def test_a_map_is_served_in_ranges_by_one_descriptor(tmp_path: Path) -> None:
    file = write(tmp_path / "area.pmtiles")
    data = file.read_bytes()
    with served(tmp_path, map=file) as site:
        setup = json.loads(site.ask("/setup")[1])
        assert setup["map"] == {"credit": "made by © nobody x", "deepest": 10}
        answer, body = site.ask("/map.pmtiles", Range="bytes=0-126")
        assert (answer.status, body) == (206, data[:127])
        assert answer.headers["Content-Range"] == f"bytes 0-126/{len(data)}"
        file.write_bytes(b"another")  # in place: the open descriptor reads this
        other = tmp_path / "other"
        other.write_bytes(b"x" * 500)
        other.replace(file)
        answer, body = site.ask("/map.pmtiles", Range="bytes=0-6")
        assert body == b"another"
        with pytest.raises(http.client.IncompleteRead):  # the file is shorter than before
            site.ask("/map.pmtiles", Range="bytes=0-126")
        for asked in (
            "",
            "bytes=5-",
            "bytes=-5",
            "bytes=9-3",
            "bytes=0-1,4-5",
            "bytes=99999999-99999999",
        ):
            assert site.ask("/map.pmtiles", **({"Range": asked} if asked else {}))[0].status == 416
    assert asked_range("bytes=0-99999999", 1 << 40) is None
    with served(tmp_path) as site:
        assert site.ask("/map.pmtiles", Range="bytes=0-6")[0].status == 404


def test_a_large_range_of_the_map_is_whole(tmp_path: Path) -> None:
    file = write(tmp_path / "area.pmtiles")
    with file.open("ab") as end:
        end.write(bytes(range(251)) * 1000)
    data = file.read_bytes()
    with served(tmp_path, map=file) as site:
        answer, body = site.ask("/map.pmtiles", Range=f"bytes=5-{len(data) - 2}")
    assert answer.headers["Content-Length"] == str(len(data) - 6)
    assert body == data[5:-1]


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, b"XX", "is not a PMTiles file"),
        (7, b"\x02", "version 2"),
        (99, b"\x02", "holds pictures"),
        (97, b"\x04", "compressed otherwise"),
        (64, b"\xff\xff\xff", "is cut off"),
    ],
)
def test_a_file_is_checked_before_it_is_served(
    tmp_path: Path, at: int, value: bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "area.pmtiles")
    data = bytearray(file.read_bytes())
    data[at : at + len(value)] = value
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=says):
        open_map(file)
    with served(tmp_path, map=file) as site:
        assert site.ask("/")[0].status == 200  # the page itself works
        assert json.loads(site.ask("/setup")[1])["map"] is None
    assert says in caplog.text


@pytest.mark.parametrize("metadata", [b"{", b"[1]", b'{"attribution": 7}', b"[" * 100_000])
def test_no_metadata_breaks_the_map(tmp_path: Path, metadata: bytes) -> None:
    file = write(tmp_path / "area.pmtiles")
    data = bytearray(file.read_bytes())
    data[97] = 1  # not compressed
    struct.pack_into("<QQ", data, 24, len(data), len(metadata))
    file.write_bytes(data + metadata)
    found = open_map(file)
    assert found.credit == ""
    found.close()


def test_no_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "none", "No such file"), (tmp_path, "not a regular file")):
        with pytest.raises(ConfigError, match=says):
            open_map(path)
    assert PageSettings().map is None
