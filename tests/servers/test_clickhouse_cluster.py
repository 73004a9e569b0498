"""A real ClickHouse with two replicas and ZooKeeper, and a table that is older than the agent.

The version is 18.16, which does not know the deduplication token: a relay removes it. So the server
recognises repeated rows by their bytes, as any Replicated table does, or by their sorting key.
"""

import contextlib
import itertools
import json
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drives import FIXES, recorded
from old_clickhouse import ORDER, columns, without_token
from peers import ask, clickhouse, program, wait_until_answers
from ports import free_port
from processes import Running, run_agent, running
from rig import started, stats, write_config
from standins import Asked, Said, Server
from uploading import Uploading

from telemetry_agent.fields import FIELDS
from telemetry_agent.upload.formats import clickhouse as clickhouse_format

READ = "SELECT seq, lat, lon FROM gps.fixes FINAL ORDER BY time FORMAT JSONEachRow"
pytestmark = pytest.mark.once("the agent sends what test_clickhouse.py shows; the servers differ")
_ZOOKEEPER = Path("/usr/share/java/zookeeper.jar")


def test_a_table_from_before_a_field_was_added_takes_the_fixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = next(field for field in FIELDS if field.name == "odo")
    monkeypatch.setattr(clickhouse_format, "LATER_FIELDS", (later._replace(since="9.9"),))
    with clickhouse(tmp_path) as url:
        ask(url, b"CREATE DATABASE gps")
        ask(url, f"CREATE TABLE gps.fixes {columns()} ENGINE = MergeTree {ORDER}".encode())
        # A later release may send this: a field without a column.
        newer = b'{"tilt":1.5,'

        def relay(asked: Asked) -> Said | None:
            return without_token(url, asked, re.sub(rb"^\{", newer, asked.body, flags=re.MULTILINE))

        with Server(relay) as server:
            upload = Uploading(tmp_path, f"{server.url}/?database=gps", "clickhouse")
            with contextlib.closing(upload):
                upload.put(5)
                upload.work()
                assert upload.counts == (0, 0, 5, 0)
                assert json.loads(ask(url, b"SELECT count() FROM gps.fixes FORMAT JSON"))["rows"]
                # A table that is not one of ours is still reported.
                ask(url, b"CREATE DATABASE other")
                ask(url, b"CREATE TABLE other.fixes (seq UInt64) ENGINE = MergeTree ORDER BY seq")
                assert "Code: 16" in upload.held_at(f"{server.url}/?database=other")


_CONFIG = """<yandex>
<logger><level>information</level><console>1</console></logger>
<http_port>{http}</http_port><tcp_port>{tcp}</tcp_port>
<interserver_http_port>{inter}</interserver_http_port>
<interserver_http_host>127.0.0.1</interserver_http_host><listen_host>127.0.0.1</listen_host>
<path>{folder}/data/</path><tmp_path>{folder}/tmp/</tmp_path>
<users_config>{folder}/users.xml</users_config><mark_cache_size>5368709</mark_cache_size>
<default_profile>default</default_profile><default_database>default</default_database>
<zookeeper><node><host>127.0.0.1</host><port>{zookeeper}</port></node>
  <session_timeout_ms>5000</session_timeout_ms></zookeeper>
<macros><replica>{name}</replica></macros>
</yandex>"""
_USERS = """<yandex><profiles><default></default></profiles><users><default><password></password>
<networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default>
</users><quotas><default></default></quotas></yandex>"""


class Replica:
    """One ClickHouse that can be killed and started again."""

    def __init__(self, folder: Path, name: str, zookeeper: int) -> None:
        folder.mkdir()
        self._config = folder / "config.xml"
        http, tcp, inter = free_port(), free_port(), free_port()
        text = _CONFIG.format(
            folder=folder, name=name, zookeeper=zookeeper, http=http, tcp=tcp, inter=inter
        )
        self._config.write_text(text)
        (folder / "users.xml").write_text(_USERS)
        self.url = f"http://127.0.0.1:{http}"
        self._running: Running | None = None

    def start(self, cleanup: contextlib.ExitStack) -> None:
        argv = (program("clickhouse-server"), f"--config-file={self._config}")
        self._running = cleanup.enter_context(running(*argv))
        self._running.wait_for_line("Ready for connections", 60)

    def kill(self) -> None:
        assert self._running is not None
        self._running.kill()


@contextlib.contextmanager
def zookeeper(folder: Path) -> Iterator[int]:
    """Debian's ZooKeeper; yield its port."""
    if not _ZOOKEEPER.exists():
        program("zookeeper")  # reports what is missing
    port = free_port()
    config = folder / "zoo.cfg"
    config.write_text(
        f"tickTime=1000\ndataDir={folder}/zookeeper\nclientPort={port}\n"
        "clientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=srvr\n"
    )
    main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
    with running(program("java"), "-cp", str(_ZOOKEEPER), main, str(config)):
        limit_s = time.monotonic() + 60
        wait_until_answers(port, 60)
        while "Zookeeper version" not in _said(port):
            assert time.monotonic() < limit_s, "ZooKeeper does not serve"
        yield port


def _said(port: int) -> str:
    """ZooKeeper's answer to ``srvr``; before it serves, an error text."""
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", port), 60) as sock,
    ):
        sock.sendall(b"srvr")
        return sock.recv(4096).decode()
    return ""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator["Cluster"]:
    with contextlib.ExitStack() as cleanup:
        port = cleanup.enter_context(zookeeper(tmp_path))
        yield Cluster(tmp_path, port, cleanup)


class Cluster:
    """Two replicas of the table."""

    def __init__(self, folder: Path, port: int, cleanup: contextlib.ExitStack) -> None:
        self._cleanup = cleanup
        self.replicas = [Replica(folder / name, name, port) for name in ("first", "second")]
        for replica in self.replicas:
            self.start(replica)
            ask(replica.url, b"CREATE DATABASE gps")
            engine = "ReplicatedReplacingMergeTree('/clickhouse/gps/fixes', '{replica}')"
            table = f"CREATE TABLE gps.fixes {columns()} ENGINE = {engine} {ORDER}"
            ask(replica.url, table.encode())

    def start(self, replica: Replica) -> None:
        replica.start(self._cleanup)

    def has_once(self, sent: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
        """Check that each replica has the drive exactly once."""
        for replica in self.replicas:
            ask(replica.url, b"SYSTEM SYNC REPLICA gps.fixes")
            rows = [json.loads(line) for line in ask(replica.url, READ.encode()).splitlines()]
            assert len(rows) == FIXES
            assert [int(row["seq"]) for row in rows] == [fix["seq"] for fix in sent]
            assert [row["lat"] for row in rows] == pytest.approx([fix["lat"] for fix in sent])
            with capsys.disabled():
                stored = ask(replica.url, b"SELECT count() FROM gps.fixes").strip()
                sys.stderr.write(f"{FIXES} positions once, {stored} rows before the merge\n")


def test_two_replicas_store_a_drive_once_though_one_is_killed_and_the_agent_too(
    tmp_path: Path, backlog: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    balancer = Balancer(*cluster.replicas)
    with Server(balancer) as server:
        sent = deliver(server.url, tmp_path / "agent", backlog, balancer)
    cluster.start(cluster.replicas[0])
    cluster.has_once(sent, capsys)


def test_with_a_quorum_nothing_is_delivered_while_a_replica_is_away(
    tmp_path: Path, backlog: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second replica is killed after three batches are stored."""
    first, second = cluster.replicas
    said: list[Said | None] = []
    stored: list[int] = []
    refused, taken = threading.Event(), threading.Event()

    def balancer(asked: Asked) -> Said | None:
        if len(said) == 3:
            stored.append(int(ask(first.url, b"SELECT count() FROM gps.fixes")))
            second.kill()
        said.append(without_token(first.url, asked))
        last = said[-1]
        if last is not None and last.status == 500 and len(said) > 4:
            refused.set()
        if last is not None and last.status == 200 and refused.is_set():
            taken.set()
        return last

    folder = tmp_path / "agent"
    shutil.copytree(backlog, folder)
    with Server(balancer) as server:
        url = f"{server.url}/?database=gps&insert_quorum=2&insert_quorum_timeout=2000"
        upload = {"format": "clickhouse", "max_batch": FIXES // 10, "timeout": "10s"}
        config = write_config(folder, "/dev/none", url, upload=upload)
        with started(config) as agent:
            assert refused.wait(60)
            asked = run_agent("queue", "stats", "--json", "--config", str(config))
            assert json.loads(asked.stdout)["acked"] == stored[0] < FIXES
            cluster.start(second)
            assert taken.wait(60)
            done = run_agent("drain", "--config", str(config), timeout_s=200)
            assert done.returncode == 0, done.stderr
            assert agent.end() == 0
    left = stats(folder)
    assert (left.ready, left.unack, left.ack_failed) == (0, 0, 0)
    assert {answer.status for answer in said if answer is not None} == {200, 500}
    words = [answer.body.decode() for answer in said if answer is not None and answer.body]
    with capsys.disabled():
        sys.stderr.write(f"{stored[0]} positions acknowledged, then {words[0][:200]}\n")
        sys.stderr.write(f"and {words[-1][:200]}\n")
    cluster.has_once(recorded(folder), capsys)


class Balancer:
    """A load balancer: the first replica that answers gets the request.

    When the first replica has stored the third insert, it is killed and the answer is lost. When
    the sixth insert is stored, the test kills the agent.
    """

    def __init__(self, first: Replica, second: Replica) -> None:
        self._replicas = [first, second]
        self._numbers = itertools.count(1)
        self.stored_sixth = threading.Event()
        self.agent_is_killed = threading.Event()

    def __call__(self, asked: Asked) -> Said | None:
        number = next(self._numbers)
        said = next(filter(None, (without_token(r.url, asked) for r in self._replicas)), None)
        if number == 3:
            self._replicas[0].kill()
            return None
        if number == 6:
            self.stored_sixth.set()
            assert self.agent_is_killed.wait(60)
            return None
        return said


def deliver(url: str, folder: Path, backlog: Path, balancer: Balancer) -> list[dict[str, Any]]:
    """Send the drive; the agent is killed on the way."""
    folder.mkdir()
    for file in backlog.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    upload = {"format": "clickhouse", "timeout": "30s", "max_batch": FIXES // 10}
    config = write_config(folder, "/dev/none", f"{url}/?database=gps", upload=upload)
    with started(config) as agent:
        assert balancer.stored_sixth.wait(60)
        agent.end(by=signal.SIGKILL)
    balancer.agent_is_killed.set()
    with started(config) as agent:
        done = run_agent("drain", "--config", str(config), timeout_s=110)
        assert done.returncode == 0, done.stderr
        assert agent.end() == 0
    left = stats(folder)
    assert (left.ready, left.unack, left.ack_failed) == (0, 0, 0)
    return recorded(folder)
