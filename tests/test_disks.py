"""Mounts as the kernel lists them."""

import errno
import os
from pathlib import Path

import pytest

from telemetry_agent.disks import Mount, allocate, free_bytes, mount_of, trouble
from telemetry_agent.errors import StorageError

MOUNTS = r"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:33 / /mnt/my\040disk rw,nosuid - tmpfs  rw,size=64k
31 21 8:2 / /var rw shared:2 master:1 - ext4 /dev/sda2 rw
32 21 8:3 / /var ro - ext4 /dev/sda3 ro
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(MOUNTS)
    return tmp_path


def test_a_mount_with_a_space_in_its_name_and_without_a_source(root: Path) -> None:
    mount = mount_of(Path("/mnt/my disk/queue"), root)
    assert mount == Mount(
        "0:33", Path("/mnt/my disk"), "tmpfs", frozenset({"rw", "nosuid", "size=64k"})
    )
    found = trouble(mount, root)
    assert found is not None
    assert found.message == "which is memory: a power cut loses everything"


def test_the_mount_on_top_counts(root: Path) -> None:
    mount = mount_of(Path("/var/lib"), root)
    assert mount is not None
    assert mount.device == "8:3"
    found = trouble(mount, root)
    assert found is not None
    assert found.message == "read-only"


@pytest.mark.parametrize(
    "name", ["a\fb", "a\rb", "a\x1cb", "a\x85b", "a\u2028b", "a\u3000b", "a\xa0b"]
)
def test_a_folder_whose_name_has_other_white_space(root: Path, name: str) -> None:
    line = f"33 21 0:40 / /media/{name} rw,nosuid - tmpfs none rw\n"
    (root / "proc/self/mountinfo").write_bytes((line + MOUNTS).encode())
    assert mount_of(Path("/home"), root) == mount_of(Path("/"), root)
    mount = mount_of(Path(f"/media/{name}/queue"), root)
    options = frozenset({"rw", "nosuid"})
    assert mount == Mount("0:40", Path(f"/media/{name}"), "tmpfs", options)


def test_a_disk_that_keeps_what_is_written_to_it(root: Path) -> None:
    mount = mount_of(Path("/home"), root)
    assert mount is not None
    assert mount.point == Path("/")
    assert trouble(mount, root) is None


def test_a_machine_that_does_not_list_its_mounts(tmp_path: Path) -> None:
    assert mount_of(Path("/var"), tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    for unusual in ("", "\n", "21 1 8:1\n", "21 1 8:1 / / rw - ext4\n"):
        (tmp_path / "proc/self/mountinfo").write_text(unusual)
        assert mount_of(Path("/var"), tmp_path) is None


def test_the_free_bytes_of_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0
    with pytest.raises(StorageError, match="No such file"):
        free_bytes(tmp_path / "none")


def test_room_where_the_c_library_cannot_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """posix_fallocate fails, as with musl on ext2."""

    def refuse(_fd: int, _start: int, _count: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = tmp_path / "file"
    file.write_bytes(b"before")
    for size in (4, 5_000_000):
        with file.open("r+b") as opened:
            allocate(opened.fileno(), size)
    assert file.stat().st_blocks * 512 >= 5_000_000
    assert file.read_bytes() == b"before".ljust(5_000_000, b"\0")
