"""Each row of the answer table, with the real process: no traceback and no lost fix."""

import shutil
from pathlib import Path

import pytest
from misbehaving import (
    Act,
    Server,
    answer,
    drips,
    endless,
    hang,
    hang_up,
    no_gzip,
    refusing,
    reset,
    says,
    twice,
)
from once import mostly_once
from rig import record_backlog, started, stats, write_config

FIXES = 12
JSON = {"Content-Type": "application/json"}
OK = b"HTTP/1.1 200 OK\r\n"
HELD = (401, 402, 403, 404, 405, 406, 407, 410, 411, 421, 426, 428, 431, 451, 418)
LATER = (503, 408, 409, 423, 424, 425, 429, 502, 504)

# The first answers of the endpoint (then it accepts everything), and the agent's message.
ROWS: dict[str, tuple[list[Act], str | None]] = {
    "200 empty": ([answer(200)], None),
    "201": ([answer(201)], None),
    "202 text": ([answer(202, "thanks")], None),
    "204": ([answer(204)], None),
    "200 JSON object": ([answer(200, "{}", JSON)], None),
    "200 retry": ([answer(200, '{"retry":[3]}', JSON)], None),
    "200 names nobody sent": ([answer(200, '{"rejected":[{"seq":99}]}', JSON)], None),
    "200 page of a portal": ([answer(200, "<html>Welcome", store=False)], "portal"),
    "200 broken JSON": ([answer(200, "{", JSON, store=False)], "cannot deliver"),
    "206": ([answer(206, store=False)], "cannot deliver"),
    "302": ([answer(302, headers={"Location": "http://portal/"})], "http://portal/"),
    "400 for one": ([refusing({5})] * 30, "a fix became a dead letter"),
    "422 for one": ([refusing({5}, 422)] * 30, "a fix became a dead letter"),
    **{str(status): ([answer(status)], "uploads are held") for status in HELD},
    **{str(status): ([answer(status)], "cannot deliver") for status in LATER},
    "500 with and without gzip": ([answer(500)] * 2, "cannot deliver"),
    "429 Retry-After": ([answer(429, headers={"Retry-After": "1"})], "cannot deliver"),
    "413": ([answer(413), answer(413)], None),
    "415 no gzip": ([no_gzip(415)] * 12, "does not accept gzip"),
    "400 no gzip": ([no_gzip(400)] * 12, "does not accept gzip"),
    "reset before reading": ([reset()] * 3, "cannot deliver"),
    "reset after storing": ([reset(after_reading=True, store=True)] * 3, "cannot deliver"),
    "closed without a word": ([hang_up(store=True)] * 3, "cannot deliver"),
    "no answer": ([hang(store=True)], "no answer within 1 s"),
    "dripped headers": ([drips(b"X: y\r\n" * 500, first=OK)], "within 1 s"),
    "dripped body": ([drips(b"x" * 500, first=OK + b"Content-Length: 500\r\n\r\n")], "within 1 s"),
    "hanging body": (
        [says(OK + b"Content-Length: 5\r\n\r\n", then_hang=True)],
        "within 1 s",
    ),
    "endless body": ([endless(OK + b"\r\n", b"x" * 4096, store=True)], None),
    "not HTTP": ([says(b"SSH-2.0-dropbear\r\n")], "not HTTP"),
    "two answers": ([twice()], None),
}

ALIKE = [str(status) for status in (*HELD[1:], *LATER[1:])]
OTHERS = [row for row in ROWS if row not in ALIKE]
JUDGED = pytest.mark.once(
    "upload/test_formats_answers.py judges every status, and 401 and 503 are seen here"
)


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backlog")
    record_backlog(folder, FIXES)
    return folder


@pytest.mark.parametrize("row", mostly_once([*OTHERS, *ALIKE], len(OTHERS), JUDGED))
def test_row(row: str, backlog: Path, tmp_path: Path) -> None:
    acts, says_ = ROWS[row]
    shutil.copytree(backlog, tmp_path, dirs_exist_ok=True)
    dead = 1 if row.endswith("for one") else 0
    with Server(*acts) as server:
        config = write_config(
            tmp_path,
            "/dev/none",
            server.url,
            upload={
                "timeout": "1s",
                "backoff_initial": "50ms",
                "backoff_max": "100ms",
                "compression": "gzip" if "gzip" in row else "auto",
                # One fix per request: an accepted one comes between two refusals.
                "max_batch": 1 if dead else 1000,
            },
        )
        with started(config) as agent:
            if says_:
                agent.wait_for_line(says_)
                if not dead and "gzip" not in row:
                    agent.wait_for_line("delivering again")
            times = 2 if row == "endless body" else 1  # the answer is too long: sent again in parts
            server.wait_for(
                lambda s: sum(count >= times for count in s.ledger.values()) == FIXES - dead
            )
            assert agent.end() == 0
            said = agent.text()
    assert "Traceback" not in said
    counts = stats(tmp_path)
    assert (counts.acked, counts.ack_failed) == (FIXES - dead, dead), said
