"""The command ``decode``, run as a process."""

import gzip
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nmea import gga, line, rmc

_ROOT = Path(__file__).parents[2]
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(_ROOT)}
UBX = bytes.fromhex("b5620107020000000a31")
_DECODE = (sys.executable, "-m", "telemetry_agent", "decode")


def decode(*args: str, data: bytes = b"") -> tuple[int, list[dict[str, Any]], str]:
    done = subprocess.run(
        [*_DECODE, *args],
        input=data,
        capture_output=True,
        env=_ENVIRONMENT,
        check=False,
        timeout=60,
    )
    return (
        done.returncode,
        [json.loads(row) for row in done.stdout.splitlines()],
        done.stderr.decode(),
    )


@contextmanager
def decoding(**pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(_DECODE, env=_ENVIRONMENT, bufsize=0, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def test_a_file_and_standard_input_give_the_same(tmp_path: Path) -> None:
    recording = tmp_path / "drive.nmea"
    recording.write_bytes(b"".join(gga(f"12350{n}") + rmc(f"12350{n}") for n in range(3)))
    status, fixes, error = decode(str(recording))
    assert (status, error) == (0, "")
    assert fixes[0] == {
        "time": "2026-11-23T12:35:00.000Z",
        "lat": 48.1173,
        "lon": 11.516666667,
        "alt": 545.4,
        "geoid_sep": 46.9,
        "speed": 11.524,
        "course": 84.4,
        "mode": 3,
        "quality": "gps",
        "hdop": 0.9,
        "sats": 8,
        "odo": 0,
    }
    assert [fix["time"][17:19] for fix in fixes] == ["00", "01", "02"]
    assert decode(data=recording.read_bytes()) == (0, fixes, "")
    assert decode("-", data=recording.read_bytes()) == (0, fixes, "")


def test_stats_count_what_was_rejected_on_standard_error() -> None:
    data = rmc("123519") + rmc("123520").replace(b"4807", b"4808") + b"\xb5\x62\n"
    status, fixes, error = decode("--stats", data=data)
    assert (status, len(fixes)) == (0, 1)
    assert json.loads(error) == {
        "sentences": 1,
        "fixes": 1,
        "rejected": {"bad-checksum": 1, "garbage-bytes": 2},
    }


def test_dates_of_a_recording_are_moved_only_if_asked() -> None:
    old = rmc("123519", date="090407")
    assert decode(data=old)[1][0]["time"] == "2007-04-09T12:35:19.000Z"
    assert decode("--fix-rollover", data=old)[1][0]["time"] == "2026-11-23T12:35:19.000Z"


def test_positions_without_a_date_are_told_of() -> None:
    status, fixes, error = decode(data=gga("123519") + gga("123520"))
    assert (status, fixes) == (0, [])
    assert error == (
        "2 positions left out: the receiver sends positions, but no date: "
        "`--date YYYY-MM-DD` gives this recording a day\n"
    )


def test_a_recording_without_a_date_can_be_given_one() -> None:
    data = b"".join(map(gga, ("235958", "235959", "000000")))
    status, fixes, error = decode("--date", "2026-11-23", data=data)
    assert (status, error) == (0, "")
    assert [fix["time"] for fix in fixes] == [
        "2026-11-23T23:59:58.000Z",
        "2026-11-23T23:59:59.000Z",
        "2026-11-24T00:00:00.000Z",
    ]
    assert not any("flags" in fix for fix in fixes)
    # The receiver's own date comes first.
    status, fixes, _ = decode("--date", "2020-01-01", data=gga("120000") + rmc("120001"))
    assert [fix["time"][:10] for fix in fixes] == ["2020-01-01", "2026-11-23"]
    status, _, error = decode("--date", "yesterday", data=data)
    assert status == 2
    assert "yesterday" in error


BARE = b"$GPRMC,120000.00,A,5000.00000,N,01100.00000,E,5.00,090.0,201126,,,A\r\n"
AIS = b"!AIVDM,1,1,,A,15RTgt0PAso;90TKcjM8h6g208CQ,0*4A\r\n"
PUBX = line("PUBX,00,120000.00,4717.113210,N,00833.915187,E,546.589,G3,2.1,2.0,0.007,77.52,0.007")

DEGREES = b"".join(
    line(f"GPRMC,12000{n},A,37.7749,N,122.4194,W,022.4,084.4,231126,,,A") for n in range(3)
)
COMMAS = b"".join(
    line(f"GPGGA,12000{n},4807,038,N,01131,000,E,1,08,0,9,545,4,M,46,9,M,,") for n in range(3)
)


@pytest.mark.parametrize(
    ("data", "options", "reason", "says"),
    [
        (BARE * 3, (), "no-checksum", "switch the checksum on"),
        (BARE, (), "no-checksum", "switch the checksum on"),
        (rmc("120000").replace(b"4807", b"4808"), (), "bad-checksum", "check the receiver's cable"),
        (PUBX * 3, (), "proprietary", "(PUBX): switch its RMC and GGA sentences on"),
        (line("GPGSV,1,1,00") * 3, (), "no-position", "switch its RMC and GGA sentences on"),
        (DEGREES, (), "bad-position", "degrees and minutes with a point"),
        (COMMAS, (), "bad-position", "degrees and minutes with a point"),
        (rmc("") * 3, (), "no-time", "without a time of day"),
        (gga("120000") * 3, (), "no-date", "1 position left out"),
        (rmc("120000", date="060180"), ("--fix-rollover",), "old-date", "too far in the past"),
        (rmc("120000", date="060155"), (), "future-date", "more than ten years ahead"),
        (UBX * 3, (), "binary", "switch its NMEA output on"),
        (AIS * 3, (), "ais", "name a GNSS receiver"),
    ],
)
def test_what_makes_a_receiver_useless_is_said_in_its_own_words(
    data: bytes, options: tuple[str, ...], reason: str, says: str
) -> None:
    status, fixes, error = decode(*options, data=data)
    assert (status, fixes) == (0, [])
    assert says in error
    assert error.count("\n") == 1
    status, _, error = decode("--stats", *options, data=data)
    counted = json.loads(error)
    assert counted["reason"] == reason
    assert says in counted["why"]


def test_stats_name_who_is_followed_where_several_have_positions() -> None:
    data = b"".join(rmc(f"1235{n:02}") + rmc(f"1235{n:02}", talker="II") for n in range(9))
    _, fixes, error = decode("--stats", data=data)
    assert len(fixes) == 9
    (notice,) = json.loads(error)["notices"]
    assert "(II beside GN): those of GN are recorded" in notice


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            gzip.compress(rmc("123519")),
            ", the input is compressed: zcat FILE | telemetry-agent decode",
        ),
        (
            rmc("123519").decode().encode("utf-16"),
            ", the input is UTF-16 text: iconv -f UTF-16 -t UTF-8 FILE | telemetry-agent decode",
        ),
        (
            b'{"class":"VERSION","release":"3.22"}\r\n{"class":"TPV","mode":3}\r\n',
            ", the input is a log of gpsd's reports: gpspipe -r records sentences",
        ),
        (UBX, ", the receiver sent UBX: switch its NMEA output on (docs/receivers.md)"),
        (b"hello\n" * 1000, ""),
    ],
    ids=["gzip", "UTF-16", "gpsd", "UBX", "text"],
)
def test_what_is_no_nmea_is_told(data: bytes, why: str) -> None:
    assert decode(data=data) == (0, [], f"no NMEA sentence found{why}\n")


def test_nothing_is_said_of_an_empty_input_or_of_a_receiver_without_a_fix() -> None:
    assert decode() == decode(data=rmc("123519", status="V")) == (0, [], "")


def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing.nmea"
    for file, reason in ((missing, "No such file or directory"), (tmp_path, "Is a directory")):
        status, fixes, error = decode(str(file))
        assert (status, fixes) == (74, [])
        assert error == f"telemetry-agent: cannot read {file}: {reason}\n"


def test_a_stream_is_decoded_as_it_comes() -> None:
    with decoding(stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(rmc("123519") + rmc("123520"))
        assert select.select([process.stdout], [], [], 60)[0]
        assert b"12:35:19" in process.stdout.readline()
        process.stdin.write(rmc("123521"))
        assert b"12:35:20" in process.stdout.readline()


def test_ctrl_c_ends_it_quietly() -> None:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with decoding(**pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(rmc("123519") + rmc("123520"))
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130
        assert b"Traceback" not in error


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    recording = tmp_path / "long.nmea"
    recording.write_bytes(
        b"".join(rmc(f"{n // 3600:02}{n // 60 % 60:02}{n % 60:02}") for n in range(20_000))
    )
    with (
        recording.open("rb") as stdin,
        decoding(stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    recording = tmp_path / "noise.nmea"
    with recording.open("wb") as file:
        for _ in range(60):
            file.write(b"$GPTXT," + b"x" * 1_000_000 + line("GPGSV,1,1,00"))
    limit = 40 * 1024 * 1024

    def within_the_limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    done = subprocess.run(
        [*_DECODE, "--stats", str(recording)],
        env=_ENVIRONMENT,
        capture_output=True,
        preexec_fn=within_the_limit,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert json.loads(done.stderr)["rejected"] == {"too-long": 60}
