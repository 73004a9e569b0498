import json
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.daemon.logs import JournalHandler, journal_datagram


def parsed(datagram: bytes) -> dict[str, str]:
    """The journald side of its native protocol."""
    fields = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields[name.decode()] = value.decode()
        datagram = rest
    return fields


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.settimeout(60)
        journald.bind(str(tmp_path / "socket"))
        yield journald


@pytest.fixture
def log(journald: socket.socket) -> Iterator[logging.Logger]:
    handler = JournalHandler("van-07", ["s3cret-token"], journald.getsockname())
    logger = logging.getLogger("telemetry_agent.room")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    handler.close()


def run(code: str) -> str:
    """Return the standard error of a process that runs ``code`` after the imports."""
    program = f"import logging, threading\nfrom telemetry_agent.daemon import logs\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stderr


def test_journald_hears_level_device_and_fields(
    journald: socket.socket, log: logging.Logger
) -> None:
    log.warning("no fix for %d s", 30, extra={"fields": {"STATE": "no-fix", "COUNT": 3}})
    assert parsed(journald.recv(4096)) == {
        "MESSAGE": "no fix for 30 s",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "telemetry-agent",
        "LOGGER": "telemetry_agent.room",
        "DEVICE": "van-07",
        "STATE": "no-fix",
        "COUNT": "3",
    }


def test_each_level_has_its_syslog_priority(journald: socket.socket, log: logging.Logger) -> None:
    priorities = {}
    for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        log.log(getattr(logging, level), "x")
        priorities[level] = parsed(journald.recv(4096))["PRIORITY"]
    assert priorities == {
        "DEBUG": "7",
        "INFO": "6",
        "WARNING": "4",
        "ERROR": "3",
        "CRITICAL": "2",
    }


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True), st.text()))
def test_any_value_survives_the_framing(fields: dict[str, str]) -> None:
    assert parsed(journal_datagram(fields)) == fields


def test_a_value_with_line_breaks_adds_no_field(
    journald: socket.socket, log: logging.Logger
) -> None:
    log.info("first\nPRIORITY=0")
    fields = parsed(journald.recv(4096))
    assert fields["MESSAGE"] == "first\nPRIORITY=0"
    assert fields["PRIORITY"] == "6"


def test_a_crash_comes_with_its_traceback_and_without_secrets(
    journald: socket.socket, log: logging.Logger
) -> None:
    try:
        int("Bearer s3cret-token")
    except ValueError:
        log.exception("the uploader crashed", extra={"fields": {"WHERE": "s3cret-token"}})
    datagram = journald.recv(65536)
    fields = parsed(datagram)
    assert fields["MESSAGE"].startswith("the uploader crashed\nTraceback (most recent call last)")
    assert fields["MESSAGE"].endswith(": 'Bearer ***'")
    assert fields["WHERE"] == "***"
    assert b"s3cret-token" not in datagram


def test_a_busy_journald_holds_nobody_up_and_no_line_is_lost(
    journald: socket.socket, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = 2000  # more than a socket queue holds with the kernel's default
    for number in range(sent):
        log.info("%d", number)
    journald.setblocking(False)
    heard = 0
    try:
        while True:
            assert parsed(journald.recv(4096))["MESSAGE"] == str(heard)
            heard += 1
    except BlockingIOError:
        pass
    assert 0 < heard < sent
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"<6>{number}" for number in range(heard, sent)]
    log.info("again")
    assert parsed(journald.recv(4096))["MESSAGE"] == "again"


def test_without_journald_the_lines_go_to_standard_error_with_their_priority(
    journald: socket.socket, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(journald.getsockname()).unlink()
    log.error("one\ntwo s3cret-token")
    assert capsys.readouterr().err == "<3>one\n<3>two ***\n"


def test_a_record_too_large_for_a_datagram_goes_to_standard_error(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log.warning("x" * 10_000_000)
    assert capsys.readouterr().err == f"<4>{'x' * 10_000_000}\n"


def test_a_person_reads_time_level_and_message() -> None:
    said = run(
        "logs.configure('info', 'auto', 'van-07')\n"
        "log = logging.getLogger('telemetry_agent.room')\n"
        "log.debug('not asked for')\n"
        "log.info('recording', extra={'fields': {'STATE': '3d'}})\n"
        "log.warning('no fix')"
    )
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(f"{time} info: recording\n{time} warning: no fix\n", said)


def test_json_is_one_object_a_line() -> None:
    said = run(
        "logs.configure('debug', 'json', 'van-07', ['s3cret'])\n"
        "log = logging.getLogger('telemetry_agent.room')\n"
        "log.debug('one\\ntwo', extra={'fields': {'STATE': '3d', 'COUNT': 3}})\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('crashed on s3cret')"
    )
    first, second = [json.loads(line) for line in said.splitlines()]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "debug",
        "message": "one\ntwo",
        "logger": "telemetry_agent.room",
        "device": "van-07",
        "fields": {"STATE": "3d", "COUNT": 3},
    }
    assert second["message"] == "crashed on ***"
    assert second["traceback"].endswith("ZeroDivisionError: division by zero")


def test_the_time_of_a_record_is_utc_whatever_the_time_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "America/St_Johns")
    said = run(
        "logs.configure('info', 'json', 'van-07')\n"
        "record = logging.makeLogRecord({'levelno': logging.INFO, 'created': 4102444800.25})\n"
        "logging.getLogger().handle(record)"
    )
    assert json.loads(said)["time"] == "2100-01-01T00:00:00.250Z"


def test_foreign_loggers_are_heard_from_warnings_up_even_at_debug() -> None:
    said = run(
        "logs.configure('debug', 'auto', 'van-07')\n"
        "logging.getLogger('httpcore.http11').debug('headers')\n"
        "logging.getLogger('httpx').info('HTTP Request: POST')\n"
        "logging.getLogger('httpx').warning('heard')"
    )
    assert "headers" not in said
    assert "POST" not in said
    assert said.endswith(" warning: heard\n")


def test_what_nobody_caught_is_logged_too() -> None:
    said = run(
        "logs.configure('info', 'json', 'van-07', ['s3cret'])\n"
        "thread = threading.Thread(target=lambda: 1 / 0, name='page')\n"
        "thread.start()\nthread.join()\n"
        "raise RuntimeError('s3cret')"
    )
    of_thread, of_main = [json.loads(line) for line in said.splitlines()]
    assert of_thread["message"] == "page crashed"
    assert of_thread["traceback"].endswith("ZeroDivisionError: division by zero")
    assert of_main["message"] == "the agent crashed"
    assert of_main["traceback"].endswith("RuntimeError: ***")


def test_an_abort_prints_where_each_thread_stood() -> None:
    said = run("import os\nlogs.configure('info', 'auto', 'van-07')\nos.abort()")
    assert "Fatal Python error: Aborted" in said


def test_a_burst_is_whole_and_in_order_at_the_end() -> None:
    said = run(
        "logs.configure('info', 'auto', 'van-07')\n"
        "log = logging.getLogger('telemetry_agent')\n"
        "for number in range(2000): log.info('%d', number)\n"
        "print('by another way', file=__import__('sys').stderr)"
    )
    lines = [line.rpartition(" ")[2] for line in said.splitlines()]
    assert lines == [*map(str, range(2000)), "way"]


def test_a_line_that_is_larger_than_the_buffer_is_counted_and_the_next_one_is_written() -> None:
    said = run(
        "logs.configure('info', 'auto', 'van-07')\n"
        "log = logging.getLogger('telemetry_agent')\n"
        "log.info('x' * 300_000)\n"
        "logs.standard_error().end(60)\n"
        "log.info('next')"
    )
    assert [line.rpartition(": ")[2] for line in said.splitlines()] == [
        "standard error was not read",
        "next",
    ]


def test_without_a_standard_error_nothing_is_written_into_another_file(tmp_path: Path) -> None:
    program = (
        # First, because a library may open a file of its own.
        f"import os\nassert os.open({str(tmp_path / 'queue')!r}, os.O_CREAT | os.O_RDWR) == 2\n"
        "import logging\nfrom telemetry_agent.daemon import logs\n"
        "logs.configure('info', 'auto', 'van-07')\n"
        "logging.getLogger('telemetry_agent').info('recording')"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program], timeout=60, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "queue").read_text() == ""


def test_configured_again_each_record_comes_once_and_in_the_new_form() -> None:
    said = run(
        "logs.configure('info', 'auto', 'van-07')\n"
        "logs.configure('error', 'json', 'van-07')\n"
        "logging.getLogger('telemetry_agent').warning('no')\n"
        "logging.getLogger('telemetry_agent').error('yes')"
    )
    assert json.loads(said)["message"] == "yes"


def test_what_is_logged_while_the_log_is_configured_again_is_not_lost() -> None:
    said = run(
        "logs.configure('info', 'auto', 'van-07')\n"
        "class Old(logging.Handler):\n"
        "    def close(self):\n"
        "        logging.getLogger('telemetry_agent').error('meanwhile')\n"
        "logging.getLogger().addHandler(Old())\n"
        "logs.configure('info', 'json', 'van-07')"
    )
    assert json.loads(said)["message"] == "meanwhile"


def test_without_memory_for_a_thread_a_line_is_written_at_once_and_without_a_traceback() -> None:
    said = run(
        "import sys\n"
        'def refuse(self): raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = refuse\n"
        "logs.configure('info', 'auto', 'van-07')\n"
        "sys.stderr.write('as it is\\n')\n"
        "try: raise MemoryError\n"
        "except MemoryError: logging.getLogger('telemetry_agent').exception('the page crashed')\n"
    ).splitlines()
    assert said[0] == "as it is"
    (line,) = said[1:]
    assert line.endswith(
        " error: the page crashed: the system refuses memory: raise the limit (MemoryMax= of the "
        "unit, or ulimit -v), or end other programs"
    )
