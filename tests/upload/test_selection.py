"""The order of uploads: live fixes, the backlog in turns, and refused fixes last."""

from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from misbehaving import Act, Line, Request, Server, answer, hang_up, refusing, reset
from upload.upload_parts import NOW_MS, Journey, bench


def test_live_fixes_wait_for_company_and_a_full_batch_waits_no_more(tmp_path: Path) -> None:
    with bench(tmp_path, max_batch=5) as b:
        assert b.work() is None
        b.put(1)
        assert b.work() == 10
        b.clock.advance(4)
        b.put(3)
        assert b.work() == 6
        assert not b.server.requests
        b.put(1)
        assert b.work() is None
        assert b.counts == (0, 0, 5, 0)
        b.put(2)
        b.clock.advance(10)
        assert b.work() is None
        assert [len(request.names) for request in b.server.requests] == [5, 2]
        assert b.state == "ok"


def test_a_backlog_is_sent_at_once_and_live_fixes_that_are_due_come_first(tmp_path: Path) -> None:
    with bench(tmp_path, max_batch=4) as b:
        b.put_backlog(8)
        b.put(1)
        b.step()
        b.clock.advance(10)
        b.step()
        b.work()
        sent = [[seq for _, seq in request.names] for request in b.server.requests]
        assert sent == [[1, 2, 3, 4], [9], [5, 6, 7, 8]]


def test_a_backlog_drains_also_if_live_fixes_are_due_again_after_each_exchange(
    tmp_path: Path,
) -> None:
    with bench(tmp_path, max_batch=4, flush_every_s=1.0) as b:
        b.put_backlog(8)
        for _ in range(6):
            b.put(1)
            b.clock.advance(2)  # the previous exchange took this long
            b.step()
        sent = [[seq for _, seq in request.names] for request in b.server.requests]
        assert sent == [[9], [1, 2, 3, 4], [10, 11], [5, 6, 7, 8], [12, 13], [14]]


def test_live_fixes_and_the_backlog_share_what_a_limit_of_requests_leaves(tmp_path: Path) -> None:
    """One request in 5 s, the limit of an nginx: it refuses the second of two in a row."""
    sent_s = [-99.0]
    taken: list[int] = []

    def run(line: Line, request: Request) -> None:
        late = b.clock.now_s - sent_s[-1] < 5
        if not late:
            sent_s.append(b.clock.now_s)
            taken.extend(seq for _, seq in request.names)
        line.reply(429 if late else 200)

    with bench(tmp_path, then=Act(run), max_batch=100, compression="none") as b:
        b.put_backlog(5000)
        for _ in range(360):
            b.put(1)
            b.work_for(10)
        live = [at for at, seq in enumerate(taken) if seq > 5000]
        assert len(live) > 100
        assert len(taken) - len(live) > 1000


def test_oldest_first_keeps_the_order(tmp_path: Path) -> None:
    with bench(tmp_path, max_batch=4, live_first=False) as b:
        b.put_backlog(6)
        b.put(1)
        b.clock.advance(10)
        b.work()
        sent = [seq for request in b.server.requests for _, seq in request.names]
        assert sent == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "act",
    [
        hang_up(),
        reset(),
        *(answer(status) for status in (302, 400, 401, 413, 500, 503)),
        answer(200, "error"),
    ],
)
@pytest.mark.parametrize("max_batch", [1, 4])
def test_oldest_first_keeps_the_order_after_an_outage(
    tmp_path: Path, act: Act, max_batch: int
) -> None:
    with bench(tmp_path, then=act, max_batch=max_batch, live_first=False) as b:
        b.put_backlog(20)
        # After the twelfth wait, no other fix is tried.
        while b.uploader.status().waits < 12:
            b.clock.advance(b.work() or 0)
        b.server.requests.clear()
        b.server.then = answer()
        b.put(2)
        b.work_for(4000)
        assert b.counts == (0, 0, 22, 0)
        sent = [seq for request in b.server.requests for _, seq in request.names]
        assert sent == list(range(1, 23))


@pytest.mark.parametrize("max_batch", [1, 4])
@pytest.mark.parametrize("bad", [{1}, {3}, {1, 2}, {3, 8}, set(range(3, 40))])
def test_oldest_first_is_not_held_up_by_fixes_that_get_no_answer(
    tmp_path: Path, bad: set[int], max_batch: int
) -> None:
    """A single bad fix does not change the order of the others either."""
    taken: list[int] = []
    tries, until_the_last = 0, 0

    def run(line: Line, request: Request) -> bool:
        nonlocal tries, until_the_last
        tries += 1
        seqs = [seq for _, seq in request.names]
        if bad.intersection(seqs):
            return False
        taken.extend(seqs)
        until_the_last = tries
        line.server.take(request)
        line.reply(200)
        return True

    with bench(tmp_path, then=Act(run), max_batch=max_batch, live_first=False) as b:
        b.put_backlog(60)
        b.work_for(4000)
        assert b.counts == (0, len(bad), 60 - len(bad), 0)
        alone = not any(seq + 1 in bad for seq in bad)
        within = 1 if max_batch == 1 else 2  # in a batch, the second fix is tried first
        assert not alone or all(after > seq - within for seq, after in pairwise(taken))
        assert until_the_last <= len(taken) + 30 + 5 * len(bad)


def test_after_the_return_the_backlog_takes_turns_and_fresh_fixes_do_not_wait(
    tmp_path: Path,
) -> None:
    with bench(tmp_path, max_batch=10) as b:
        b.put_backlog(100)
        b.uploader.network_returned(15)
        assert b.work() == 16
        b.put(1)
        assert b.work() == 10
        b.clock.advance(10)
        assert b.work() == 6
        sent = [[seq for _, seq in request.names] for request in b.server.requests]
        assert sent == [[*range(1, 11)], [101]]
        b.work_for(600)
        assert b.counts == (0, 0, 101, 0)


def test_a_run_without_a_witness_is_tried_again(tmp_path: Path) -> None:
    with bench(tmp_path, answer(), then=answer(400), compression="none") as b:
        b.put_backlog(1)
        b.work()
        b.put_backlog(40)
        b.work_for(2000)
        assert b.queue.stats().acked == 1
        b.server.then = answer()
        b.work_for(2000)
        assert b.counts == (0, 0, 41, 0)


def test_two_bad_fixes_in_front_of_everything_do_not_block_for_ever(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({1, 2, 30}), max_batch=50) as b:
        b.put_backlog(40)
        b.work_for(3600)
        b.work_among_live(5)
        assert b.dead_seqs == {1, 2, 30}
        assert b.counts == (0, 0, 42, 3)


def test_live_fixes_do_not_wait_for_a_search(tmp_path: Path) -> None:
    with bench(tmp_path, then=refusing({1}), max_batch=64, compression="none") as b:
        b.put_backlog(64)
        b.step()
        b.step()
        b.put(1)
        b.clock.advance(10)
        b.step()
        assert [seq for _, seq in b.server.requests[-1].names] == [65]
        b.work()
        assert b.dead_seqs == {1}
        assert len(b.server.requests) <= 2 + 2 * 6 + 4 + 3


@pytest.mark.parametrize("status", [400, 500])
def test_one_fix_per_request_and_the_first_is_bad(tmp_path: Path, status: int) -> None:
    with bench(tmp_path, then=refusing({1}, status), max_batch=1, live_first=False) as b:
        b.put(1)
        b.work_for(400)
        for _ in range(6):
            b.put(1)
            b.work_for(600)
        assert b.dead_seqs == {1}
        assert b.counts == (0, 0, 6, 1)


def test_a_user_who_waits_for_the_backlog_sees_that_a_fix_waits_for_a_witness(
    tmp_path: Path,
) -> None:
    with Server(then=refusing({2})) as server, closing(Journey(server, tmp_path)) as journey:
        for number in range(2):
            journey.put_backlog([NOW_MS + 1000 * number])
            while (wait_s := journey.uploader.step(journey.clock.now_s)) == 0:
                pass
        assert (journey.keeper.status.state, journey.keeper.status.next_attempt_s) == ("ok", None)
        journey.a_user_waits = True
        assert journey.uploader.step(journey.clock.now_s) == wait_s
        status = journey.keeper.status
        assert (status.state, status.last_error) == ("waiting", "400: bad fix")
        assert status.next_attempt_s == journey.clock.now_s + (wait_s or 0)
