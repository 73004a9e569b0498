"""The servers that a drive is sent to, and the code that reads back what they store.

Each server can be killed and started again with its stored data. The programs are other
people's, except for the stand-ins. For a program that is not in a package archive, an environment
variable names its location; if it is unset, the tests are skipped (docs/servers.md).
"""

import contextlib
import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from documents import blocks
from drives import BATCH, FIXES
from old_clickhouse import ORDER, columns, without_token
from peers import (
    ask,
    caddy,
    clickhouse,
    influx_rows,
    influxdb,
    nginx,
    postgresql,
    program,
    victoria_metrics,
    wait_until_answers,
)
from ports import free_port
from processes import AGENT, run_agent, running
from standins import Compass, Dawarich, GPSLogger, PhoneTrack, Recorder, Reitti, Server, Traccar

APPS = Path(__file__).parent / "apps"
DEVICE = "van-07"
TOKEN = "a-long-random-token"

Fix = dict[str, Any]


def at_ms(fix: Fix) -> int:
    return round(datetime.fromisoformat(fix["time"]).timestamp() * 1000)


def accuracy_m(fix: Fix) -> float:
    """The receiver's accuracy if it sends one, else the estimate."""
    estimate = math.ceil(round(50 * float(fix["hdop"]), 3)) / 10
    return max(1.0, float(fix.get("err_h", estimate)))


def knots(fix: Fix) -> float:
    return float(f"{round(fix['speed'] * 1000) / 514.444444:.4f}")


def elsewhere(variable: str) -> str:
    """The value of the environment variable; skip the test if it is unset."""
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set: see docs/servers.md")
    return os.environ[variable]


class Destination:
    """One server with its data in ``folder``."""

    cut_after = 8_000
    """How many bytes pass before the connection is cut."""
    upload: ClassVar[dict[str, Any]] = {"format": "native"}
    repeats = 0
    """How many fixes it may store twice."""
    ordered = False
    """Whether the fixes reach it in order of recording."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def running(self) -> contextlib.AbstractContextManager[str]:
        """Run the server until it is killed; yield the URL for the agent."""
        raise NotImplementedError

    def stored(self, url: str) -> list[Any]:
        """The stored fixes, in the order in which they came."""
        raise NotImplementedError

    def as_stored(self, fix: Fix) -> Any:
        """A fix of the queue in the form in which the server should store it."""
        return fix

    def is_complete(self) -> bool:
        """Whether the server's own audit, if it has one, finds all fixes."""
        return True


def equal(server: Destination, sent: list[Fix], stored: list[Any]) -> bool:
    """Whether the server stored each fix with its values, and in order if the order matters."""
    expected, once = seen_once(map(server.as_stored, sent)), seen_once(stored)
    return once == expected if server.ordered else sorted(once) == sorted(expected)


def seen_once(rows: Iterable[Any]) -> list[str]:
    """One text for each distinct row; 516 and 516.0 are the same."""
    texts = (json.dumps(json.loads(json.dumps(r), parse_int=float), sort_keys=True) for r in rows)
    return list(dict.fromkeys(texts))


# Native format: applications as users write them.


class App(Destination):
    """An application that appends a line for each fix, then answers."""

    repeats = 2 * BATCH
    ready = ""
    """The line that it prints when it is ready; empty: an answer on its port is enough."""

    def command(self, port: int) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def file(self) -> Path:
        return self.folder / "stored"

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        port = free_port()
        env = {
            "STORED": str(self.file),
            "PORT": str(port),
            "FOLDER": str(self.folder),
            "NODE_PATH": str(APPS / "node_modules"),
        }
        with running(*self.command(port), env=env, cwd=self.folder) as server:
            if self.ready:
                server.wait_for_line(self.ready, 60)
            wait_until_answers(port)
            yield f"http://127.0.0.1:{port}/"

    def stored(self, url: str) -> list[Any]:
        # Node-RED writes an empty line for a request with accounts but no fixes.
        return [json.loads(line) for line in self.file.read_text().splitlines() if line]


class PHP(App):
    cut_after = 40_000  # it never receives a compressed body

    def command(self, port: int) -> tuple[str, ...]:
        options = ("-d", "display_errors=0", "-S", f"127.0.0.1:{port}", "-t", str(APPS))
        return (program("php"), *options)


class Flask(App):
    cut_after = 40_000

    def command(self, port: int) -> tuple[str, ...]:
        return (sys.executable, str(APPS / "flask_app.py"))


class FastAPI(Flask):
    def command(self, port: int) -> tuple[str, ...]:
        return (sys.executable, str(APPS / "fastapi_app.py"))


class Django(Flask):
    def command(self, port: int) -> tuple[str, ...]:
        return (sys.executable, str(APPS / "django_app.py"))


class Node(App):
    cut_after = 40_000

    def command(self, port: int) -> tuple[str, ...]:
        return (program("node"), str(APPS / "node_app.cjs"))


def node_program(name: str) -> str:
    """The path of an npm package in ``tests/apps``."""
    found = APPS / "node_modules" / name
    if not found.exists():
        assert not os.environ.get("CI"), f"{name} is missing: make tests/apps/node_modules"
        pytest.skip(f"{name} is not installed: make tests/apps/node_modules")
    return str(found)


class Express(App):
    upload: ClassVar[dict[str, Any]] = {"compression": "gzip"}

    def command(self, port: int) -> tuple[str, ...]:
        node_program("express")
        return (program("node"), str(APPS / "express_app.cjs"))


class NodeRED(App):
    upload: ClassVar[dict[str, Any]] = {"compression": "gzip"}
    ready = "Started flows"

    def command(self, port: int) -> tuple[str, ...]:
        script = f"{node_program('node-red')}/red.js"
        return (program("node"), script, "-s", str(APPS / "node_red.cjs"), "-u", str(self.folder))


class Postgres(Destination):
    """The endpoint of docs/endpoint.md. The kill ends the endpoint and its database."""

    cut_after = 18_000  # the first request is not compressed

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.code = folder / "endpoint.py"
        self.code.write_text(blocks("endpoint.md", "python")[0])
        token = folder / "token"
        token.write_text(TOKEN)
        self.upload = {"token_file": str(token)}  # type: ignore[misc]

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        port = free_port()
        with postgresql(self.folder) as self.database:
            with psycopg.connect(self.database) as made:
                if not made.execute("SELECT to_regclass('fixes')").fetchone()[0]:  # type: ignore[index]
                    made.execute(blocks("endpoint.md", "sql")[0].encode())
            env = {"DATABASE": self.database, "PORT": str(port)}
            with running(sys.executable, str(self.code), env=env, cwd=self.folder) as server:
                server.wait_for_line(f"listening on port {port}")
                yield f"http://127.0.0.1:{port}/"

    def stored(self, url: str) -> list[Any]:
        with psycopg.connect(self.database) as read:
            rows = read.execute("SELECT stream, device, fix FROM fixes ORDER BY time").fetchall()
        return [{"stream": stream, "device": device, **fix} for stream, device, fix in rows]

    def is_complete(self) -> bool:
        with psycopg.connect(self.database) as read:
            rows = read.execute(blocks("endpoint.md", "sql")[1].encode()).fetchall()
        said = [(through, missing) for _, _, through, _, _, missing in rows]
        return said == [(FIXES, 0)]


class BehindNginx(App):
    """The reference endpoint behind nginx, which sends it HTTP/1.0."""

    cut_after = 18_000
    repeats = 0

    def command(self, port: int) -> tuple[str, ...]:
        return (*AGENT, "receive", "--listen", f"127.0.0.1:{port}", "--db", str(self.file))

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with App.running(self) as url, nginx(self.folder, url) as front:
            yield front

    def stored(self, url: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.file)) as read:
            rows = read.execute("SELECT stream, device, fix FROM fixes ORDER BY time").fetchall()
        return [
            {"stream": stream, "device": device, **json.loads(fix)} for stream, device, fix in rows
        ]

    def is_complete(self) -> bool:
        done = run_agent("receive", "--audit", "--db", str(self.file))
        with contextlib.closing(sqlite3.connect(self.file)) as read:
            (newest,) = read.execute("SELECT max(time) FROM fixes").fetchone()
        return (done.returncode, done.stdout) == (0, f"{DEVICE}: complete until {newest}\n")


class BehindCaddy(BehindNginx):
    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with App.running(self) as url, caddy(self.folder, url) as front:
            yield front


# Databases


class InfluxDB(Destination):
    upload: ClassVar[dict[str, Any]] = {"format": "influx"}

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with influxdb(self.folder) as url:
            ask(f"{url}/query", b"", q="CREATE DATABASE gps")
            yield f"{url}/write?db=gps"

    def stored(self, url: str) -> list[Any]:
        return influx_rows(url.partition("/write")[0], "gps")

    def as_stored(self, fix: Fix) -> Any:
        return {
            **{name: value for name, value in fix.items() if name != "stream"},
            "time": at_ms(fix),
        }


class VictoriaMetrics(Destination):
    """VictoriaMetrics. It gets SIGTERM: the data of its last seconds is only in its memory."""

    upload: ClassVar[dict[str, Any]] = {"format": "influx"}
    _WORDS = frozenset({"stream", "device", "quality", "flags", "time"})  # not stored

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with victoria_metrics(self.folder) as url:
            yield f"{url}/write"

    def stored(self, url: str) -> list[Any]:
        # Queries find data only after it is indexed, and the server does not report when that is.
        limit_s = time.monotonic() + 120
        rows, before = self._rows(url.removesuffix("/write")), -1
        while (len(rows) < FIXES or len(rows) > before) and time.monotonic() < limit_s:
            before = len(rows)
            rows = self._rows(url.removesuffix("/write"))
        return [rows[time_ms] for time_ms in sorted(rows)]

    def _rows(self, url: str) -> dict[int, dict[str, float]]:
        ask(f"{url}/internal/force_flush")
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for line in ask(f"{url}/api/v1/export?match[]=%7Bdevice=~'.%2B'%7D").splitlines():
            series = json.loads(line)
            name = series["metric"]["__name__"].removeprefix("gps_")
            for time_ms, value in zip(series["timestamps"], series["values"], strict=True):
                assert name not in rows[time_ms], "a sample that is there twice"
                if name in self._WORDS:
                    assert value == 0
                else:
                    rows[time_ms][name] = value
        return rows

    def as_stored(self, fix: Fix) -> Any:
        return {name: value for name, value in fix.items() if name not in self._WORDS}


class ClickHouse(Destination):
    """ClickHouse 18.16, with the documentation's table in the types that it knows."""

    upload: ClassVar[dict[str, Any]] = {"format": "clickhouse"}

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with clickhouse(self.folder) as self.itself:
            ask(self.itself, b"CREATE DATABASE IF NOT EXISTS gps")
            engine = f"ReplacingMergeTree {ORDER}"
            table = f"CREATE TABLE IF NOT EXISTS gps.fixes {columns()} ENGINE = {engine}"
            ask(self.itself, table.encode())
            with Server(lambda asked: without_token(self.itself, asked)) as relay:
                yield f"{relay.url}/?database=gps"

    def stored(self, url: str) -> list[Any]:
        read = b"SELECT * FROM gps.fixes FINAL ORDER BY time FORMAT JSONEachRow"
        said = ask(f"{self.itself}/?output_format_json_quote_64bit_integers=0", read)
        rows = map(json.loads, said.splitlines())
        return [{k: _rounded(v) for k, v in row.items() if v not in (None, "", [])} for row in rows]

    def as_stored(self, fix: Fix) -> Any:
        return {**fix, "time": fix["time"].replace("T", " ")[:19]}


def _rounded(value: Any) -> Any:
    """Round a number: the server parses to within one unit in the last place of a double."""
    return round(value, 9) if isinstance(value, float) else value


# Servers for trackers: one fix per request


class _TraccarDestination(Destination):
    cut_after = 60_000
    upload: ClassVar[dict[str, Any]] = {"format": "osmand"}
    repeats = 2 * 128 + BATCH
    ordered = True

    def as_stored(self, fix: Fix) -> Any:
        return {
            "time": at_ms(fix),
            "lat": fix["lat"],
            "lon": fix["lon"],
            "alt": fix["alt"],
            "knots": knots(fix),
            "course": fix.get("course", 0.0),
            "accuracy": accuracy_m(fix),
            "attributes": {
                **{name: fix[name] for name in ("hdop", "vdop", "pdop")},
                "sat": fix["sats"],
                "odometer": fix["odo"],
            },
        }


class TraccarStandIn(_TraccarDestination):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.answer = Traccar(DEVICE)

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with Server(self.answer, latency_s=0.002) as server:
            yield f"{server.url}/"

    def stored(self, url: str) -> list[Any]:
        return [
            {
                "time": position["time_ms"],
                "alt": position["altitude"],
                "knots": position["speed_kn"],
                "course": position.get("course", 0.0),
                **{name: position[name] for name in ("lat", "lon", "accuracy", "attributes")},
            }
            for position in self.answer.positions
        ]


class TraccarBehindNginx(TraccarStandIn):
    """Traccar behind nginx, which closes each connection after 100 requests."""

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with super().running() as url, nginx(self.folder, url, "keepalive_requests 100;") as front:
            yield front


def traccar_classes(source: Path, folder: Path) -> str:
    """Compile Traccar's decoders; return the class path for Java.

    For each library that Debian lacks, Debian has an older version with the same classes under the
    name ``javax``. The device table and the database are ours (``apps/traccar``).
    """
    jars = [
        *("netty-all", "netty-common", "netty-buffer", "netty-codec", "netty-codec-http"),
        *("netty-handler", "netty-resolver", "netty-transport", "javax.json", "guice", "guava"),
        *("netty-transport-native-unix-common", "atinject-jsr330-api", "slf4j-api"),
        *("jackson-annotations", "jackson-core", "jackson-databind"),
    ]
    path = ":".join([f"/usr/share/java/{jar}.jar" for jar in jars])
    code, classes = folder / "code", folder / "classes"
    if not classes.exists():
        theirs = source / "src" / "main" / "java"
        for file in theirs.glob("org/traccar/**/*.java"):
            copy = code / file.relative_to(theirs)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_text()
            copy.write_text(re.sub(r"jakarta\.(json|inject)", r"javax.\1", text))
        shutil.copytree(APPS / "traccar", code, dirs_exist_ok=True)
        main = code / "org" / "traccar" / "Decoders.java"
        javac = ("javac", "-nowarn", "--release", "17", "--enable-preview", "-cp", path)
        subprocess.run(
            [*javac, "-sourcepath", str(code), "-d", str(classes), str(main)],
            check=True,
            capture_output=True,
        )
    return f"{path}:{classes}"


class TraccarDecoder(_TraccarDestination):
    """Traccar's own decoder, built from source. It writes to a file instead of a database."""

    protocol = "osmand"
    query = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        classes = traccar_classes(Path(elsewhere("TELEMETRY_AGENT_TRACCAR")), self.folder)
        port, device = free_port(), self.device()
        main = (
            "org.traccar.Decoders",
            str(port),
            self.protocol,
            device,
            str(self.folder / "stored"),
        )
        with running("java", "--enable-preview", "-cp", classes, *main) as server:
            server.wait_for_line("listening", 60)
            yield f"http://127.0.0.1:{port}/{self.query}"

    def device(self) -> str:
        return DEVICE

    def stored(self, url: str) -> list[Any]:
        return [json.loads(line) for line in (self.folder / "stored").read_text().splitlines()]


class TraccarDecoderBehindNginx(TraccarDecoder):
    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with super().running() as url, nginx(self.folder, url, "keepalive_requests 100;") as front:
            yield front


class _OwnTracksDestination(Destination):
    cut_after = 60_000
    upload: ClassVar[dict[str, Any]] = {"format": "owntracks"}
    repeats = 2 + BATCH
    ordered = True

    def as_stored(self, fix: Fix) -> Any:
        return {
            **({"cog": round(fix["course"]) % 360} if "course" in fix else {}),
            "_type": "location",
            "tst": at_ms(fix) // 1000,
            "lat": fix["lat"],
            "lon": fix["lon"],
            "acc": math.ceil(accuracy_m(fix)),
            "alt": round(fix["alt"]),
            "vel": round(fix["speed"] * 3.6),
            **({"vac": round(fix["err_v"])} if "err_v" in fix else {}),
            "tid": "07",
            "topic": "owntracks/jane/van-07",
        }


class RecorderStandIn(_OwnTracksDestination):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.answer = Recorder()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with Server(self.answer) as server:
            yield f"{server.url}/pub?u=jane"

    def stored(self, url: str) -> list[Any]:
        (topic,) = self.answer.locations
        assert topic == "owntracks/jane/van-07"
        return self.answer.locations[topic]


class RealRecorder(_OwnTracksDestination):
    """OwnTracks Recorder, built with WITH_MQTT=no WITH_HTTP=yes."""

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        recorder, port = elsewhere("TELEMETRY_AGENT_RECORDER"), free_port()
        storage = ("--storage", str(self.folder), "--doc-root", str(self.folder))
        if not (self.folder / "ghash").exists():
            subprocess.run([recorder, *storage, "--initialize"], check=True, capture_output=True)
        http = ("--http-host", "127.0.0.1", "--http-port", str(port), "--norevgeo")
        with running(recorder, *storage, *http):
            wait_until_answers(port)
            yield f"http://127.0.0.1:{port}/pub?u=jane"

    def stored(self, url: str) -> list[Any]:
        files = sorted((self.folder / "rec" / "jane" / "van-07").glob("*.rec"))
        lines = "".join([file.read_text() for file in files]).splitlines()
        return [json.loads(line.split("\t")[2]) for line in lines]

    def as_stored(self, fix: Fix) -> Any:
        return {**super().as_stored(fix), "_http": True}


class TraccarOwnTracks(TraccarDecoder):
    """Traccar's decoder of the OwnTracks format."""

    cut_after = 60_000
    upload: ClassVar[dict[str, Any]] = {"format": "owntracks"}
    protocol = "owntracks"
    query = "?u=jane"
    repeats = 2 + BATCH

    def device(self) -> str:
        return "owntracks/jane/van-07"

    def as_stored(self, fix: Fix) -> Any:
        return {
            "time": at_ms(fix) // 1000 * 1000,
            "lat": fix["lat"],
            "lon": fix["lon"],
            "alt": float(round(fix["alt"])),
            "knots": round(fix["speed"] * 3.6) * 0.539957,
            "course": float(round(fix.get("course", 0)) % 360),
            "accuracy": float(math.ceil(accuracy_m(fix))),
            "attributes": {},
        }


class HomeAssistant(_OwnTracksDestination):
    """Home Assistant's own OwnTracks webhook. It stores no times, and each place only once."""

    webhook = "owntracks?u=jane"
    names: tuple[str, ...] = ("latitude", "longitude", "gps_accuracy", "velocity", "course")

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        python, port = elsewhere("TELEMETRY_AGENT_HOME_ASSISTANT"), free_port()
        script = str(APPS / "home_assistant.py")
        with running(python, script, str(self.folder), str(port)) as server:
            server.wait_for_line("started", 120)
            yield f"http://127.0.0.1:{port}/api/webhook/{self.webhook}"

    def stored(self, url: str) -> list[Any]:
        lines = (self.folder / "stored").read_text().splitlines()
        return [[json.loads(line).get(name) for name in self.names] for line in lines]

    def as_stored(self, fix: Fix) -> Any:
        said = super().as_stored(fix)
        return [said.get(name) for name in ("lat", "lon", "acc", "vel", "cog")]


class HomeAssistantGPSLogger(HomeAssistant):
    """Home Assistant's own GPSLogger webhook."""

    upload: ClassVar[dict[str, Any]] = {"format": "gpslogger"}
    webhook = "gpslogger"
    names = ("latitude", "longitude", "gps_accuracy", "altitude", "speed", "direction")

    def as_stored(self, fix: Fix) -> Any:
        return [fix["lat"], fix["lon"], accuracy_m(fix), *map(fix.get, ("alt", "speed", "course"))]


class GPSLoggerStandIn(HomeAssistantGPSLogger):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.answer = GPSLogger()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with Server(self.answer) as server:
            yield f"{server.url}/api/webhook/gpslogger"

    def stored(self, url: str) -> list[Any]:
        return [[state.get(name) for name in self.names] for state in self.answer.states]


class DawarichStandIn(Destination):
    cut_after = 60_000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.answer = Dawarich(TOKEN)
        token = folder / "token"
        token.write_text(TOKEN)
        self.upload = {"format": "overland", "token_file": str(token)}  # type: ignore[misc]

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with Server(self.answer, latency_s=0.002) as server:
            yield f"{server.url}/api/v1/overland/batches"

    def stored(self, url: str) -> list[Any]:
        return list(self.answer.points.values())

    def as_stored(self, fix: Fix) -> Any:
        return {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [fix["lon"], fix["lat"]]},
            "properties": {
                "timestamp": fix["time"],
                "device_id": DEVICE,
                "altitude": fix["alt"],
                "speed": fix["speed"],
                "horizontal_accuracy": accuracy_m(fix),
                **({"vertical_accuracy": fix["err_v"]} if "err_v" in fix else {}),
                **({"course": fix["course"]} if "course" in fix else {}),
            },
        }


class PhoneTrackStandIn(DawarichStandIn):
    repeats = 2 * BATCH  # after a lost answer, fixes are sent again and stored again

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.track = PhoneTrack(TOKEN)
        self.upload = {"format": "overland"}  # type: ignore[misc]

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with Server(self.track, latency_s=0.002) as server:
            yield f"{server.url}/index.php/apps/phonetrack/log/overland/{TOKEN}/x"

    def stored(self, url: str) -> list[Any]:
        return self.track.points[TOKEN]

    def as_stored(self, fix: Fix) -> Any:
        return {**super().as_stored(fix), "device": DEVICE}


class ReittiStandIn(DawarichStandIn):
    repeats = 2 * BATCH

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reitti = Reitti()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with Server(self.reitti, latency_s=0.002) as server:
            yield f"{server.url}/api/v1/ingest/overland"

    def stored(self, url: str) -> list[Any]:
        return self.reitti.points


class CompassStandIn(DawarichStandIn):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.compass = Compass(TOKEN)

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        with Server(self.compass, latency_s=0.002) as server:
            yield f"{server.url}/api/input?token={TOKEN}"

    def stored(self, url: str) -> list[Any]:
        return list(self.compass.points.values())


class CompassCode(CompassStandIn):
    """Compass's own endpoint and file storage, without its framework (``apps/compass.php``)."""

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        port = free_port()
        env = {
            "CODE": elsewhere("TELEMETRY_AGENT_COMPASS"),
            "STORAGE_DIR": f"{self.folder}/",
            "CACHE_DRIVER": "file",
            "TOKEN": TOKEN,
        }
        argv = (program("php"), "-S", f"127.0.0.1:{port}", str(APPS / "compass.php"))
        with running(*argv, env=env):
            wait_until_answers(port)
            yield f"http://127.0.0.1:{port}/api/input?token={TOKEN}"

    def stored(self, url: str) -> list[Any]:
        days = sorted(self.folder.glob("van/*/*/*.txt"))
        lines = "".join([day.read_text() for day in days]).splitlines()
        return [json.loads(line[line.index("{") :]) for line in lines]


DESTINATIONS: tuple[type[Destination], ...] = (
    PHP,
    Flask,
    FastAPI,
    Django,
    Node,
    Express,
    NodeRED,
    Postgres,
    BehindNginx,
    BehindCaddy,
    InfluxDB,
    VictoriaMetrics,
    ClickHouse,
    TraccarStandIn,
    TraccarBehindNginx,
    TraccarDecoder,
    TraccarDecoderBehindNginx,
    RecorderStandIn,
    RealRecorder,
    TraccarOwnTracks,
    HomeAssistant,
    HomeAssistantGPSLogger,
    GPSLoggerStandIn,
    DawarichStandIn,
    PhoneTrackStandIn,
    ReittiStandIn,
    CompassStandIn,
    CompassCode,
)
