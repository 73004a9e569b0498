"""A queue at rest, compared with the same queue in use."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from ackqueue import damage
from ackqueue.queue_parts import lease, put

from telemetry_agent.ackqueue.file.schema import PAGE_BYTES, UnusableError
from telemetry_agent.ackqueue.queue import AckQueue
from telemetry_agent.ackqueue.reading import QueueReader


def test_at_rest_it_has_the_same_content(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with AckQueue(path, keep_delivered_s=10**9) as queue:
        put(queue, 30)
        queue.ack(lease(queue, 10), rejected={3: "bad", 4: "bad"})
        queue.discard([(queue.stream, 3)])
        queue.release(lease(queue, 5), answered=False)
        queue.commit()
        stats, stored, newest_ms = queue.stats(), list(queue.stored()), queue.newest_ms()
    reader = QueueReader(path)
    assert replace(reader.stats(), file_bytes=0) == replace(stats, file_bytes=0)
    assert (list(reader.stored()), reader.newest_ms()) == (stored, newest_ms)
    assert reader.newest(2) == [fix.record for fix in stored[:-3:-1]]
    reader.close()


def test_at_rest_an_oldest_fix_that_cannot_be_read_is_damage(path: Path) -> None:
    damage.fill(path, 500)
    with AckQueue(path) as queue:
        queue.ack(lease(queue, 300))
    data = bytearray(path.read_bytes())
    (at, _), *_ = damage.number_bits(bytes(data), 301)
    page = at // PAGE_BYTES * PAGE_BYTES
    data[page : page + 8] = b"\xff" * 8
    path.write_bytes(data)
    with closing(QueueReader(path)) as reader, pytest.raises(UnusableError, match="malformed"):
        reader.stats()
