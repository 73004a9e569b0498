"""``init``: what it shows, writes and refuses."""

import json
import os
import pty
import stat
import subprocess
import threading
import tomllib
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import ClassVar
from unittest import mock

import pytest
from click.testing import CliRunner
from nmea import line
from peers import ask, influxdb
from processes import AGENT, environment, run_agent
from rig import simulated, started, write_config
from scripted import ScriptedReceiver
from standins import Dawarich, Recorder, Server, Traccar

from telemetry_agent.cli import init
from telemetry_agent.doctor.servers import SERVERS, completed, server_by_answer, server_by_url
from telemetry_agent.gnss.sources.machine import find_receivers
from telemetry_agent.lab.endpoint import Endpoint

URL = "http://127.0.0.1:9/v1/fixes"


def test_it_shows_the_fix_tries_the_endpoint_and_writes_a_config_that_is_right(
    tmp_path: Path,
) -> None:
    path = tmp_path / "etc" / "config.toml"
    with Endpoint("127.0.0.1:0", tmp_path / "r.db") as endpoint, simulated(tmp_path) as simulator:
        flags = ["--device", "van-07", "--source", str(simulator.device), "--url", endpoint.url]
        done = run_agent("init", "--config", str(path), *flags)
        assert endpoint.count() == 0
    assert done.returncode == 0, done.stderr
    assert "the receiver: fix: 3D, 22 satellites, HDOP " in done.stdout
    assert "the endpoint: answer: 200: accepted" in done.stdout
    assert f"Next: telemetry-agent run --config {path}" in done.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    written = tomllib.loads(path.read_text())
    assert written["device"] == "van-07"
    assert written["gps"]["source"] == str(simulator.device)
    assert written["upload"]["url"] == endpoint.url
    assert run_agent("config", "check", "--config", str(path)).returncode == 0


def test_a_user_who_cannot_have_the_queue_of_the_service_gets_one_of_their_own(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.toml"
    flags = ["--device", "van-07", "--source", "/dev/none", "--url", URL]
    with mock.patch("telemetry_agent.cli.init.os.access", lambda at, _: at == tmp_path):
        done = CliRunner().invoke(init.command, ["--config", str(path), *flags])
    assert done.exit_code == 0, done.output
    assert tomllib.loads(path.read_text())["queue"] == {"path": str(tmp_path / "queue.db")}
    assert run_agent("config", "check", "--config", str(path)).returncode == 0


def test_a_running_agent_that_does_not_read_this_config_need_not_be_restarted(
    tmp_path: Path,
) -> None:
    """For example, the service runs while a config is made for a second receiver."""
    flags = ["--device", "van-08", "--source", "/dev/none", "--url", URL]
    config = write_config(tmp_path, "/dev/none", URL)
    with started(config) as daemon:
        daemon.wait_for_line("records van-07")
        with mock.patch("telemetry_agent.cli.init.QUEUE_PATH", tmp_path / "queue.db"):
            other = tmp_path / "other.toml"
            done = CliRunner().invoke(init.command, ["--config", str(other), *flags])
            assert f"Next: telemetry-agent run --config {other}" in done.output
            again = CliRunner().invoke(init.command, ["--config", str(config), "--force", *flags])
            assert "Next: restart the running agent" in again.output
        assert daemon.end() == 0


def test_any_character_may_be_in_a_name(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags = ["--device", "Wägen 🚐", "--source", "auto", "--url", URL]
    assert run_agent("init", "--config", str(path), *flags).returncode == 0
    assert tomllib.loads(path.read_text())["device"] == "Wägen 🚐"
    assert 'device = "Wägen 🚐"' in run_agent("config", "show", "--config", str(path)).stdout
    argv: list[str | bytes] = [
        *AGENT,
        "init",
        "--config",
        str(path),
        *flags[:3],
        b"/dev/\xff",
        *flags[4:],
        "--force",
    ]
    done = subprocess.run(argv, env=environment(), capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr == b"telemetry-agent: an answer is not text: a config is text in UTF-8\n"


def test_with_a_fault_in_config_d_no_config_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# as it was\n")
    override = tmp_path / "config.d" / "own.toml"
    override.parent.mkdir()
    override.write_text("[upload]\nnope = 1\n")
    flags = ["--device", "x", "--source", "auto", "--url", URL, "--force"]
    done = run_agent("init", "--config", str(path), *flags)
    assert done.returncode == 78
    assert "upload.nope is not a key of the config" in done.stderr
    assert str(override) in done.stderr
    assert path.read_text() == "# as it was\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.d", "config.toml"]


def test_an_endpoint_that_is_away_is_said_and_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags = ["--device", "x", "--source", "auto", "--url", URL]
    done = run_agent("init", "--config", str(path), *flags)
    assert done.returncode == 0
    assert (
        "the endpoint: tcp: connection refused by 127.0.0.1:9; start the server there"
        in done.stdout
    )
    assert path.exists()


def test_a_receiver_that_is_not_there_is_said_and_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags = ["--device", "x", "--source", "/dev/none", "--url", URL]
    done = run_agent("init", "--config", str(path), *flags)
    assert done.returncode == 0
    assert "/dev/none: no such device" in done.stdout
    assert tomllib.loads(path.read_text())["gps"] == {"source": "/dev/none"}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"$GPRMC,120000.00,A,4807.038,N,01131.000,E,1.0,84.4,231126,,,A\r\n", "the checksum on"),
        (b">RPV73511+4549542-0736643100035822;*7F<", "sends TAIP, not NMEA"),
        (line("GPGGA,120000,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"), "but no date"),
        (line("GPRMC,120000,V,,,,,,,231126,,"), "under open sky"),
    ],
)
def test_what_a_receiver_without_a_position_lacks_is_said(
    tmp_path: Path, sent: bytes, said: str
) -> None:
    with ScriptedReceiver(sent) as receiver:
        flags = ["--device", "x", "--source", str(receiver.device), "--url", URL]
        done = run_agent("init", "--config", str(tmp_path / "config.toml"), *flags)
    assert said in done.stdout


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("mine")
    flags = ["--config", str(path), "--device", "x", "--source", "auto", "--url", URL]
    done = run_agent("init", *flags)
    assert done.returncode == 2
    assert "config.toml exists: --force overwrites it" in done.stderr
    assert path.read_text() == "mine"
    assert run_agent("init", "--force", *flags).returncode == 0
    assert path.read_text() != "mine"


def test_what_is_wrong_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags = ["--config", str(path), "--device", "x", "--source", "auto"]
    done = run_agent("init", *flags, "--url", "ftp://x")
    assert done.returncode == 2
    assert "upload.url = 'ftp://x': must be a URL" in done.stderr
    assert run_agent("init", *flags).returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--source=gps0", "gps.source = 'gps0': must be auto, a device"),
        ("--source=", "gps.source = '': must be auto, a device"),
        ("--url=", "upload.url = '': must be a URL"),
        ("--device=", "device = '': must not be empty"),
        ("--baud=1234", "gps.baud = 1234: must be"),
        ("--device={nonsense}", "{nonsense} is not one of"),
        ("--start", "--start needs root, systemd and the config at /etc/"),
        ("--config=/tmp", "/tmp is a folder"),
        ("--config=/", "/ is a folder"),
    ],
)
def test_a_wrong_option_is_reported_before_anything_is_tried(
    option: str, says: str, tmp_path: Path
) -> None:
    flags = ["--source", "/dev/none", "--url", URL, "--config", str(tmp_path / "config.toml")]
    done = run_agent("init", *flags, option)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert not list(tmp_path.iterdir())


def answering(path: Path, *answers: str, flags: Sequence[str] = ()) -> CompletedProcess[str]:
    """Run ``init`` on a terminal and type these lines."""
    master, terminal = pty.openpty()
    which = ["0"] if _ports() else []  # none of the ports here is a receiver
    os.write(master, "".join(f"{answer}\n" for answer in [*which, *answers]).encode())
    done = subprocess.run(
        [*AGENT, "init", "--config", str(path), "--force", *flags],
        stdin=terminal,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )
    os.close(master)
    os.close(terminal)
    return done


def test_it_asks_for_name_and_server_and_again_after_a_bad_answer(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("old")
    bad_names, bad_urls = ["  ", "{nonsense}", "van-09"], ["ftp://x"]
    # This address does not answer: do not keep it, then enter another one.
    away = ["http://127.0.0.1:9", "native", "n"]
    with Endpoint("127.0.0.1:0", tmp_path / "r.db") as endpoint:
        done = answering(path, *bad_names, *bad_urls, *away, endpoint.url, "native")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "]: device = '  ': must not be empty\n" in done.stdout
    assert "{nonsense} is not one of" in done.stdout
    assert "upload.url = 'ftp://x': must be a URL" in done.stdout
    assert "Use this server anyway?" in done.stdout
    written = tomllib.loads(path.read_text())
    assert (written["device"], written["gps"]["source"]) == ("van-09", "auto")
    assert written["upload"] == {"url": endpoint.url}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a host name of its own")
@pytest.mark.parametrize(
    ("host", "device"), [("raspberrypi", "{hostname}-{"), ("van-07", "{hostname}")]
)
def test_it_proposes_a_name_that_no_other_device_has(
    tmp_path: Path, host: str, device: str
) -> None:
    path = tmp_path / "config.toml"
    argv = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', host, *AGENT, "init"]
    done = subprocess.run(
        [*argv, "--config", str(path), "--source", "auto", "--url", URL],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(path.read_text())["device"].startswith(device)
    assert (f"many devices are called '{host}'" in done.stdout) == ("{" in device[1:])
    shown = run_agent("config", "show", "--config", str(path), "--json").stdout
    assert "{" not in json.loads(shown)["device"]["value"]


class Root(BaseHTTPRequestHandler):
    """A server whose root page alone is read."""

    page: ClassVar[tuple[dict[str, str], str]]

    def do_GET(self) -> None:
        headers, body = self.page
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def version_string(self) -> str:
        return "server/1"

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("headers", "body", "server"),
    [
        ({"X-Influxdb-Version": "1.6.7"}, "", "influxdb"),
        ({"X-Influxdb-Version": "v2.7.1"}, "", "influxdb2"),
        ({}, "Ok.\n", "clickhouse"),
        ({}, "<h2>Single-node VictoriaMetrics</h2>", "victoria-metrics"),
        ({}, "<html><title>Traccar</title>", "traccar"),
        ({}, "<html><title>Sign in | Dawarich</title>", "dawarich"),
        ({}, "<html><title>OwnTracks Recorder</title>", "owntracks"),
        ({}, "<!DOCTYPE html><html><head><title>Home Assistant</title>", "home-assistant"),
        ({}, "hello", None),
    ],
)
def test_a_server_is_known_by_its_answer(
    headers: dict[str, str], body: str, server: str | None
) -> None:
    handler = type("Handler", (Root,), {"page": (headers, body)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{httpd.server_port}"
        told = server_by_answer(url)
        httpd.shutdown()
        thread.join()
    if server is None:
        assert told is None
    else:
        assert told == (server, "http://127.0.0.1:5055/" if server == "traccar" else url)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://t.lan:5055", "traccar"),
        ("https://traccar.example.com", "traccar"),
        ("https://d.lan/api/v1/overland/batches?api_key=x", "dawarich"),
        ("https://cloud.lan/index.php/apps/phonetrack/log/overland/x/y", "phonetrack"),
        ("http://o.lan:8083", "owntracks"),
        ("http://o.lan/pub?u=jane", "owntracks"),
        ("https://i.lan/api/v2/write?org=o&bucket=b", "influxdb2"),
        ("http://c.lan:8123", None),  # ClickHouse or Home Assistant: its answer shows which
        ("http://homeassistant.local:8123", "home-assistant"),
        ("https://ha.lan/api/webhook/0123", "home-assistant"),
        ("https://hooks.nabu.casa/gAAA", "home-assistant"),
        ("https://ha.lan/api/webhook/0123?u=jane", "owntracks"),
        ("https://example.com/v1/fixes", None),
    ],
)
def test_a_server_is_known_by_its_url(url: str, server: str | None) -> None:
    assert server_by_url(url) == server


def test_home_assistant_needs_the_address_that_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    webhook = "http://127.0.0.1:9/api/webhook/0123"
    done = answering(
        path, "x", "http://127.0.0.1:9", "home-assistant", webhook, "", "y", flags=["--source=auto"]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Home Assistant's integration GPSLogger shows, with /api/webhook/" in done.stdout
    assert "kind of server by its URL: home-assistant" in done.stdout
    assert tomllib.loads(path.read_text())["upload"] == {"url": webhook, "format": "gpslogger"}


def test_a_file_is_judged_by_what_the_service_may_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags = ["--device", "x", "--source", "auto", "--server", "dawarich", "--url", "https://d.lan"]
    done = run_agent("init", "--config", str(path), *flags, "--token-file", "/nonexistent/key")
    assert done.returncode == 78
    assert "/nonexistent/key: No such file or directory" in done.stderr
    done = run_agent("init", "--config", str(path), *flags, "--token-file", str(tmp_path))
    assert (done.returncode, "Is a folder" in done.stderr) == (78, True)
    if os.geteuid() == 0:
        key = Path(f"/root/.telemetry-agent-test-key-{os.getpid()}")
        key.write_text("x")
        try:
            done = run_agent("init", "--config", str(path), *flags, "--token-file", str(key))
        finally:
            key.unlink()
        assert "(/root is hidden from it): `sudo install -D -o telemetry-agent" in done.stderr
    assert not path.exists()


def test_a_file_that_an_option_names_is_not_asked_for_on_a_terminal(tmp_path: Path) -> None:
    flags = ["--device", "x", "--server", "dawarich", "--token-file", "/nonexistent/key"]
    done = answering(tmp_path / "config.toml", "https://d.lan", flags=flags)
    assert done.returncode == 78
    assert "cannot read /nonexistent/key: No such file or directory" in done.stderr


def test_a_running_agent_keeps_its_receiver(tmp_path: Path) -> None:
    with Endpoint("127.0.0.1:0", tmp_path / "r.db") as endpoint, simulated(tmp_path) as receiver:
        config = write_config(tmp_path, str(receiver.device), endpoint.url)
        with started(config) as agent:
            flags = ["--device", "van-07", "--url", endpoint.url, "--force"]
            env = {"TELEMETRY_AGENT_QUEUE__PATH": str(tmp_path / "queue.db")}
            done = run_agent("init", "--config", str(config), *flags, env=env)
            assert agent.end() == 0
        assert done.returncode == 0, done.stderr
    assert f"the running agent reads {receiver.device}: " in done.stdout
    assert "listening to" not in done.stdout
    assert "Next: restart the running agent" in done.stdout
    assert tomllib.loads(config.read_text())["gps"]["source"] == str(receiver.device)


@pytest.mark.parametrize(
    ("server", "url", "format_", "written"),
    [
        ("traccar", "http://t.lan", "osmand", "http://t.lan:5055/"),
        ("traccar", "https://t.lan/?id=4711", "osmand", "https://t.lan/?id=4711"),
        ("dawarich", "https://d.lan", "overland", "https://d.lan/api/v1/overland/batches"),
        ("owntracks", "http://o.lan/?u=jane", "owntracks", "http://o.lan:8083/pub?u=jane"),
        ("influxdb", "http://i.lan:9999", "influx", "http://i.lan:9999/write?db=gps"),
        ("influxdb", "http://i.lan/write?db=x", "influx", "http://i.lan:8086/write?db=x"),
        (
            "influxdb2",
            "https://i.lan?org=o&bucket=b",
            "influx",
            "https://i.lan/api/v2/write?org=o&bucket=b",
        ),
        ("victoria-metrics", "http://v.lan", "influx", "http://v.lan:8428/write"),
        ("questdb", "http://q.lan", "influx", "http://q.lan:9000/write"),
        ("clickhouse", "http://c.lan", "clickhouse", "http://c.lan:8123/?database=gps"),
        ("native", "https://n.lan/x", None, "https://n.lan/x"),
    ],
)
def test_a_known_kind_of_server_needs_its_address_only(
    server: str, url: str, format_: str | None, written: str, tmp_path: Path
) -> None:
    assert completed(server, url) == written
    assert SERVERS[server].format == (format_ or "native")


@pytest.mark.parametrize(
    ("server", "url", "says"),
    [
        ("influxdb2", "https://i.lan", "--url needs ?org=…&bucket=… at its end for influxdb2"),
        ("influxdb2", "https://i.lan?org=o", "--url needs ?bucket=…"),
        ("phonetrack", "https://n.lan", "shows for Overland, with /apps/phonetrack/log/overland/"),
        ("traccar", "http://[x", "upload.url = 'http://[x': must be a URL: "),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(
    server: str, url: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.toml"
    flags = ["--device", "x", "--source", "auto", "--server", server, "--url", url]
    done = run_agent("init", "--config", str(path), *flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert not path.exists()


def test_requests_to_questdb_stay_plain(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    flags = ["--device", "x", "--source", "auto", "--server", "questdb", "--url", URL]
    assert run_agent("init", "--config", str(path), *flags).returncode == 0
    assert tomllib.loads(path.read_text())["upload"]["compression"] == "none"


def test_the_config_for_traccar_works(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    traccar = Traccar("van-07")
    with Server(traccar) as server, simulated(tmp_path, rate_hz=5) as receiver:
        flags = ["--device", "van-07", "--source", str(receiver.device), "--baud", "115200"]
        done = run_agent(
            "init", "--config", str(path), *flags, "--server", "traccar", "--url", server.url
        )
        assert done.returncode == 0, done.stderr
        assert traccar.positions == []
        assert "400, Traccar's answer to a request without a device" in done.stdout
        assert "To do: in Traccar, add a device with the identifier van-07" in done.stdout
        env = {
            "TELEMETRY_AGENT_QUEUE__PATH": str(tmp_path / "queue.db"),
            "TELEMETRY_AGENT_UPLOAD__FLUSH_EVERY": "200ms",
        }
        with started(path, env) as agent:
            server.wait_for(lambda: len(traccar.positions) > 3)
            assert agent.end() == 0


def test_what_the_trial_has_shown_to_be_done_is_not_to_do(tmp_path: Path) -> None:
    def output_of(server: str, url: str) -> str:
        flags = ["--device", "x", "--source", "auto", "--server", server, "--url", url]
        done = run_agent("init", "--force", "--config", str(tmp_path / "config.toml"), *flags)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with influxdb(tmp_path) as url:
        assert "; create the database" in output_of("influxdb", url)
        ask(f"{url}/query", q="CREATE DATABASE gps")
        assert "create" not in output_of("influxdb", url)
    with Server(Dawarich("k3y")) as dawarich:
        assert "; put Dawarich's API key" in output_of("dawarich", dawarich.url)
        assert "API key" not in output_of("dawarich", f"{dawarich.url}/?api_key=k3y")
    with Server(Recorder()) as recorder:  # accepts everything
        assert "To do: check that ?u=" in output_of("owntracks", f"{recorder.url}/pub?u=jane")


def _ports() -> bool:
    return bool(find_receivers())
