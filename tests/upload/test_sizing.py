import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.upload.sizing import Sizing


def grown(max_batch: int = 1000) -> Sizing:
    """A sizing that has learned a good link."""
    sizing = Sizing(max_batch, 10, 30)
    while sizing.limit() < max_batch:
        sizing.took(sizing.limit(), 1000, 0.1, 0)
    return sizing


def test_the_first_batch_is_small_and_quick_answers_double_it() -> None:
    sizing = Sizing(1000, 10, 30)
    limits = [sizing.limit()]
    for _ in range(7):
        sizing.took(sizing.limit(), 1000, 4, 0)
        limits.append(sizing.limit())
    assert limits == [16, 32, 64, 128, 256, 512, 1000, 1000]
    assert Sizing(7, 10, 30).limit() == 7


def test_fresh_fixes_that_do_not_wait_leave_time_for_large_batches() -> None:
    sizing = Sizing(1000, 0, 30)
    for _ in range(7):
        sizing.took(sizing.limit(), 1000, 0.4, 0)
    assert sizing.limit() == 1000


def test_a_slow_answer_shrinks_the_next_batch_in_proportion() -> None:
    sizing = grown()
    sizing.took(1000, 1000, 25, 0)
    assert sizing.limit() == 400
    sizing.took(400, 1000, 9, 0)
    assert sizing.limit() == 400


def test_slowness_alone_shrinks_no_further_than_64_fixes() -> None:
    sizing = grown()
    for _ in range(20):
        sizing.took(sizing.limit(), 1000, 25, 0)  # a server that is slow with every batch
    assert sizing.limit() == 64
    for _ in range(4):
        sizing.took(sizing.limit(), 1000, 4, 0)
    assert sizing.limit() == 1000


def test_a_short_batch_proves_nothing_about_longer_ones() -> None:
    sizing = grown()
    sizing.took(1000, 1000, 20, 0)
    sizing.took(10, 1000, 0.1, 0)
    assert sizing.limit() == 500


def test_time_outs_shrink_batches_down_to_one_and_they_grow_while_time_is_left() -> None:
    sizing = grown()
    for _ in range(12):
        sizing.failed(sizing.limit(), 0)
    assert sizing.limit() == 1
    for _ in range(2):
        sizing.took(sizing.limit(), 1000, 14, 0)
    sizing.took(4, 1000, 16, 0)
    assert sizing.limit() == 4
    for _ in range(12):
        sizing.took(sizing.limit(), 1000, 14, 0)  # a server that is slow with every batch
    assert sizing.limit() == 64


def test_what_was_too_large_bounds_the_bytes() -> None:
    sizing = grown()
    sizing.too_large(1000, 100_000, 0)
    assert sizing.limit() == 500
    sizing.took(500, 50_000, 0.1, 1)
    assert sizing.limit() == 500
    sizing.took(400, 80_000, 0.1, 2)
    assert sizing.limit() == 250


@given(st.integers(1, 1000), st.integers(1, 2_000_000))
def test_half_of_what_was_too_large_fits(half: int, body_bytes: int) -> None:
    sizing = Sizing(2000, 10, 30)
    for now_s in range(10):
        sizing.took(sizing.limit(), body_bytes, 0.1, now_s)
    sizing.too_large(2 * half, body_bytes, 10)
    assert sizing.limit() >= min(half, 2000)


def test_once_an_hour_twice_of_what_was_too_large_is_tried() -> None:
    sizing = grown()
    sizing.too_large(800, 80_000, 0)
    limits = []
    for hour in range(3):
        sizing.took(400, 40_000, 0.1, hour * 3600 + 3599)
        limits.append(sizing.limit())
        sizing.took(400, 40_000, 0.1, hour * 3600 + 3600)
        limits.append(sizing.limit())
        if hour == 0:  # the endpoint has not changed yet
            sizing.too_large(800, 80_000, 3600)
    assert limits == [400, 800, 400, 800, 800, 1000]


def test_once_an_hour_twice_of_what_made_answers_too_long_is_tried() -> None:
    sizing = grown()
    sizing.answered_at_length(100, 1000)
    limits = [sizing.limit()]
    for now_s in (4599, 4600, 8199, 8200):
        sizing.took(sizing.limit(), 40_000, 0.1, now_s)
        limits.append(sizing.limit())
    assert limits == [100, 100, 200, 200, 400]


def test_paths_that_lose_large_packets_do_not_put_off_what_the_endpoint_may_take() -> None:
    sizing = grown()
    sizing.too_large(800, 80_000, 0)
    for now_s in (900, 1800, 2700):
        sizing.forget_failures()
        sizing.failed(400, now_s)
        sizing.took(40, 4_000, 0.1, now_s)
        sizing.failed(400, now_s)
    sizing.forget_failures()
    for _ in range(10):
        sizing.took(sizing.limit(), 100 * sizing.limit(), 0.1, 3600)
    assert sizing.limit() == 800


def test_one_giant_does_not_shrink_the_batches_of_the_others() -> None:
    sizing = grown()
    sizing.too_large(1000, 1_050_000, 0)
    sizing.too_large(1, 1_000_000, 1)
    sizing.took(1, 200, 0.1, 2)
    assert sizing.limit() == 1000


@given(
    st.integers(1, 5000),
    st.floats(0, 100),
    st.lists(
        st.tuples(
            st.sampled_from(["took", "failed", "too_large"]),
            st.integers(1, 5000),
            st.integers(1, 10**7),
            st.floats(0, 10_000),
        )
    ),
)
def test_the_limit_is_always_possible(
    max_batch: int, hold_up_s: float, events: list[tuple[str, int, int, float]]
) -> None:
    sizing = Sizing(max_batch, hold_up_s, 30)
    now_s = 0.0
    for kind, leased, size, elapsed_s in events:
        now_s += elapsed_s
        count = min(leased, sizing.limit())
        if kind == "took":
            sizing.took(count, size, elapsed_s, now_s)
        elif kind == "failed":
            sizing.failed(count, 0)
        else:
            sizing.too_large(count, size, now_s)
        assert 1 <= sizing.limit() <= max_batch


def hours_over_a_way_that_carries(
    at_most: int, hours: float, sizing: Sizing, now_s: float = 0.0
) -> list[float]:
    """Return the times of the time-outs; an exchange takes 0.1 s."""
    time_outs: list[float] = []
    end_s = now_s + hours * 3600
    while now_s < end_s:
        count = sizing.limit()
        if count > at_most:
            now_s += 30
            time_outs.append(now_s)
            sizing.failed(count, now_s)
        else:
            now_s += 0.1
            sizing.took(count, 100 * count, 0.1, now_s)
            now_s += 10
    return time_outs


@pytest.mark.parametrize("at_most", [3, 12, 64, 100])
def test_a_size_that_times_out_twice_is_tried_again_once_an_hour(at_most: int) -> None:
    sizing = Sizing(1000, 10, 30)
    learned = hours_over_a_way_that_carries(at_most, 1, sizing)
    assert len(learned) <= 8
    assert max(learned) < 600
    assert len(hours_over_a_way_that_carries(at_most, 10, sizing, 3600)) <= 20
    # The path gets better: the next try uses it at once.
    assert not hours_over_a_way_that_carries(1000, 1.2, sizing, 40_000)
    assert sizing.limit() == 1000


def test_the_first_time_out_of_a_size_only_ends_its_growth() -> None:
    sizing = grown()
    assert sizing.limit() == 1000
    sizing.failed(100, 0)  # only a batch of this size was pending
    assert sizing.limit() == 100
    sizing.failed(100, 30)
    assert sizing.limit() == 25
    sizing.took(25, 2500, 0.1, 60)
    sizing.took(50, 5000, 0.1, 61)
    assert sizing.limit() == 100  # there was no answer between the two
    sizing.failed(100, 90)
    assert sizing.limit() == 50
    sizing.took(50, 5000, 0.1, 91)
    assert sizing.limit() == 50


def test_a_time_out_of_a_smaller_size_is_its_first() -> None:
    sizing = grown()
    sizing.failed(100, 0)
    sizing.took(20, 2000, 0.1, 1)
    sizing.failed(50, 2)
    assert sizing.limit() == 50
    sizing.took(20, 2000, 0.1, 3)
    sizing.failed(50, 4)
    assert sizing.limit() == 25


def test_a_dead_radio_teaches_nothing_that_outlasts_it() -> None:
    sizing = Sizing(1000, 10, 30)
    for now_s in (30, 60):
        sizing.failed(sizing.limit(), now_s)
    sizing.forget_failures()
    assert sizing.limit() == 16
    sizing.took(16, 1600, 0.1, 100)
    sizing.took(32, 3200, 0.1, 101)
    assert sizing.limit() == 64
