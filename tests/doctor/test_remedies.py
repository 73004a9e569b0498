"""The table of mistakes at the server: ``doctor`` and ``init`` name each one with its remedy.

The servers are real where Debian has them: InfluxDB 1.6, VictoriaMetrics, ClickHouse 18.16, nginx.
"""

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bench import Bench
from certificates import Authority
from click.testing import CliRunner
from misbehaving import answer, tls_server_context
from peers import (
    ask,
    clickhouse,
    influxdb,
    program,
    victoria_metrics,
    wait_until_answers,
)
from ports import free_port
from processes import running
from standins import Asked, Dawarich, Recorder, Said, Server, Traccar

from telemetry_agent.addresses import Address
from telemetry_agent.cli import init
from telemetry_agent.doctor.agent_checks import AgentChecks, Machine
from telemetry_agent.doctor.endpoint_checks import EndpointChecks

_SERVER_OF = {"native": "native", "osmand": "traccar", "influx": "influxdb"} | {
    "clickhouse": "clickhouse",
    "overland": "dawarich",
    "gpslogger": "home-assistant",
}


class Mistake(NamedTuple):
    make: Callable[[Bench, "Real"], object]
    check: str
    said: str
    remedy: str
    verdict: str
    by_init: str
    """The message of ``init``, if only a position shows the mistake: ``init`` sends none."""


TABLE: list[Any] = []


def mistake(
    check: str, said: str, remedy: str, verdict: str = "fail", *, by_init: str = ""
) -> Callable[[Callable[[Bench, "Real"], object]], object]:
    """Add a row: a mistake and the expected message."""

    def add(make: Callable[[Bench, "Real"], object]) -> object:
        row = Mistake(make, check, said, remedy, verdict, by_init)
        TABLE.append(pytest.param(row, id=getattr(make, "__name__", "")))
        return make

    return add


class Real:
    """The real servers; each one starts on first use."""

    def __init__(self, folder: Path, cleanup: contextlib.ExitStack) -> None:
        self._folder = folder
        self._cleanup = cleanup
        self._urls: dict[str, str] = {}
        self._ports: dict[str, int] = {}

    def __call__(self, start: Callable[[Path], Any]) -> str:
        name = start.__name__
        if name not in self._urls:
            folder = self._folder / name
            folder.mkdir()
            self._urls[name] = self._cleanup.enter_context(start(folder))
        return self._urls[name]

    def nginx(self, what: str) -> str:
        """Return the URL of an nginx that does ``what``."""
        if not self._ports:
            self._start_nginx()
        scheme = "https" if what.startswith("tls") else "http"
        return f"{scheme}://127.0.0.1:{self._ports[what]}"

    def certificate(self) -> Path:
        """Return the authority of a certificate for another name."""
        return self._folder / "authority.pem"

    def _start_nginx(self) -> None:
        authority = Authority(self._folder, "authority")
        other = authority.sign("tracker", "DNS:tracker.example")
        self._ports = {what: free_port() for what in ("missing", "small", "gone", "moved")}
        self._ports |= {"tls-own": free_port(), "tls-other": free_port()}
        gone = f"proxy_pass http://127.0.0.1:{free_port()};"
        does = {
            "missing": f"root {self._folder}/empty;",
            "small": f"client_max_body_size 1; location / {{ {gone} }}",
            "gone": f"location / {{ {gone} }}",
            "moved": "return 301 https://gps.example.com$request_uri;",
            "tls-own": f"ssl_certificate {authority.pair.cert}; "
            f"ssl_certificate_key {authority.pair.key};",
            "tls-other": f"ssl_certificate {other.cert}; ssl_certificate_key {other.key};",
        }
        blocks = "\n".join(
            f"server {{ listen 127.0.0.1:{port}{' ssl' if what.startswith('tls') else ''}; "
            f"{does[what]} }}"
            for what, port in self._ports.items()
        )
        places = " ".join(
            f"{kind}_temp_path {self._folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = self._folder / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off;"
            f" user root; pid {self._folder}/nginx.pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {places}\n{blocks}\n}}\n"
        )
        argv = (program("nginx"), "-c", str(config), "-p", str(self._folder))
        self._cleanup.enter_context(running(*argv))
        for port in self._ports.values():
            wait_until_answers(port)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with contextlib.ExitStack() as cleanup:
        yield Real(tmp_path_factory.mktemp("real"), cleanup)


# Databases


@mistake("answer", "Code: 115.*Unknown setting", "needs ClickHouse 22.2 or newer")
def clickhouse_too_old_for_the_token(bench: Bench, real: Real) -> None:
    bench.url, bench.upload = f"{real(clickhouse)}/?database=default", {"format": "clickhouse"}


@mistake("answer", "stores a repeated batch twice", "MODIFY SETTING non_rep", "warn")
def clickhouse_without_the_deduplication_setting(bench: Bench, real: Real) -> None:
    url = real(clickhouse)
    ask(url, b"CREATE TABLE IF NOT EXISTS fixes (a UInt8) ENGINE = MergeTree ORDER BY a")

    def without_token(asked: Asked) -> Said:
        target = re.sub(
            r"&?(insert_deduplication_token|date_time_input_format)=\w+", "", asked.target
        )
        target = re.sub(r"fixes%20%28[^)]*%29", "fixes", target)  # the table is a stand-in's
        return Said(200, ask(url + target, asked.body).encode())

    server = bench.cleanup.enter_context(Server(without_token))
    bench.url, bench.upload = f"{server.url}/?database=default", {"format": "clickhouse"}


@mistake("answer", "Code: (60|81)", "create the table as in docs/servers.md")
def clickhouse_without_the_table(bench: Bench, real: Real) -> None:
    url = real(clickhouse)

    def without_token(asked: Asked) -> Said:
        target = re.sub(r"&?insert_deduplication_token=\w+", "", asked.target)
        try:
            return Said(200, ask(url + target, asked.body).encode())
        except OSError as error:
            return Said(404, error.read())  # type: ignore[attr-defined]

    server = bench.cleanup.enter_context(Server(without_token))
    query = "INSERT%20INTO%20gps.none%20FORMAT%20JSONEachRow"
    bench.url, bench.upload = f"{server.url}/?query={query}", {"format": "clickhouse"}


@mistake("answer", "404: 404 page not found; the server there is influxdb", r"/write\?db=gps")
def influxdb_at_a_wrong_path(bench: Bench, real: Real) -> None:
    bench.url, bench.upload = f"{real(influxdb)}/fixes?db=gps", {"format": "influx"}


@mistake("answer", "404: 404 page not found; the server there is influxdb", r"/write\?db=gps")
def influxdb_1_at_the_path_of_2(bench: Bench, real: Real) -> None:
    bench.url = f"{real(influxdb)}/api/v2/write?org=o&bucket=gps"
    bench.upload = {"format": "influx"}


@mistake("answer", "database not found", "create the database")
def influxdb_without_the_database(bench: Bench, real: Real) -> None:
    bench.url, bench.upload = f"{real(influxdb)}/write?db=none", {"format": "influx"}


@mistake("answer", "snappy: corrupt input.*there is victoria-metrics", r"upload\.url = .*/write\"")
def victoria_metrics_at_the_path_of_another_protocol(bench: Bench, real: Real) -> None:
    bench.url = f"{real(victoria_metrics)}/api/v1/write"
    bench.upload = {"format": "influx"}


@mistake("answer", "204, but the server there is victoria-metrics", 'set upload.format = "influx"')
def native_at_victoria_metrics(bench: Bench, real: Real) -> None:
    bench.url = f"{real(victoria_metrics)}/write"


@mistake("answer", "404: .*the server there is influxdb", 'set upload.format = "influx"')
def native_at_influxdb(bench: Bench, real: Real) -> None:
    bench.url = f"{real(influxdb)}/write?db=gps"


# Other servers


@mistake(
    "answer",
    "400 Bad Request; by its URL the server is traccar",
    '"osmand" and upload.url = "http://traccar.ex',
)
def native_at_traccar(bench: Bench, real: Real) -> None:
    port = bench.cleanup.enter_context(Server(Traccar("van-07"))).port
    bench.resolve = lambda _host, number: [Address(socket.AF_INET, ("127.0.0.1", number))]
    bench.url = f"http://traccar.example:{port}/"


@mistake("answer", r"\[\] does not say.*by its URL the server is owntracks", 'format = "owntracks"')
def native_at_the_recorder(bench: Bench, real: Real) -> None:
    bench.url = bench.cleanup.enter_context(Server(Recorder())).url + "/pub"


@mistake(
    "answer",
    "does not know the device van-07",
    "add a device with the identifier van-07",
    by_init="(?s)only a position shows whether it knows.*To do: in Traccar, add a device with",
)
def a_device_that_traccar_does_not_know(bench: Bench, real: Real) -> None:
    bench.recorded(1)
    bench.url = bench.cleanup.enter_context(Server(Traccar("van-08"))).url
    bench.upload = {"format": "osmand"}


@mistake(
    "authentication",
    "401: the endpoint does not accept the credentials",
    "API key into upload.token_file",
)
def a_wrong_token(bench: Bench, real: Real) -> None:
    server = bench.cleanup.enter_context(Server(Dawarich("k3y")))
    token = bench.folder / "token"
    token.write_text("other")
    bench.url = f"{server.url}/api/v1/overland/batches"
    bench.upload = {"format": "overland", "token_file": str(token)}


@mistake(
    "answer", "200 with an empty body: Home Assistant does not know", "integration GPSLogger shows"
)
def a_webhook_that_home_assistant_does_not_know(bench: Bench, real: Real) -> None:
    server = bench.cleanup.enter_context(Server(lambda _: Said(200)))
    bench.url, bench.upload = f"{server.url}/api/webhook/0123", {"format": "gpslogger"}


def home_assistant(asked: Asked) -> Said:
    """It answers every request, including those to an unknown webhook."""
    page = b"<!DOCTYPE html><html><head><title>Home Assistant</title>"
    return Said(200, page if asked.path == "/" else b"")


@mistake(
    "answer",
    "200, but the server there is home-assistant, which stores nothing in the format native",
    'upload.format = "gpslogger" and upload.url = "http://.*/api/webhook/0123"',
)
def a_webhook_of_home_assistant_gets_the_format_native(bench: Bench, real: Real) -> None:
    server = bench.cleanup.enter_context(Server(home_assistant))
    bench.url = f"{server.url}/api/webhook/0123"


@mistake(
    "answer",
    "the server there is home-assistant",
    'upload.format = "gpslogger" and upload.url = "http://.*/api/webhook/ID"',
)
def the_address_of_home_assistant_itself(bench: Bench, real: Real) -> None:
    bench.url = bench.cleanup.enter_context(Server(home_assistant)).url


# The web server in front


@mistake("answer", "404: nginx itself answers", "correct the path of upload.url.*proxy_pass")
def nginx_has_nothing_there(bench: Bench, real: Real) -> None:
    bench.url = real.nginx("missing") + "/v1/fixes"


@mistake("answer", "413: a request without a position is too large", "client_max_body_size")
def nginx_with_a_small_limit(bench: Bench, real: Real) -> None:
    bench.url = real.nginx("small") + "/v1/fixes"


@mistake("answer", "502", "the endpoint behind nginx does not run.*proxy_pass", "warn")
def nginx_before_nothing(bench: Bench, real: Real) -> None:
    bench.url = real.nginx("gone") + "/v1/fixes"


@mistake("answer", "301: the endpoint expects https", "write https:// in upload.url")
def http_where_nginx_redirects_to_https(bench: Bench, real: Real) -> None:
    bench.url = real.nginx("moved") + "/v1/fixes"


@mistake("answer", "400: the endpoint expects https", "write https:// in upload.url")
def http_to_the_https_port_of_nginx(bench: Bench, real: Real) -> None:
    bench.url = real.nginx("tls-own").replace("https", "http") + "/v1/fixes"


@mistake("answer", "400: the endpoint expects https", "write https:// in upload.url")
def http_to_the_https_port_of_apache(bench: Bench, real: Real) -> None:
    said = "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />"
    bench.url = bench.serve(then=answer(400, f"<html><h1>Bad Request</h1>{said}</html>"))


@mistake("answer", "400: the endpoint expects https", "write https:// in upload.url")
def http_to_the_https_port_of_tomcat(bench: Bench, real: Real) -> None:
    said = "Bad Request\r\nThis combination of host and port requires TLS.\r\n"
    bench.url = bench.serve(then=answer(400, said))


@mistake("answer", "this port speaks TLS", "write https:// in upload.url")
def http_to_a_port_that_only_speaks_tls(bench: Bench, real: Real) -> None:
    bench.url = bench.serve(tls=tls_server_context()).replace("https", "http")


@mistake("tls", "no TLS .*: it answers in plain http", "write http:// in upload.url")
def https_to_a_port_of_plain_http(bench: Bench, real: Real) -> None:
    bench.url = real.nginx("missing").replace("http", "https") + "/v1/fixes"


@mistake("tls", "certificate not trusted: self-signed certificate", "set upload.ca_file")
def a_self_signed_certificate(bench: Bench, real: Real) -> None:
    bench.url = real.nginx("tls-own") + "/v1/fixes"


@mistake("tls", "certificate is for another name", "the certificate's name in upload.url")
def a_certificate_for_another_name(bench: Bench, real: Real) -> None:
    bench.url = real.nginx("tls-other") + "/v1/fixes"
    bench.upload = {"ca_file": str(real.certificate())}


# The network path


@mistake(
    "authentication", r"407: the proxy 127\.0\.0\.1:\d+ requires credentials", "proxy_password_file"
)
def a_proxy_that_asks_for_credentials(bench: Bench, real: Real) -> None:
    bench.upload = {"proxy": bench.serve(then=answer(407)).removesuffix("/v1/fixes")}
    bench.url = "https://gps.example.com/v1/fixes"


@mistake(
    "authentication",
    r"407: the proxy 127\.0\.0\.1:\d+ requires",
    "correct the user in upload.proxy",
)
def a_proxy_that_does_not_know_the_password(bench: Bench, real: Real) -> None:
    password = bench.folder / "password"
    password.write_text("wrong")
    proxy = bench.serve(then=answer(407)).removesuffix("/v1/fixes").replace("//", "//jane@")
    bench.upload = {"proxy": proxy, "proxy_password_file": str(password)}
    bench.url = "http://gps.example.com/v1/fixes"


@mistake("authentication", r"403: the proxy \S+ does not let", "allow gps.example.com in the proxy")
def a_proxy_that_refuses_the_endpoint(bench: Bench, real: Real) -> None:
    bench.upload = {"proxy": bench.serve(then=answer(403)).removesuffix("/v1/fixes")}
    bench.url = "https://gps.example.com/v1/fixes"


@mistake("authentication", r"403: .*or the proxy 127\.0\.0\.1:\d+ does not let this", "credentials")
def a_proxy_that_refuses_plain_http(bench: Bench, real: Real) -> None:
    bench.upload = {"proxy": bench.serve(then=answer(403)).removesuffix("/v1/fixes")}
    bench.url = "http://gps.example.com/v1/fixes"


@mistake("name", "there is no host tracker.example", "correct upload.url")
def a_name_that_does_not_exist(bench: Bench, real: Real) -> None:
    def resolve(_host: str, _port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    bench.url, bench.resolve = "https://tracker.example/v1/fixes", resolve


@pytest.mark.parametrize("row", TABLE)
def test_doctor_names_the_mistake(bench: Bench, real: Real, row: Mistake) -> None:
    row.make(bench, real)
    found = bench.told(send=bench.queue.exists())
    told = found[row.check]
    assert told.verdict == row.verdict, found
    assert re.search(row.said, told.said), told
    assert re.search(row.remedy, told.remedy), told
    before = list(found)[list(found).index("credentials") : list(found).index(row.check)]
    assert not {name for name in before if found[name].verdict == "fail"}, found


@pytest.mark.parametrize("row", TABLE)
def test_init_names_the_mistake(
    bench: Bench, real: Real, row: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    row.make(bench, real)
    monkeypatch.setattr(
        init,
        "EndpointChecks",
        lambda upload, device, agent: EndpointChecks(
            upload, device, AgentChecks(bench.queue, Machine(resolve=bench.resolve))
        ),
    )
    upload = dict(bench.upload)
    flags = ["--server", _SERVER_OF[upload.pop("format", "native")], "--url", bench.url]
    env = {f"TELEMETRY_AGENT_UPLOAD__{key.upper()}": value for key, value in upload.items()}
    told = CliRunner().invoke(
        init.command,
        ["--config", str(bench.folder / "c.toml"), "--device", "x", "--source", "auto", *flags],
        env=env,
    )
    assert told.exit_code == 0, told
    pattern = rf"the endpoint: {row.check}: .*{row.said}.*; .*{row.remedy}"
    assert re.search(row.by_init or pattern, told.output), told.output
