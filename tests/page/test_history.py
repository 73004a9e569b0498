"""The last hours in bounded memory."""

from itertools import pairwise

from telemetry_agent.page.history import History, Sample


def filled(seconds: int) -> History:
    history = History()
    for second in range(seconds):
        if history.due_s() <= second:
            history.add(Sample(second, second, 2 * second))
    return history


def test_a_young_agent_is_seen_each_second() -> None:
    assert [sample.uptime_s for sample in filled(600).samples] == list(range(600))


def test_an_older_one_from_its_start_in_larger_steps() -> None:
    history = filled(4 * 3600)
    times = [sample.uptime_s for sample in history.samples]
    assert times[0] == 0
    assert times[-1] > 4 * 3600 - 64
    assert 360 <= len(times) <= 720
    assert len({later - sooner for sooner, later in pairwise(times)}) <= 2


def test_an_old_one_for_twelve_hours() -> None:
    history = filled(5 * 86400)
    times = [sample.uptime_s for sample in history.samples]
    assert len(times) == 720
    assert times[-1] - times[0] >= 12 * 3600
    assert times[-1] > 5 * 86400 - 65
