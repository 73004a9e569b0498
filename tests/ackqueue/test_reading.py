"""A queue at rest, beside the same queue in use."""

from dataclasses import replace
from pathlib import Path

from ackqueue.queue_parts import lease, put

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
