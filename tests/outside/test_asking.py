"""The commands with a real daemon, and without one, as a user runs them."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from misbehaving import Server, answer, hang
from polling import wait_until
from processes import AGENT, Running, agent, environment, run_agent, running
from rig import START_MS, record_backlog, simulated, started, stats, write_config
from strangers import NOBODY, as_another

from telemetry_agent.ackqueue.file.lock import QueueLock
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.lab.drive import Drive
from telemetry_agent.lab.endpoint import Endpoint


@pytest.fixture
def endpoint(tmp_path: Path) -> Endpoint:
    return Endpoint("127.0.0.1:0", tmp_path / "received.db")


class Asked:
    """The commands with one config."""

    def __init__(self, config: Path) -> None:
        self.config = config

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return run_agent(*args, "--config", str(self.config))

    def json(self, *args: str) -> Any:
        result = self.run(*args, "--json")
        assert result.returncode == 0, result.stderr
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        return lines if args[:2] == ("queue", "list") or args[0] == "drain" else lines[0]

    def refused(self, *args: str) -> tuple[int, str]:
        """Return the exit status and the single line on standard error."""
        result = self.run(*args)
        (line,) = result.stderr.splitlines()
        assert line.startswith("telemetry-agent: ")
        return result.returncode, line


def listening(daemon: Running) -> None:
    daemon.wait_for_line("records van-07")


# Status


def test_status_tells_what_the_agent_knows(tmp_path: Path, endpoint: Endpoint) -> None:
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        asked = Asked(config)
        with started(config) as daemon:
            assert endpoint.wait_for(40, 60)
            told = asked.json("status")
            assert (told["running"], told["pid"]) == (True, daemon.process.pid)
            assert (told["receiver"]["state"], told["upload"]["state"]) == ("3d", "ok")
            assert told["receiver"]["fix_age_s"] < 30
            assert told["receiver"]["fixes"] >= 40
            assert told["upload"]["delivered"] >= 40
            assert told["upload"]["sent_bytes_24h"] > 1000
            text = asked.run("status").stdout
            assert "recording: 3d fix, 22 satellites" in text
            assert "uploading: ok for " in text
            endpoint.disconnect()
            daemon.wait_for_line("cannot deliver")
            told = asked.json("status")
            assert told["upload"]["state"] == "unreachable"
            assert "connection refused by" in told["upload"]["last_error"]
            while (queue := asked.json("status")["queue"])["pending"] == queue["uncommitted"]:
                pass  # nothing is on the disk yet
            simulator.hush()
            daemon.kill()
        told = asked.json("status")
        assert not told["running"]
        assert told["queue"]["pending"] > 0
        assert "no agent runs" in asked.run("status").stdout


def test_status_before_anything_was_recorded(tmp_path: Path) -> None:
    asked = Asked(write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/"))
    result = asked.run("status")
    assert result.returncode == 0
    assert result.stdout.startswith("no agent runs\nthe queue ")
    assert not (tmp_path / "queue.db").exists()


def test_watch_follows_the_agent_over_its_restart(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with agent("status", "--watch", "--config", str(config)) as watch:
        watch.wait_for_line("^no agent runs$")
        with started(config) as daemon:
            watch.wait_for_line("running for .* recording: absent")
            daemon.kill()
        watch.out.clear()
        watch.wait_for_line("^no agent runs$")
        assert watch.end(by=signal.SIGINT) == 130
        assert not any(watch.err)


def test_an_agent_that_starts_is_not_called_stopped(tmp_path: Path) -> None:
    asked = Asked(config := write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/"))
    record_backlog(tmp_path, 1)
    lock = QueueLock(tmp_path / "queue.db")  # the agent locks first; its socket comes later
    holds = f"with pid {os.getpid()}, which holds .*: it may be an agent that starts or ends"
    status = asked.run("status").stdout
    assert re.match(f"no agent answers\nthe queue .* {holds}", status)
    answer = asked.json("status")
    assert re.search(holds, answer.pop("note"))
    assert answer == {"protocol": 1, "running": False, "busy": True}
    for command in ("queue stats", "queue list", "queue verify", "export --format csv"):
        result = asked.run(*command.split())
        assert result.returncode == 75
        assert re.search(holds, result.stderr)
    with agent("status", "--watch", "--config", str(config)) as watch:
        watch.wait_for_line(f"^no agent answers; .* {holds}")
        lock.release()
        watch.wait_for_line("^no agent runs$")
    assert asked.json("status")["queue"]["pending"] == 1


@pytest.mark.parametrize(
    ("line", "command", "status", "said"),
    [
        (b'{"protocol": 2, "ready": 7}\n{"end": true}', "queue stats", 0, "the agent speaks 2"),
        (b"[1, 2]", "queue stats", 1, "broke the connection"),
        (b"null", "status", 1, "broke the connection"),
        (b"[" * 100_000, "status", 1, "broke the connection"),
    ],
)
def test_an_answer_of_another_version_or_program(
    tmp_path: Path, line: bytes, command: str, status: int, said: str
) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "queue.db.sock"))
        listener.listen()
        with agent(*command.split(), "--config", str(config)) as asked:
            client, _ = listener.accept()
            with client, contextlib.suppress(BrokenPipeError):
                client.makefile("rb").readline()
                client.sendall(line + b"\n")
            assert asked.wait() == status
    assert said in asked.err[0]
    assert len(asked.err) == 1
    assert asked.out == (["ready              7"] if status == 0 else [])


def test_watch_goes_on_where_the_agent_breaks_off(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "queue.db.sock"))
        listener.listen()
        with agent("status", "--watch", "--config", str(config)) as watch:
            listener.accept()[0].close()
            watch.wait_for_line("^no agent answers; the agent at .* (broke|ended)")
            listener.close()
            watch.wait_for_line("^no agent runs$")
            assert watch.end(by=signal.SIGINT) == 130


def test_the_socket_of_a_killed_daemon_misleads_nobody(tmp_path: Path) -> None:
    asked = Asked(write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/"))
    for _ in range(2):
        with started(asked.config) as daemon:
            listening(daemon)
            assert asked.json("status")["running"]
            daemon.kill()
        assert (tmp_path / "queue.db.sock").exists()
        assert not asked.json("status")["running"]
    with started(asked.config) as daemon:
        listening(daemon)
        assert daemon.end() == 0
    assert not (tmp_path / "queue.db.sock").exists()


# The queue


@pytest.mark.parametrize("with_daemon", [True, False])
def test_dead_letters_are_listed_put_back_and_given_up(with_daemon: bool, tmp_path: Path) -> None:
    record_backlog(tmp_path, 8)
    with AckQueue(tmp_path / "queue.db") as queue:
        batch = queue.lease(8)
        assert batch is not None
        queue.ack(batch, rejected=dict.fromkeys((2, 3, 5), "400: bad fix"))
    with Server(then=answer()) as server:
        asked = Asked(write_config(tmp_path, "/dev/none", server.url))
        with started(asked.config) as daemon:
            counts = asked.json("queue", "stats")
            assert (counts["acked"], counts["ack_failed"]) == (5, 3)
            if not with_daemon:
                assert daemon.end() == 0
            dead = asked.json("queue", "list", "--state", "ack_failed")
            assert [(fix["seq"], fix["reason"]) for fix in dead] == [
                (seq, "400: bad fix") for seq in (2, 3, 5)
            ]
            stream = dead[0]["stream"]
            text = asked.run("queue", "list", "--state", "ack_failed").stdout
            assert f"{stream}:2 " in text
            # A delivered fix is not a dead letter.
            status, line = asked.refused("queue", "retry", f"{stream}:2", f"{stream}:1")
            assert (status, "dead letters not found: 1 of these names" in line) == (1, True)
            status, line = asked.refused("queue", "discard", "--all")
            assert (status, "--yes is needed" in line) == (2, True)
            assert asked.json("queue", "discard", f"{stream}:3", "--yes") == {"discarded": 1}
            text = asked.run("queue", "stats").stdout
            assert re.search(r"^dead_letters +1: 400: bad fix$", text, re.MULTILINE)
            assert re.search(r"^lost +1: discarded$", text, re.MULTILINE)
            assert asked.json("queue", "retry", "--all")["retried"] == 1
            assert asked.json("drain")[-1]["pending"] == 0
            server.wait_for(lambda s: len(s.ledger) == 2)
    assert {seq for _, seq in server.ledger} == {2, 5}
    counts = stats(tmp_path)
    assert (counts.acked, counts.ack_failed, counts.lost) == (7, 0, {"discarded": 1})


@pytest.mark.parametrize("with_daemon", [True, False])
def test_delivered_fixes_are_sent_again_under_their_names(
    with_daemon: bool, tmp_path: Path
) -> None:
    record_backlog(tmp_path, 10)
    with Server() as server:
        asked = Asked(write_config(tmp_path, "/dev/none", server.url))
        with started(asked.config) as daemon:
            server.wait_for(lambda s: len(s.ledger) == 10)
            while asked.json("queue", "stats")["acked"] < 10:
                pass
            if not with_daemon:
                assert daemon.end() == 0
            since, until = "2026-11-23T12:00:02Z", "2026-11-23T13:00:04+01:00"
            answer_ = asked.json("queue", "resend", "--since", since, "--until", until)
            assert answer_ == {"resent": 2}
            assert asked.json("queue", "resend", "--since", "3s") == {"resent": 4}
            assert asked.run("drain").returncode == 0
            server.wait_for(lambda s: sum(s.ledger.values()) == 16)
            twice = sorted(seq for (_, seq), times in server.ledger.items() if times == 2)
            assert twice == [3, 4, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["queue", "retry"], "Name the dead letters"),
        (["queue", "retry", "--all", "0123456789abcdef:1"], "Name the dead letters"),
        (["queue", "discard", "17"], "'17' is not a name: give STREAM:SEQ"),
        (["queue", "resend"], "Give --since, or --stream with --from and --to."),
        (["queue", "resend", "--stream", "9f0c2d6e11a7b354"], "with --from and --to."),
        (["queue", "resend", "--since", "yesterday"], "a time such as 2026-11-23T12:35:19Z"),
        (["queue", "resend", "--since", "1700000000"], "an age of at most 50 years, such as 2h"),
        (["export", "--until", "1700000000000ms"], "an age of at most 50 years, such as 2h"),
        (["queue", "list", "--state", "lost"], "'lost' is not one of"),
        (["tap", "--for", "soon"], "must be a duration"),
    ],
)
def test_what_the_command_line_gets_wrong_is_told(
    args: list[str], says: str, tmp_path: Path
) -> None:
    status, line = Asked(write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")).refused(*args)
    assert status == 2
    assert says in line


def test_a_list_says_that_there_is_more(tmp_path: Path) -> None:
    record_backlog(tmp_path, 12)
    asked = Asked(write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/"))
    result = asked.run("queue", "list", "--limit", "5")
    assert len(result.stdout.splitlines()) == 5
    assert "--limit 50, or 0 for all" in result.stderr
    assert len(asked.json("queue", "list", "--limit", "0")) == 12


# Drain


@pytest.mark.parametrize("with_daemon", [True, False])
def test_drain_while_the_endpoint_is_away_and_when_it_is_back(
    with_daemon: bool, tmp_path: Path, endpoint: Endpoint
) -> None:
    record_backlog(tmp_path, 3000)
    with endpoint:
        config = write_config(
            tmp_path,
            "/dev/none",
            endpoint.url,
            upload={"max_batch": 500, "backoff_initial": "1s", "backoff_max": "1h"},
        )
        asked = Asked(config)
        endpoint.disconnect()
        with started(config) as daemon:
            daemon.wait_for_line("cannot deliver")
            if not with_daemon:
                assert daemon.end() == 0
            status, line = asked.refused("drain")
            assert (status, "3,000 fixes wait: " in line) == (69, True)
            endpoint.reconnect()
            told = asked.json("drain")
            assert 0 <= told[-1]["pending"] <= told[0]["pending"] <= 3000
            assert told[-1]["pending"] == 0
            assert endpoint.count() == 3000
            assert asked.json("drain")[-1]["pending"] == 0
    assert stats(tmp_path).acked == 3000


@pytest.mark.parametrize("with_daemon", [True, False])
def test_drain_of_a_held_queue_ends_with_1(with_daemon: bool, tmp_path: Path) -> None:
    record_backlog(tmp_path, 5)
    with Server(then=answer(401, "who are you")) as server:
        asked = Asked(write_config(tmp_path, "/dev/none", server.url, upload={"backoff_max": "1h"}))
        with started(asked.config) as daemon:
            daemon.wait_for_line("uploads are held")
            if not with_daemon:
                assert daemon.end() == 0
            status, line = asked.refused("drain")
            assert (status, "held, 5 fixes wait: 401: who are you" in line) == (1, True)
            server.then = answer()
            assert asked.run("drain").returncode == 0


def test_drain_of_what_the_disk_refuses_ends_with_74(tmp_path: Path) -> None:
    with simulated(tmp_path) as simulator, Server() as server:
        asked = Asked(write_config(tmp_path, str(simulator.device), server.url))
        with started(asked.config) as daemon:
            server.wait_for(lambda s: len(s.ledger) >= 10)
            pid = daemon.process.pid
            writable = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, writable[1]))  # no file can grow
            daemon.wait_for_line("cannot write the queue")
            wait_until(lambda: asked.json("status")["queue"]["uncommitted"] > 0)
            simulator.hush()
            status, line = asked.refused("drain")
            assert status == 74
            assert re.search(r"\d fix\w* waits? in memory: cannot write the queue .*doctor`", line)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, writable)
            daemon.wait_for_line("can be written again")
            assert asked.run("drain").returncode == 0
            assert daemon.end() == 0
    assert stats(tmp_path).acked == len(server.ledger) == simulator.sent


def test_a_disk_that_refuses_is_named_until_it_is_written_again(tmp_path: Path) -> None:
    """Also, a change of the queue that is only in memory is not reported as done."""
    record_backlog(tmp_path, 5)
    with Server() as server:
        asked = Asked(write_config(tmp_path, "/dev/none", server.url))
        with started(asked.config) as daemon:
            server.wait_for(lambda s: len(s.ledger) == 5)
            wait_until(lambda: asked.json("queue", "stats")["acked"] == 5)
            assert "disk_error" not in asked.run("queue", "stats").stdout
            pid = daemon.process.pid
            writable = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, writable[1]))  # no file can grow
            status, line = asked.refused("queue", "resend", "--since", "2h")
            assert status == 74
            assert "5 fixes resent in memory only: cannot write the queue" in line
            shown = asked.run("status").stdout
            assert re.search(r"\nstorage:   cannot write the queue .*; new fixes wait in", shown)
            assert "cannot write the queue" in asked.run("queue", "stats").stdout
            found = json.loads(asked.run("doctor", "--json").stdout)["checks"]
            (queue,) = [one for one in found if one["name"] == "queue"]
            assert (queue["verdict"], "free space on the disk" in queue["remedy"]) == ("fail", True)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, writable)
            daemon.wait_for_line("can be written again")
            assert "storage:" not in asked.run("status").stdout
            assert asked.run("queue", "resend", "--since", "2h").returncode == 0
            assert daemon.end() == 0


def test_drain_and_a_reload_keep_what_the_endpoint_asked_for(tmp_path: Path) -> None:
    record_backlog(tmp_path, 5)
    with Server(answer(503, headers={"Retry-After": "600"})) as server:
        asked = Asked(write_config(tmp_path, "/dev/none", server.url))
        with started(asked.config) as daemon:
            daemon.wait_for_line("cannot deliver")
            assert asked.refused("drain")[0] == 69
            daemon.send(signal.SIGHUP)
            daemon.wait_for_line("reloaded")
            assert asked.refused("drain")[0] == 69
            assert 0 < asked.json("status")["upload"]["next_attempt_s"] <= 601
        assert len(server.requests) == 1


def test_ctrl_c_in_a_drain_leaves_nothing_leased(tmp_path: Path) -> None:
    record_backlog(tmp_path, 5)
    with Server(hang()) as server:
        config = write_config(tmp_path, "/dev/none", server.url, upload={"timeout": "5min"})
        with agent("drain", "--config", str(config)) as drain:
            server.wait_for(lambda s: bool(s.requests))
            assert drain.end(by=signal.SIGINT) == 130
            assert "Traceback" not in drain.text()
        counts = stats(tmp_path)
        assert (counts.ready + counts.unack, counts.in_flight) == (5, 0)
        assert Asked(config).run("drain").returncode == 0
    assert set(server.ledger.values()) == {1}


# Tap


def test_tap_gives_every_byte_and_takes_none(tmp_path: Path, endpoint: Endpoint) -> None:
    drive = Drive(START_MS, interval_ms=67)
    with endpoint, simulated(tmp_path, rate_hz=15) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        with started(config) as daemon:
            listening(daemon)
            with contextlib.ExitStack() as stack:
                taps = [stack.enter_context(Tap(config)) for _ in range(3)]
                for tap in taps:
                    tap.wait_until(lambda heard: heard.count(b"\n") > 100)
                simulator.hush()
                sent = b"".join(drive.epoch(number) for number in range(simulator.sent))
                for tap in taps:
                    tap.wait_until(lambda heard: sent[-1000:] in heard)
            assert endpoint.wait_for(simulator.sent, 60)
            assert daemon.end() == 0
        times = [time for _, _, time in endpoint.received()]
    assert len(set(times)) == len(times) == simulator.sent
    for tap in taps:
        whole = tap.heard[tap.heard.index(b"\n") + 1 :]  # the first line may be cut
        end = whole.index(sent[-1000:]) + 1000  # an epoch may still be on its way
        assert sent.endswith(whole[:end])


class Tap(subprocess.Popen[bytes]):
    """Its output is read at once, because a tap drops lines that are not read."""

    def __init__(self, config: Path) -> None:
        argv = [*AGENT, "tap", "--config", str(config)]
        super().__init__(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment())
        self.heard = b""
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._reader.join()
        self.wait()

    def wait_until(self, said: Callable[[bytes], bool]) -> None:
        with self._news:
            assert self._news.wait_for(lambda: said(self.heard), 120), self.heard[-2000:]

    def _read(self) -> None:
        assert self.stdout
        while data := os.read(self.stdout.fileno(), 65536):
            with self._news:
                self.heard += data
                self._news.notify_all()


def test_a_tap_that_does_not_read_holds_up_no_fix(tmp_path: Path, endpoint: Endpoint) -> None:
    with endpoint, simulated(tmp_path, 3000, rate_hz=0) as simulator:
        config = write_config(tmp_path, str(tmp_path / "later"), endpoint.url)
        with started(config) as daemon:
            listening(daemon)
            with socket.socket(socket.AF_UNIX) as tap:
                tap.connect(str(tmp_path / "queue.db.sock"))
                tap.sendall(b'{"ask":"tap"}\n')
                assert b'"state": "absent"' in tap.recv(4096)
                (tmp_path / "later").symlink_to(simulator.device)
                assert endpoint.wait_for(3000, 60)
                tap.settimeout(60)
                heard = b""
                while b"dropped_bytes" not in heard:  # sent as soon as the tap reads
                    more = tap.recv(1 << 20)
                    assert more
                    heard += more
            assert daemon.end() == 0
        assert endpoint.count() == 3000


def test_tap_ends_after_its_time_and_needs_a_daemon(tmp_path: Path) -> None:
    with simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), "http://127.0.0.1:9/")
        asked = Asked(config)
        status, line = asked.refused("tap")
        assert (status, "no agent is running" in line) == (1, True)
        with started(config):
            while not asked.json("status")["receiver"]["fixes"]:
                pass
            result = asked.run("tap", "--for", "3s", "--json")
            with Path("/dev/full").open("wb") as full:  # its note about the receiver is lost
                argv = [*AGENT, "tap", "--for", "0.1s", "--config", str(config)]
                done = subprocess.run(argv, stderr=full, env=environment(), check=False)
            assert done.returncode == 0
    assert result.returncode == 0
    lines = [json.loads(line)["line"] for line in result.stdout.splitlines()]
    assert any(line.startswith("$GNGGA") for line in lines)


# Permissions


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that another user can enter, unlike pytest's folders."""
    if os.geteuid() != 0:
        if "CI" in os.environ:
            pytest.fail("these tests need root")
        pytest.skip("only root can be another user")
    folder = Path(tempfile.mkdtemp(prefix="telemetry-agent-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def ask_as(
    config: Path,
    *args: str,
    user: int = NOBODY,
    groups: list[int],
    env: Mapping[str, str] = {},
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        as_another(*args, "--config", str(config), user=user, groups=groups),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(env),
    )


MANAGING = [
    ["queue", "list"],
    ["queue", "retry", "--all"],
    ["queue", "discard", "--all", "--yes"],
    ["queue", "resend", "--since", "1h"],
    ["drain"],
    ["tap", "--for", "100ms"],
    ["export", "--format", "csv"],
]


def test_strangers_may_look_and_no_more(public_folder: Path) -> None:
    record_backlog(public_folder, 3)
    with AckQueue(public_folder / "queue.db") as queue:
        batch = queue.lease(3)
        assert batch is not None
        queue.ack(batch, rejected={2: "400: bad fix"})
    with Server(then=answer()) as server:
        config = write_config(public_folder, "/dev/none", server.url)
        with started(config) as daemon:
            for command in (["status"], ["queue", "stats"]):
                assert ask_as(config, *command, groups=[]).returncode == 0
            for command in MANAGING:
                result = ask_as(config, *command, groups=[])
                assert result.returncode == 1, command
                assert "only root and the agent's user and group" in result.stderr
                assert result.stderr.count("\n") == 1
            assert stats_of(config)["ack_failed"] == 1
            for command in MANAGING:
                result = ask_as(config, *command, groups=[os.getegid()])
                assert result.returncode == 0, result.stderr
            assert daemon.end() == 0
        result = ask_as(config, "status", groups=[])
        assert result.returncode == 0
        assert "no agent runs\nno permission to open" in result.stdout
        result = ask_as(config, "queue", "stats", groups=[])
        assert result.returncode == 1
        assert "use sudo" in result.stderr


def test_strangers_see_no_position_no_path_and_no_text_of_the_endpoint(public_folder: Path) -> None:
    said = answer(400, b"lat 48.117 is out of range")
    with simulated(public_folder, rate_hz=10) as simulator, Server(then=said) as server:
        url = f"{server.url}secret-path?place=home"
        config = write_config(public_folder, str(simulator.device), url)
        runtime = {"RUNTIME_DIRECTORY": str(public_folder)}
        with started(config, env=runtime) as daemon:
            daemon.wait_for_line("out of range")
            config.chmod(0o600)
            for command in (["status"], ["queue", "stats"]):
                for form in ([], ["--json"]):
                    seen = ask_as(config, *command, *form, groups=[], env=runtime)
                    assert seen.returncode == 0, seen.stderr
                    for text in ("secret", "place", "home", "range", "lat"):
                        assert text not in seen.stdout.replace("late", ""), (command, text)
                    place = re.search(r"\b(48\.[12]\d|11\.5\d\d)", seen.stdout)  # 48.2 kB, 11.52 Hz
                    assert place is None, (command, place)
            assert "van-07" in ask_as(config, "status", groups=[], env=runtime).stdout
            refused = ask_as(config, "export", "--format", "csv", groups=[], env=runtime)
            assert "use sudo, or join the group telemetry-agent" in refused.stderr
            assert daemon.end() == 0


def test_the_service_answers_for_its_own_queue_alone(tmp_path: Path) -> None:
    runtime = {"RUNTIME_DIRECTORY": str(tmp_path)}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with started(config, env=runtime):
        assert not (tmp_path / "queue.db.sock").exists()
        told = run_agent("status", "--json", "--config", str(config), env=runtime)
        assert json.loads(told.stdout)["running"]
        other = tmp_path / "other"
        other.mkdir()
        another = write_config(other, "/dev/none", "http://127.0.0.1:9/")
        told = run_agent("status", "--json", "--config", str(another), env=runtime)
        assert not json.loads(told.stdout)["running"]


def stats_of(config: Path) -> Any:
    return Asked(config).json("queue", "stats")


def test_the_services_user_and_root_may_do_all(public_folder: Path) -> None:
    user = 54321
    os.chown(public_folder, user, user)
    config = write_config(public_folder, "/dev/none", "http://127.0.0.1:9/")
    run = as_another("run", "--config", str(config), user=user, group=user, groups=[])
    with running(*run) as daemon:
        daemon.wait_for_line("records van-07")
        for command in (["queue", "list"], ["queue", "retry", "--all"], ["drain"]):
            assert run_agent(*command, "--config", str(config)).returncode == 0
            assert ask_as(config, *command, user=user, groups=[]).returncode == 0
            assert ask_as(config, *command, groups=[user]).returncode == 0
            assert ask_as(config, *command, groups=[]).returncode == 1


def test_a_secret_that_is_taken_away_while_it_runs_is_reported_at_once(public_folder: Path) -> None:
    user = 54321
    token = public_folder / "token"
    token.write_text("sesame-1234567890")
    token.chmod(0o644)
    os.chown(public_folder, user, user)
    with simulated(public_folder, rate_hz=10) as simulator, Server() as server:
        simulator.device.chmod(0o666)
        upload = {"token_file": str(token)}
        config = write_config(public_folder, str(simulator.device), server.url, upload=upload)
        run = as_another("run", "--config", str(config), user=user, group=user, groups=[])
        with running(*run) as daemon:
            daemon.wait_for_line("records van-07")
            server.wait_for(lambda *_: len(server.ledger) > 10, 60)
            assert not any("cannot read" in line for line in daemon.err)
            token.chmod(0o600)
            daemon.wait_for_line(
                f"upload.token_file: cannot read {token}: Permission denied; "
                "still using the previous contents"
            )
            token.chmod(0o644)
            daemon.wait_for_line(f"read {token} again")
            assert daemon.end() == 0


SERVICE = 12345


@pytest.fixture
def services_folder(public_folder: Path) -> Path:
    """A folder of another user, with a queue in it."""
    folder = public_folder / "state"
    folder.mkdir()
    record_backlog(folder, 3)
    for path in (folder, *folder.iterdir()):
        os.chown(path, SERVICE, SERVICE)
    return folder


def config_for(folder: Path) -> Path:
    """A config beside the folder of the queue."""
    queue = {"path": str(folder / "queue.db")}
    return write_config(folder.parent, "/dev/none", "http://127.0.0.1:9/", queue=queue)


def owners(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["queue", "stats"], 0),
        (["queue", "list"], 0),
        (["queue", "verify"], 0),
        (["queue", "retry", "--all"], 0),
        (["queue", "discard", "--all", "--yes"], 0),
        (["queue", "resend", "--since", "1h"], 0),
        (["status"], 0),
        (["drain"], 69),
        (["export", "--format", "csv"], 0),
        (["doctor"], 1),
    ],
    ids=str,
)
def test_nothing_in_the_services_folder_becomes_roots(
    command: list[str], status: int, services_folder: Path
) -> None:
    config = config_for(services_folder)
    (services_folder / "queue.db.lock").unlink()  # so there is a file to create
    result = ask_as(config, *command, user=0, groups=[])
    assert result.returncode == status, result.stderr
    for name, owner in owners(services_folder).items():
        assert owner == (SERVICE, SERVICE), name


def test_a_damaged_queue_is_set_aside_by_the_services_user(services_folder: Path) -> None:
    config = config_for(services_folder)
    (services_folder / "queue.db").write_bytes(b"no queue" * 1000)
    assert ask_as(config, "queue", "retry", "--all", user=0, groups=[]).returncode == 0
    found = owners(services_folder)
    assert any("foreign" in name for name in found)
    assert set(found.values()) == {(SERVICE, SERVICE)}


def test_root_exports_into_a_folder_of_roots(services_folder: Path, tmp_path: Path) -> None:
    config = config_for(services_folder)
    tmp_path.chmod(0o700)
    track = tmp_path / "track.csv"
    (services_folder / "queue.db.lock").unlink()
    result = ask_as(config, "export", "--output", str(track), user=0, groups=[])
    assert result.returncode == 0, result.stderr
    assert len(track.read_text().splitlines()) == 4
    assert owners(tmp_path)["track.csv"][0] == 0
    assert set(owners(services_folder).values()) == {(SERVICE, SERVICE)}


def test_a_symlink_of_the_services_user_leads_root_nowhere(services_folder: Path) -> None:
    """Such a link could create a queue where only root may write; root's own links are followed."""
    public_folder = services_folder.parent
    roots = public_folder / "roots"
    roots.mkdir(0o755)
    shutil.copy(services_folder / "queue.db", roots / "queue.db")
    link = public_folder / "link"
    config = config_for(link)
    link.symlink_to(roots)
    os.lchown(link, SERVICE, SERVICE)
    result = ask_as(config, "queue", "stats", user=0, groups=[])
    assert result.returncode == 1
    assert "may not read" in result.stderr
    assert [path.name for path in roots.iterdir()] == ["queue.db"]
    link.unlink()
    link.symlink_to("state")
    (services_folder / "queue.db.lock").unlink()
    assert ask_as(config, "queue", "stats", user=0, groups=[]).returncode == 0
    assert set(owners(services_folder).values()) == {(SERVICE, SERVICE)}


def test_run_by_the_wrong_user_it_says_what_to_do(public_folder: Path) -> None:
    config = write_config(public_folder, "/dev/none", "http://127.0.0.1:9/")
    for path in (public_folder / "queue.db", public_folder / "not" / "there" / "queue.db"):
        config.write_text(config.read_text().replace(str(public_folder / "queue.db"), str(path)))
        done = ask_as(config, "run", groups=[])
        assert done.returncode == 74
        said = done.stderr.splitlines()[-1]
        assert re.search("permission denied[:;] run it as a user who may", said, re.IGNORECASE)


def test_strangers_leave_room_for_the_service(public_folder: Path) -> None:
    config = write_config(public_folder, "/dev/none", "http://127.0.0.1:9/")
    crowd = (
        "import os, socket, sys\n"
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "made = [socket.socket(socket.AF_UNIX) for _ in range(30)]\n"
        "for sock in made: sock.connect(sys.argv[1])\n"
        "print('here', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with started(config) as daemon:
        listening(daemon)
        strangers = subprocess.Popen(
            [AGENT[0], "-c", crowd, str(public_folder / "queue.db.sock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert strangers.stdout
            assert strangers.stdout.readline() == b"here\n"
            assert Asked(config).run("queue", "list").returncode == 0
        finally:
            strangers.communicate()


# Reports


def test_the_agent_reports_with_and_without_fixes(tmp_path: Path, endpoint: Endpoint) -> None:
    with endpoint, simulated(tmp_path, 60) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        with started(config) as daemon:
            assert endpoint.wait_for(60, 60)
            (told,) = endpoint.store.agents()
            assert told["device"] == "van-07"
            assert told["stream"] == endpoint.received()[0][0]
            report = told["agent"]
            assert (report["receiver"], report["upload"]) == ("3d", "ok")
            assert (report["lost"], report["dead_letters"]) == ({}, 0)
            assert report["disk_free"] > 0
            assert daemon.end() == 0
    with Server() as server:
        config = write_config(tmp_path, "/dev/none", server.url)
        with started(config):
            server.wait_for(lambda s: bool(s.requests), 60)
        request = server.requests[0]
        assert request.json["fixes"] == []
        assert request.json["agent"]["receiver"] == "absent"
        assert request.headers["idempotency-key"]
