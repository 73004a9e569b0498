"""What the log of a real agent says of an outage, and in which form."""

import json
import re
from pathlib import Path

from processes import agent
from rig import simulated, write_config

from telemetry_agent.lab.endpoint import Endpoint


def test_an_outage_is_two_lines_of_json_with_state_and_count(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1:0", tmp_path / "received.db")
    with endpoint, simulated(tmp_path) as simulator:
        config = write_config(
            tmp_path, str(simulator.device), endpoint.url, log={"level": "info", "format": "json"}
        )
        with agent("run", "--config", str(config)) as daemon:
            assert endpoint.wait_for(5, 20), daemon.text()
            endpoint.disconnect()
            daemon.wait_for_line("cannot deliver")
            endpoint.reconnect()
            daemon.wait_for_line("delivering again")
            assert daemon.end() == 0
    said = [json.loads(line) for line in daemon.err]
    assert {line["device"] for line in said} == {"van-07"}
    first, begin, end, *stop = [(line["level"], line["fields"], line["message"]) for line in said]
    assert first[:2] == ("info", {})
    assert begin[:2] == ("warning", {"STATE": "unreachable"})
    assert re.fullmatch(r"cannot deliver \(unreachable\): .+; trying again", begin[2])
    match = re.fullmatch(r"delivering again after \d+ s \(failures: (\d+)\)", end[2])
    assert match
    assert end[:2] == ("info", {"STATE": "ok", "COUNT": int(match[1])})
    assert [message.split(" ")[0] for _, _, message in stop] == ["stopping", "stopped:"]
