"""A real agent on randomly corrupted queues: it records, delivers, and ends."""

import pytest
from ackqueue.corrupted_agent import prove_agent
from ackqueue.corruption import STATES, Stock, make
from once import mostly_once

CASES = 30
LIMIT_S = 60.0  # 2 s on a quiet machine


@pytest.fixture(scope="module")
def stocks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stock]:
    folder = tmp_path_factory.mktemp("stocks")
    return {state: make(state, folder / state.replace(" ", "-")) for state in STATES}


@pytest.mark.parametrize("seed", mostly_once(range(CASES), 10))
def test_an_agent_on_a_corrupted_queue_records_and_ends(
    stocks: dict[str, Stock], seed: int
) -> None:
    prove_agent(stocks, seed, LIMIT_S)
