"""``doctor`` as a user runs it: with a running agent, without one, and if everything is wrong."""

import contextlib
import json
from pathlib import Path

from misbehaving import Server, swallowed_syn
from processes import run_agent
from rig import committed, simulated, started, write_config

from telemetry_agent.clock import Clock
from telemetry_agent.doctor.checks import NAMES


def test_beside_a_running_agent_it_asks_that(tmp_path: Path) -> None:
    with Server() as server, simulated(tmp_path, rate_hz=2) as receiver:
        config = write_config(tmp_path, str(receiver.device), server.url)
        with started(config) as daemon:
            server.wait_for(lambda s: bool(s.ledger))
            result = run_agent("doctor", "--config", str(config), "--json")
            sent = run_agent("doctor", "--config", str(config), "--json", "--send")
            assert daemon.end() == 0
            assert not [line for line in daemon.err if "WARN" in line or "ERROR" in line]
    report = json.loads(result.stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert tuple(found) == NAMES
    assert str(daemon.process.pid) in found["agent"]["said"]
    assert "which is asked" in found["port in use"]["said"]
    for name in ("agent", "sentences", "fix", "queue", "tcp", "authentication", "answer"):
        assert found[name]["verdict"] == "pass", found
    assert found["delivery"]["said"].startswith("ok: last delivery")
    assert (result.returncode, report["verdict"]) in {(0, "warn"), (0, "pass")}
    by_name = {check["name"]: check for check in json.loads(sent.stdout)["checks"]}
    assert by_name["answer"]["said"] == "200: a position was accepted"
    assert set(server.ledger) <= set(committed(tmp_path / "queue.db"))  # an existing name
    assert max(server.ledger.values()) == 2
    batches = [json.loads(request.body) for request in server.requests if request.body[:1] == b"{"]
    # The doctor's own request contains no position, and its stream belongs to no agent.
    assert sum(not batch["fixes"] and "agent" not in batch for batch in batches) == 1


def test_without_an_agent_it_changes_nothing(tmp_path: Path) -> None:
    with Server() as server, simulated(tmp_path, rate_hz=2) as receiver:
        config = write_config(tmp_path, str(receiver.device), server.url)
        before = {path.name for path in tmp_path.iterdir()}
        result = run_agent("doctor", "--config", str(config))
        assert result.returncode == 0, result.stdout + result.stderr
        assert {path.name for path in tmp_path.iterdir()} == before
    assert result.stderr == ""
    assert "! warn  agent " in result.stdout
    assert "\n✔ pass  fix " in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Nothing failed, ")


def test_it_is_done_in_15_s_though_nothing_answers(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(simulated(tmp_path, epochs=0))
        port = stack.enter_context(swallowed_syn())
        config = write_config(
            tmp_path,
            str(receiver.device),
            f"https://127.0.0.1:{port}/",
            upload={"timeout": "2s"},
        )
        clock = Clock()
        began_s = clock.monotonic_s()
        result = run_agent("doctor", "--config", str(config))
        assert clock.monotonic_s() - began_s < 60  # takes 15 s on an idle machine
    assert result.returncode == 1
    assert "✘ fail  sentences        no data from" in result.stdout
    assert "✘ fail  tcp " in result.stdout
    assert "- skip  answer           needs tcp" in result.stdout
    assert " failed, " in result.stdout.splitlines()[-1]


def test_a_wrong_config_is_a_finding(tmp_path: Path) -> None:
    config = write_config(tmp_path, "/dev/none", "http://127.0.0.1:9/", upload={"timout": 3})
    result = run_agent("doctor", "--config", str(config))
    assert result.returncode == 1
    first, remedy, *skips, _, summary = result.stdout.splitlines()
    assert first.startswith("✘ fail  config ")
    assert "did you mean upload.timeout?" in first
    assert remedy.strip().startswith("→ correct it")
    assert len(skips) == len(NAMES) - 1
    assert all(line.startswith("- skip") for line in skips)
    assert summary.startswith("1 failed, ")
