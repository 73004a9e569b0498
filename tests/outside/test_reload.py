"""SIGHUP: a changed config is applied without losing a fix, or refused with a message."""

import json
import re
import signal
import threading
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from ackqueue import damage
from misbehaving import Act, Line, Request, Server, answer, hang, refusing
from ports import free_port
from processes import ROOT, run_agent
from rig import simulated, started, write_config

from telemetry_agent.lab.endpoint import Endpoint


def test_a_changed_name_and_url_lose_nothing(tmp_path: Path) -> None:
    old = Endpoint("127.0.0.1:0", tmp_path / "old.db")
    new = Endpoint("127.0.0.1:0", tmp_path / "new.db")
    with old, new, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), old.url)
        with started(config) as agent:
            assert old.wait_for(20, 60), agent.text()
            text = config.read_text().replace(old.url, new.url).replace("van-07", "van-08")
            config.write_text(text)
            agent.send(signal.SIGHUP)
            agent.wait_for_line("reloaded: records van-08")
            assert new.wait_for(20, 60), agent.text()
            simulator.hush()
            assert new.wait_for(simulator.sent - old.count(), 60)
            assert agent.end() == 0
        names = [(stream, seq) for store in (old, new) for stream, seq, _ in store.received()]
        times = {time for store in (old, new) for _, _, time in store.received()}
        assert len(set(names)) == len(times) == simulator.sent


def test_a_wrong_config_keeps_the_old_one(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        with started(config) as agent:
            assert endpoint.wait_for(5, 60), agent.text()
            config.write_text(config.read_text() + "\n[upload]\nurl = 3\n")
            agent.send(signal.SIGHUP)
            agent.wait_for_line(
                "the previous config stays in effect: the config .* is not valid TOML"
            )
            assert endpoint.wait_for(endpoint.count() + 20, 60)
            assert agent.end() == 0


def test_commands_reach_the_service_whose_next_queue_is_another(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    env = {"RUNTIME_DIRECTORY": str(tmp_path / "run")}
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with started(config, env) as agent:
        config.write_text(config.read_text().replace("queue.db", "other.db"))
        agent.send(signal.SIGHUP)
        agent.wait_for_line("reloaded")
        for command in (["status"], ["queue", "stats"]):
            done = run_agent(*command, "--json", "--config", str(config), env=env)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout).get("running", True)
        config.write_text(config.read_text().replace("other.db", "foreign.db"))
        done = run_agent("status", "--json", "--config", str(config), env=env)
        assert not json.loads(done.stdout)["running"]
        assert agent.end() == 0


def test_a_config_process_that_is_killed_keeps_the_old_config_and_at_the_start_is_no_wrong_one(
    tmp_path: Path,
) -> None:
    kill = tmp_path / "kill"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "reads_config = 'telemetry_agent.config.subprocess_loader' in sys.orig_argv\n"
        f"if reads_config and os.path.exists('{kill}'):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        with started(config, env) as agent:
            assert endpoint.wait_for(5, 60), agent.text()
            kill.touch()
            agent.send(signal.SIGHUP)
            agent.wait_for_line(
                "the previous config stays in effect: config: the process .* was killed: Killed"
            )
            assert endpoint.wait_for(endpoint.count() + 20, 60)
            assert agent.end() == 0
        result = run_agent("run", "--config", str(config), env=env)
        assert result.returncode == 71
        assert result.stderr == (
            "telemetry-agent: config: the process that reads it was killed: Killed\n"
        )


def test_another_queue_waits_for_the_next_start(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        with started(config) as agent:
            config.write_text(config.read_text().replace("queue.db", "other.db"))
            agent.send(signal.SIGHUP)
            agent.wait_for_line(r"\[queue\] has changed: that takes effect at the next start")
            agent.wait_for_line(r"reloaded: records .* into \S+/queue.db")
            name = "TELEMETRY_AGENT_QUEUE__PATH"
            said = re.search(f"until then, ask with {name}=(.*)", agent.text())
            assert said is not None
            env = {name: said[1]}
            stats = run_agent("queue", "stats", "--json", "--config", str(config), env=env)
            assert stats.returncode == 0, stats.stderr
            assert endpoint.wait_for(endpoint.count() + 20, 60)
            assert agent.end() == 0
        assert not (tmp_path / "other.db").exists()


def test_a_changed_receiver_is_opened(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, "/dev/none", endpoint.url)
        with started(config) as agent:
            agent.wait_for_line("/dev/none: no such device")
            config.write_text(config.read_text().replace("/dev/none", str(simulator.device)))
            agent.send(signal.SIGHUP)
            assert endpoint.wait_for(20, 60), agent.text()
            assert agent.end() == 0


def test_the_page_is_turned_on_moved_and_refused_to_strangers(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/")
    with started(config) as agent:
        without = config.read_text()
        for port in (first, second):
            config.write_text(f'{without}\n[page]\nlisten = "127.0.0.1:{port}"\n')
            agent.send(signal.SIGHUP)
            agent.wait_for_line(f"the page is at http://127.0.0.1:{port}/")
            assert urlopen(f"http://127.0.0.1:{port}/history", timeout=60).status == 200
        with pytest.raises(URLError):
            urlopen(f"http://127.0.0.1:{first}/history", timeout=60)
        config.write_text(f'{without}\n[page]\nlisten = "0.0.0.0:{first}"\n')
        agent.send(signal.SIGHUP)
        agent.wait_for_line("no page at http://0.0.0.0:.*: page.listen: everyone who reaches 0.0")
        with pytest.raises(URLError):
            urlopen(f"http://127.0.0.1:{first}/history", timeout=60)
        assert agent.end() == 0


def test_what_was_held_goes_on_at_once(tmp_path: Path) -> None:
    with Server(then=answer(401)) as wrong, simulated(tmp_path) as simulator:
        endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
        with endpoint:
            config = write_config(
                tmp_path, str(simulator.device), wrong.url, upload={"backoff_max": "1h"}
            )
            with started(config) as agent:
                agent.wait_for_line("uploads are held")
                config.write_text(config.read_text().replace(wrong.url, endpoint.url))
                agent.send(signal.SIGHUP)
                assert endpoint.wait_for(20, 60), agent.text()
                agent.wait_for_line("delivering again")
                assert agent.end() == 0


def status(config: Path) -> Any:
    return json.loads(run_agent("status", "--json", "--config", str(config)).stdout)


def test_in_the_search_for_refused_fixes_it_strands_none(tmp_path: Path) -> None:
    damage.fill(tmp_path / "queue.db", 1000)
    bad = set(range(25, 1000, 50))
    searching, reloaded = threading.Event(), threading.Event()

    def slowly(line: Line, request: Request) -> bool | None:
        if len(line.server.requests) > 3:
            searching.set()
            reloaded.wait(1)
        return refusing(bad).run(line, request)

    with Server(then=Act(slowly)) as server:
        config = write_config(tmp_path, "/dev/none", server.url)
        with started(config) as agent:
            assert searching.wait(60)
            agent.send(signal.SIGHUP)
            agent.wait_for_line("reloaded")
            assert len(server.ledger) < 1000 - len(bad), "the search was over before the reload"
            reloaded.set()
            server.wait_for(lambda s: len(s.ledger) == 1000 - len(bad), limit_s=60)
            assert agent.end() == 0
        # The last bad fixes wait for an accepted fix; no fix is forgotten.
        left = status(config)["queue"]
        assert left["in_flight"] == 0
        assert left["pending"] + sum(left["dead_letters"].values()) == len(bad)


def test_with_a_request_in_flight_it_strands_none(tmp_path: Path) -> None:
    damage.fill(tmp_path / "queue.db", 300)
    taken = threading.Event()

    def stored_without_an_answer(line: Line, request: Request) -> bool | None:
        taken.set()
        return hang(store=True).run(line, request)

    with Server(Act(stored_without_an_answer)) as server:
        config = write_config(tmp_path, "/dev/none", server.url, upload={"timeout": "5min"})
        with started(config) as agent:
            assert taken.wait(60)
            agent.send(signal.SIGHUP)
            agent.wait_for_line("reloaded")
            server.wait_for(lambda s: len(s.ledger) == 300, limit_s=60)  # before the time-out
            assert agent.end() == 0
        left = status(config)["queue"]
        assert (left["in_flight"], left["pending"], left["dead_letters"]) == (0, 0, {})


def upload_status(config: Path) -> Any:
    return status(config)["upload"]


def test_an_outage_does_not_end_by_it(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), endpoint.url)
        with started(config) as agent:
            assert endpoint.wait_for(5, 60), agent.text()
            endpoint.disconnect()
            agent.wait_for_line("cannot deliver")
            before = upload_status(config)
            agent.send(signal.SIGHUP)
            agent.wait_for_line("reloaded")
            after = upload_status(config)
            for key in ("delivered", "requests", "failed_requests", "sent_bytes"):
                assert after[key] >= before[key] > 0
            assert after["state"] == before["state"] == "unreachable"
            endpoint.reconnect()
            agent.wait_for_line("delivering again after .*failures: [1-9]")
            assert agent.end() == 0
        assert agent.text().count("cannot deliver") == 1


def test_another_endpoint_that_is_not_there_either_is_told(tmp_path: Path) -> None:
    with simulated(tmp_path) as simulator:
        config = write_config(tmp_path, str(simulator.device), "http://127.0.0.1:9/")
        with started(config) as agent:
            agent.wait_for_line("cannot deliver .*127.0.0.1:9;")
            config.write_text(config.read_text().replace("127.0.0.1:9", "127.0.0.2:9"))
            agent.send(signal.SIGHUP)
            agent.wait_for_line("cannot deliver .*127.0.0.2:9;")
            assert agent.end() == 0
