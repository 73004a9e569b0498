"""A part of the corruption proof. ``benchmarks/corruption.py`` runs all of it."""

import pytest
from ackqueue.corruption import STATES, Stock, make, prove_queue
from once import mostly_once

CASES, PARTS = 300, 10
LIMIT_S = 60.0  # 2 s on an idle machine; machines and their load differ


@pytest.fixture(scope="module")
def stocks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stock]:
    folder = tmp_path_factory.mktemp("stocks")
    return {state: make(state, folder / state.replace(" ", "-")) for state in STATES}


@pytest.mark.parametrize("part", mostly_once(range(PARTS), 1))
def test_random_corruption_is_survived_and_counted(stocks: dict[str, Stock], part: int) -> None:
    for seed in range(part * CASES // PARTS, (part + 1) * CASES // PARTS):
        prove_queue(stocks, seed, LIMIT_S)
