"""A real agent on queues that were corrupted at random: it records, delivers, and ends."""

import json
import random
import shutil
from pathlib import Path

import pytest
from ackqueue.corruption import LOG_LINES_MAX, STATES, Stock, corrupt, make
from misbehaving import Server
from processes import run_agent
from rig import simulated, started, write_config

CASES = 30


@pytest.fixture(scope="module")
def stocks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stock]:
    folder = tmp_path_factory.mktemp("stocks")
    return {state: make(state, folder / state.replace(" ", "-")) for state in STATES}


@pytest.mark.parametrize("seed", range(CASES))
def test_an_agent_on_a_corrupted_queue_records_and_ends(
    tmp_path: Path, stocks: dict[str, Stock], seed: int
) -> None:
    draw = random.Random(seed)
    stock = stocks[draw.choice(STATES)]
    shutil.copytree(stock.folder, tmp_path, dirs_exist_ok=True)
    done = corrupt(tmp_path, draw)
    with simulated(tmp_path, rate_hz=10) as simulator, Server() as server:
        config = write_config(tmp_path, str(simulator.device), server.url)
        with started(config) as agent:
            server.wait_for(lambda s: any(name not in stock.records for name in s.ledger))
            status = json.loads(run_agent("status", "--json", "--config", str(config)).stdout)
            assert agent.end() == 0, done
        text = "\n".join([*agent.out, *agent.err])
    old = {stream for stream, _ in stock.records}
    assert {name for name in server.ledger if name[0] in old} <= stock.records.keys(), done
    assert status["queue"], done
    assert "Traceback" not in text, done
    lines = [line for line in text.splitlines() if "ERROR" in line or "WARNING" in line]
    assert len(lines) <= LOG_LINES_MAX, done
