"""A file that the config names is read within a time limit, whatever its type."""

import os
import threading
from pathlib import Path

import pytest

from telemetry_agent import small_files
from telemetry_agent.small_files import answered, read_small_file, read_text, text_of

MIB = 1 << 20


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size", [0, 1, MIB])
def test_a_file_of_up_to_1_mib_is_read_whole(tmp_path: Path, size: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * size)
    assert read_small_file(file) == b"x" * size


def test_what_is_larger_or_no_file_is_refused_and_left_unread(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MIB + 1))
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("large", "Larger than 1 MiB"),
        ("pipe", "Not a regular file"),
        (".", "Is a folder: Docker makes one if it mounts a missing file"),
        ("none", "No such file"),
    ):
        before = descriptors()
        with pytest.raises(OSError, match=why):
            read_small_file(tmp_path / name)
        assert descriptors() == before


def test_as_text_it_has_no_ends(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\t Raspberry Pi \xff 5\r\n\0")
    assert read_text(file) == text_of(file) == "Raspberry Pi \ufffd 5"
    assert text_of(tmp_path / "none") == ""
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")


def test_what_hangs_is_left_behind_and_not_asked_again_until_it_ends() -> None:
    asked, go_on = [], threading.Event()

    def hang() -> str:
        asked.append(1)
        assert go_on.wait(60)
        return "late"

    for _ in range(3):
        with pytest.raises(TimeoutError, match="its file system does not answer"):
            answered("mount", hang, 0.01)
    assert asked == [1]
    assert answered("another mount", lambda: "here", 60) == "here"
    go_on.set()
    small_files._unanswered["mount"].result(60)
    assert answered("mount", lambda: "again", 60) == "again"


def test_what_is_raised_is_raised_here() -> None:
    def fail() -> None:
        raise PermissionError(13, "no")

    with pytest.raises(PermissionError, match="no"):
        answered("key", fail)
