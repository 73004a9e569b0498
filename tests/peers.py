"""Real third-party servers, each started on a free port in its own folder."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from polling import wait_until
from ports import free_port
from processes import running


def program(name: str, *folders: str) -> str:
    """The path of a program. If it is missing, skip the test; in CI, fail."""
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        assert not os.environ.get("CI"), f"{name} is missing: see DEBIAN_PACKAGES in the Makefile"
        pytest.skip(f"{name} is not installed")
    return found


def ask(url: str, body: bytes | None = None, **query: str) -> str:
    """The server's answer to a GET, or to a POST with the body."""
    if query:
        url += f"?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
        said: str = answer.read().decode()
    return said


@contextlib.contextmanager
def gpsd(*devices: Path) -> Iterator[int]:
    """Run gpsd with these receivers; yield its port. It sends nothing to them."""
    port = free_port()
    with running(*gpsd_command(port, *devices)):
        wait_until_answers(port)
        yield port


def gpsd_command(port: int, *devices: Path) -> tuple[str, ...]:
    """The command line of gpsd."""
    return (program("gpsd"), "-N", "-n", "-b", "-S", str(port), *map(str, devices))


def wait_until_answers(port: int, limit_s: float = 60) -> None:
    """Wait until a server listens on the port."""

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, limit_s)


@contextlib.contextmanager
def influxdb(folder: Path) -> Iterator[str]:
    """Run InfluxDB 1.6; yield its URL."""
    port = free_port()
    config = folder / "influxdb.conf"
    config.write_text(
        'bind-address = "127.0.0.1:0"\nreporting-disabled = true\n'
        f'[meta]\n  dir = "{folder}/meta"\n'
        f'[data]\n  dir = "{folder}/data"\n  wal-dir = "{folder}/wal"\n'
        f'[http]\n  bind-address = "127.0.0.1:{port}"\n[monitor]\n  store-enabled = false\n'
    )
    with running(program("influxd"), "-config", str(config)) as server:
        server.wait_for_line("Listening on HTTP")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def victoria_metrics(folder: Path) -> Iterator[str]:
    """Run VictoriaMetrics 1.79, which keeps one sample per time; yield its URL."""
    port = free_port()
    with running(
        program("victoria-metrics"),
        f"-storageDataPath={folder}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=100y",
        "-dedup.minScrapeInterval=1ms",
    ) as server:
        server.wait_for_line("started VictoriaMetrics")
        wait_until_answers(port)
        yield f"http://127.0.0.1:{port}"
        server.end()


_CLICKHOUSE = """<yandex>
<logger><level>information</level><console>1</console></logger>
<http_port>{port}</http_port><tcp_port>{tcp}</tcp_port><listen_host>127.0.0.1</listen_host>
<path>{folder}/data/</path><tmp_path>{folder}/tmp/</tmp_path>
<users_config>{folder}/users.xml</users_config><mark_cache_size>5368709</mark_cache_size>
<default_profile>default</default_profile><default_database>default</default_database>
</yandex>"""
_USERS = """<yandex><profiles><default></default></profiles><users>
<default><password></password><networks><ip>127.0.0.1</ip></networks>
  <profile>default</profile><quota>default</quota></default>
<agent><password>insert-only</password><networks><ip>127.0.0.1</ip></networks>
  <profile>default</profile><quota>default</quota></agent>
</users><quotas><default></default></quotas></yandex>"""


@contextlib.contextmanager
def clickhouse(folder: Path) -> Iterator[str]:
    """Run ClickHouse 18.16; yield its URL. Users: ``default`` without a password, ``agent``."""
    port = free_port()
    config = folder / "config.xml"
    config.write_text(_CLICKHOUSE.format(port=port, tcp=free_port(), folder=folder))
    (folder / "users.xml").write_text(_USERS)
    with running(program("clickhouse-server"), f"--config-file={config}") as server:
        server.wait_for_line("Ready for connections")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run PostgreSQL 15, not as root (it refuses); yield the connection string for libpq."""
    folders = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin")]
    initdb, server = program("initdb", *folders), program("postgres", *folders)
    data, port = folder / "data", free_port()
    demoted: tuple[str, ...] = ()
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        # Only root may enter the folders above, and another test run closes them again.
        may = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
        who = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        demoted = ("setpriv", *who, *may)
    made = ["-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    if not data.exists():
        subprocess.run([*demoted, initdb, *made], check=True, stdout=subprocess.DEVNULL, cwd=folder)
    args = ["-D", str(data), "-p", str(port), "-k", str(folder), "-c", "listen_addresses="]
    args += ["-c", "dynamic_shared_memory_type=mmap"]  # after a kill, the rest is in its folder
    with running(*demoted, server, *args, cwd=folder) as started:
        started.wait_for_line("ready to accept connections")
        yield f"host={folder} port={port} user=postgres dbname=postgres"


@contextlib.contextmanager
def nginx(folder: Path, upstream: str, *settings: str) -> Iterator[str]:
    """Run nginx in front of ``upstream`` with its default configuration; yield its URL."""
    port, parts = free_port(), urllib.parse.urlsplit(upstream)
    temporary = "".join(
        [f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi")]
        + [f"{kind}_temp_path {folder}/{kind};" for kind in ("uwsgi", "scgi")]
    )
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off;"
        f" {user} pid {folder}/nginx.pid; error_log stderr crit; events {{}}\n"
        f"http {{ access_log off; {temporary} {' '.join(settings)}\n"
        f"server {{ listen 127.0.0.1:{port};\n"
        f"location / {{ proxy_pass http://{parts.netloc}; }} }} }}\n"
    )
    with running(program("nginx"), "-c", str(config), "-p", str(folder)) as proxy:
        wait_until_answers(port)
        yield parts._replace(netloc=f"127.0.0.1:{port}").geturl()
        proxy.end()  # also ends its workers


@contextlib.contextmanager
def caddy(folder: Path, upstream: str, settings: str = "", transport: str = "") -> Iterator[str]:
    """Run Caddy in front of ``upstream``; yield its URL."""
    port, parts = free_port(), urllib.parse.urlsplit(upstream)
    config = folder / "Caddyfile"
    config.write_text(
        f"{{\n\tadmin off\n\tauto_https off\n}}\nhttp://127.0.0.1:{port} {{\n\t{settings}\n"
        f"\treverse_proxy {parts.netloc} {{\n\t\t{transport}\n\t}}\n}}\n"
    )
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = (program("caddy"), "run", "--config", str(config), "--adapter", "caddyfile")
    with running(*command, env=home):
        wait_until_answers(port)
        yield parts._replace(netloc=f"127.0.0.1:{port}").geturl()


def influx_rows(url: str, database: str) -> list[dict[str, Any]]:
    """Every row of ``gps`` in InfluxDB, in order of time."""
    said = json.loads(ask(f"{url}/query", db=database, epoch="ms", q="SELECT * FROM gps"))
    series = said["results"][0].get("series", [])
    return [
        {k: v for k, v in zip(one["columns"], values, strict=True) if v is not None}
        for one in series
        for values in one["values"]
    ]
