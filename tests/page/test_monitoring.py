"""docs/monitoring in Prometheus: the rules, their tests, and every query of the dashboard."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from polling import wait_until
from ports import free_port
from processes import ROOT, running
from rig import simulated, started, write_config

from telemetry_agent.lab.endpoint import Endpoint

MONITORING = ROOT / "docs/monitoring"


def require(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip("needs Debian's prometheus")
    return found


@pytest.mark.once("promtool reads files of this repository; the agent does not run")
def test_promtool_finds_no_fault_and_the_rules_pass_their_tests() -> None:
    promtool = require("promtool")
    for words in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run(
            [promtool, *words], cwd=MONITORING, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    rules = (MONITORING / "alerts.yml").read_text()
    tested = (MONITORING / "alerts_test.yml").read_text()
    names = [line.split(": ")[1] for line in rules.splitlines() if "- alert:" in line]
    assert len(names) == 12
    assert all(f"alertname: {name}\n" in tested for name in names)


def test_every_query_of_the_dashboard_gives_series(tmp_path: Path) -> None:
    prometheus, page_port, port = require("prometheus"), free_port(), free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: 200ms, evaluation_interval: 1s}}\n"
        f"rule_files: [{MONITORING}/alerts.yml]\n"
        "scrape_configs:\n- job_name: telemetry-agent\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{page_port}']}}]\n"
    )
    base = f"http://127.0.0.1:{port}/api/v1"

    def ask(path: str, **asked: str) -> Any:
        with urllib.request.urlopen(
            f"{base}/{path}?{urllib.parse.urlencode(asked)}", timeout=60
        ) as answer:
            return json.load(answer)["data"]

    def is_answered(query: str, expected: bool) -> bool:
        return bool(ask("query", query=query)["result"]) == expected

    with (
        Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint,
        simulated(tmp_path),
    ):
        page = {"listen": f"127.0.0.1:{page_port}"}
        agent = write_config(tmp_path, str(tmp_path / "gps"), endpoint.url, page=page)
        with (
            started(agent) as daemon,
            running(
                prometheus,
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ) as server,
        ):
            daemon.wait_for_line("the page is at")
            server.wait_for_line("ready to receive web requests", 60)
            board = json.loads((MONITORING / "dashboard.json").read_text())
            for panel in board["panels"]:
                for target in panel["targets"]:
                    query = target["expr"].replace("$instance", ".*")
                    # If all is well, "Uploads not ok" has no result. Other series need samples, and
                    # the age of the oldest position exists only while one is pending.
                    expected = panel["title"] != "Uploads not ok"
                    wait_until(partial(is_answered, query, expected))
            groups = ask("rules")["groups"]
            assert [rule["lastError"] for rule in groups[0]["rules"] if "lastError" in rule] == []
            server.end()
