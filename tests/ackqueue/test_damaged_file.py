"""Damaged files are read as far as possible. The rest is counted and logged."""

import random
from collections import Counter
from pathlib import Path

import pytest
from ackqueue import damage
from ackqueue.damage import files, kill, used
from ackqueue.queue_parts import lease, put, seqs

from telemetry_agent.ackqueue.file.schema import log_of
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.recovery.carry_over import carry_over


@pytest.mark.parametrize("kind", [damage.header, damage.first_page, damage.root_page])
def test_a_destroyed_header_or_root_page_costs_nothing(path: Path, kind: damage.Damage) -> None:
    records = damage.fill(path, 3000)
    damage.damage(path, kind)
    assert damage.recover(path) == damage.Outcome(records, lost=0)
    assert files(path) == []


@pytest.mark.parametrize("kind", [damage.five_pages, damage.five_blocks])
def test_destroyed_pages_cost_what_was_in_them_and_that_is_counted(
    folder: Path, kind: damage.Damage
) -> None:
    records = damage.fill(folder / "whole.db", 4000)
    shares = []
    for seed in range(8):
        case = folder / f"{seed}.db"
        damage.copy(folder / "whole.db", case)
        damage.damage(case, kind, seed)
        outcome = damage.recover(case)
        delivered = Counter(outcome.delivered)
        assert delivered <= Counter(records)
        assert delivered.total() + outcome.lost == len(records)
        shares.append(delivered.total() / len(records))
    # The benchmark has five times as many fixes, so one page counts five times as much here.
    assert sum(shares) / len(shares) >= (0.97 if kind is damage.five_pages else 0.90)


def test_what_a_truncation_took_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = damage.fill(path, 1000)
    damage.damage(path, damage.half)
    outcome = damage.recover(path)
    assert outcome.lost == 1000 - len(outcome.delivered) > 400
    assert set(outcome.delivered) < set(records)
    last = outcome.delivered[-1]
    assert f"({last.stream}:{last.seq}) and the end" in caplog.text
    assert files(path) == [".kept-1"]


def test_of_a_file_without_a_readable_byte_the_loss_is_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage.fill(path, 50)
    with AckQueue(path) as queue:
        queue.ack(lease(queue, 10))
    damage.damage(path, damage.everything)
    with AckQueue(path) as queue:
        put(queue, 3)
        carry_over(queue)
        assert seqs(lease(queue)) == [1, 2, 3]
        assert queue.stats().lost == {"damaged": 40}  # from the oldest waiting fix to the last
    assert "40 are lost to damage" in caplog.text
    assert files(path) == [".foreign-1"]


def test_a_loss_in_the_middle_is_told_as_between_two_fixes(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = damage.fill(path, 1000)
    page = next(number for number in range(20, 100) if damage.rows_of_page(path, number))
    with path.open("r+b") as file:
        file.seek((page - 1) * 512)
        gone = damage.rows_of_page(path, page)
        file.write(random.Random(1).randbytes(512))
    damage.damage(path, damage.header)
    outcome = damage.recover(path)
    assert outcome.delivered == [record for record in records if record.seq not in gone]
    stream, first, last = records[0].stream, gone[0] - 1, gone[-1] + 1
    assert f"({stream}:{first}) and 2025-11-29T" in caplog.text
    assert f"({stream}:{last})" in caplog.text


@pytest.mark.parametrize("set_aside", [False, True])
def test_a_flipped_bit_in_the_newest_number_costs_one_fix(folder: Path, set_aside: bool) -> None:
    records = used(folder / "whole.db", set_aside=set_aside)
    with AckQueue(folder / "whole.db") as queue:
        newest = queue.last_row()
    whole = (folder / "whole.db").read_bytes()
    bits = damage.number_bits(whole, newest)
    assert len(bits) == (35 if set_aside else 14)
    for at, bit in bits:
        case = folder / f"{at}-{bit}.db"
        damage.copy(folder / "whole.db", case)
        data = bytearray(whole)
        data[at] ^= 1 << bit
        case.write_bytes(data)
        outcome = damage.recover(case)
        assert outcome == damage.Outcome(records[50:-1], lost=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("set_aside", [False, True])
def test_a_flipped_bit_in_any_number_costs_few_fixes(
    folder: Path, seed: int, set_aside: bool
) -> None:
    records = used(folder / "whole.db", set_aside=set_aside)
    draw = random.Random(seed)
    whole = (folder / "whole.db").read_bytes()
    for number in range(8):
        case = folder / f"{number}.db"
        damage.copy(folder / "whole.db", case)
        data = bytearray(whole)
        at, bit = draw.choice(damage.number_bits(whole, draw.randrange(1, 201)))
        data[at] ^= 1 << bit
        case.write_bytes(data)
        outcome = damage.recover(case)
        assert set(outcome.delivered) <= set(records)
        assert len(set(outcome.delivered)) >= len(records) - 51


def test_flipped_bits_in_the_log_cost_at_most_the_fix_that_they_hit(path: Path) -> None:
    queue = AckQueue(path, commit_every_s=0)
    put(queue, 60)
    left = kill(queue, path)
    log = log_of(left).read_bytes()
    draw = random.Random(5)
    for _ in range(40):
        case = path.with_name("case.db")
        damage.copy(left, case)
        flipped = bytearray(log)
        flipped[draw.randrange(len(log))] ^= 1 << draw.randrange(8)
        log_of(case).write_bytes(flipped)
        found = Counter(record.seq for record in damage.recover(case).delivered)
        assert max(found.values()) == 1
        assert len(found) >= 59
        for file in case.parent.glob("case.db*"):
            file.unlink()


def test_a_log_without_its_header_overrules_nothing_of_the_file(path: Path) -> None:
    """After the frames of a round come those of the round before, which are older than the file."""
    with AckQueue(path, commit_every_s=0) as queue:
        put(queue, 20)
        queue.ack(lease(queue, 5, live_first=False))
        older = log_of(path).read_bytes()
        queue.ack(lease(queue, 5, live_first=False))
    log_of(path).write_bytes(bytes(32) + older[32:])
    with AckQueue(path) as queue:
        carry_over(queue)
        stats = queue.stats()
    assert (stats.ready, stats.acked) == (10, 10)


def test_a_row_without_a_mark_is_ready_whatever_an_older_file_says(path: Path) -> None:
    records = damage.fill(path, 5)
    with AckQueue(path) as queue:
        queue.ack(lease(queue))
    damage.copy(path, path.with_name("older.db"))
    with AckQueue(path) as queue:
        assert queue.resend(0, 1 << 60) == 5
    damage.copy(path.with_name("older.db"), path.with_name("queue.db.damaged-1"))
    damage.damage(path, damage.header)
    assert damage.recover(path).delivered == records
