"""How a real agent logs an outage, and in which form."""

import fcntl
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from processes import AGENT, agent, environment
from rig import simulated, write_config

from telemetry_agent.lab.endpoint import Endpoint


def test_an_outage_is_two_lines_of_json_with_state_and_count(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(
            tmp_path, str(simulator.device), endpoint.url, log={"level": "info", "format": "json"}
        )
        with agent("run", "--config", str(config)) as daemon:
            assert endpoint.wait_for(5, 60), daemon.text()
            endpoint.disconnect()
            daemon.wait_for_line("cannot deliver")
            endpoint.reconnect()
            daemon.wait_for_line("delivering again")
            assert daemon.end() == 0
    said = [json.loads(line) for line in daemon.err]
    assert {line["device"] for line in said} == {"van-07"}
    first, gzip, begin, end, *stop = [
        (line["level"], line["fields"], line["message"]) for line in said
    ]
    assert first[:2] == ("info", {})
    assert "unpacks gzip" in gzip[2]
    assert begin[:2] == ("warning", {"STATE": "unreachable"})
    assert re.fullmatch(r"cannot deliver \(unreachable\): .+; trying again", begin[2])
    match = re.fullmatch(r"delivering again after \d+ s \(failures: (\d+)\)", end[2])
    assert match
    assert end[:2] == ("info", {"STATE": "ok", "COUNT": int(match[1])})
    assert [message.split(" ")[0] for _, _, message in stop] == ["stopping", "stopped:"]


def test_a_standard_error_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    with endpoint, simulated(tmp_path) as simulator, os.fdopen(read_end) as pipe:
        config = write_config(tmp_path, str(simulator.device), endpoint.url, log={"format": "json"})
        # At this level, the agent logs each millisecond that every thread is in time.
        env = environment({"WATCHDOG_USEC": "2000"})
        daemon = subprocess.Popen(
            [*AGENT, "run", "--config", str(config)], stderr=write_end, env=env
        )
        os.close(write_end)
        try:
            assert endpoint.wait_for(200, 60)
            said: list[dict[str, Any]] = []
            while not said or "dropped" not in said[-1]["message"]:
                said.append(json.loads(pipe.readline()))
            assert said[-1]["fields"]["COUNT"] > 0
            assert re.fullmatch(
                r"[\d,]+ log lines were dropped: standard error was not read", said[-1]["message"]
            )
            said.append(json.loads(pipe.readline()))  # logging goes on
            assert [line["time"] for line in said] == sorted(line["time"] for line in said)
            assert endpoint.wait_for(endpoint.count() + 40, 60)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(60) == 0
        finally:
            daemon.kill()
            daemon.wait()
