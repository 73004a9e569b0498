from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.upload.sizing import Sizing


def test_a_batch_is_at_first_as_large_as_allowed() -> None:
    assert Sizing(1000, 10, 30).limit() == 1000


def test_slow_answers_shrink_batches_to_a_sixteenth_and_quick_ones_let_them_grow() -> None:
    sizing = Sizing(1000, 10, 30)
    limits = []
    for _ in range(6):
        sizing.took(sizing.limit(), 1000, 11)
        limits.append(sizing.limit())
    assert limits == [500, 250, 125, 62, 62, 62]
    for _ in range(5):
        sizing.took(sizing.limit(), 1000, 4)
    assert sizing.limit() == 1000


def test_between_quick_and_slow_nothing_changes() -> None:
    sizing = Sizing(1000, 10, 30)
    sizing.took(1000, 1000, 11)
    sizing.took(500, 1000, 7)
    assert sizing.limit() == 500


def test_a_short_batch_proves_nothing_about_longer_ones() -> None:
    sizing = Sizing(1000, 10, 30)
    sizing.took(1000, 1000, 11)
    sizing.took(10, 1000, 0.1)
    assert sizing.limit() == 500


def test_time_outs_shrink_batches_down_to_one_and_they_grow_while_time_is_left() -> None:
    sizing = Sizing(1000, 10, 30)
    for _ in range(12):
        sizing.timed_out(sizing.limit())
    assert sizing.limit() == 1
    for _ in range(2):
        sizing.took(sizing.limit(), 1000, 14)
    sizing.took(4, 1000, 16)
    assert sizing.limit() == 4
    for _ in range(12):
        sizing.took(sizing.limit(), 1000, 14)  # a slow server, whatever it gets
    assert sizing.limit() == 62


def test_what_was_too_large_bounds_the_bytes() -> None:
    sizing = Sizing(1000, 10, 30)
    sizing.too_large(1000, 100_000)
    assert sizing.limit() == 500
    sizing.took(500, 50_000, 0.1)
    assert sizing.limit() == 500
    sizing.took(400, 80_000, 0.1)
    assert sizing.limit() == 250


def test_one_giant_does_not_shrink_the_batches_of_the_others() -> None:
    sizing = Sizing(1000, 10, 30)
    sizing.too_large(1000, 1_050_000)
    sizing.too_large(1, 1_000_000)
    sizing.took(1, 200, 0.1)
    assert sizing.limit() == 1000


@given(
    st.integers(1, 5000),
    st.floats(0, 100),
    st.lists(
        st.tuples(
            st.sampled_from(["took", "timed_out", "too_large"]),
            st.integers(1, 5000),
            st.integers(1, 10**7),
            st.floats(0, 100),
        )
    ),
)
def test_the_limit_is_always_possible(
    max_batch: int, hold_up_s: float, events: list[tuple[str, int, int, float]]
) -> None:
    sizing = Sizing(max_batch, hold_up_s, 30)
    for kind, leased, size, elapsed_s in events:
        count = min(leased, sizing.limit())
        if kind == "took":
            sizing.took(count, size, elapsed_s)
        elif kind == "timed_out":
            sizing.timed_out(count)
        else:
            sizing.too_large(count, size)
        assert 1 <= sizing.limit() <= max_batch
