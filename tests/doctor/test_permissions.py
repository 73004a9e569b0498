"""The computed permissions of another user, compared with those of the kernel."""

import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry_agent.doctor.permissions import SystemUser

UID, GID, OTHER_GID = 4_241, 4_242, 4_243
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xFFFFFFFF

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

LISTS = [
    # ``setfacl -m u:telemetry-agent:r`` on a certificate's folder
    [(USER, 4, UID)],
    [(USER, 4, UID + 1)],
    [(USER, 0, UID), (GROUP, 6, GID)],
    # udev's uaccess and plugdev on a serial port
    [(GROUP, 6, OTHER_GID)],
    [(GROUP, 6, GID)],
    [(GROUP, 4, GID), (GROUP, 2, OTHER_GID)],
]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can read, unlike pytest's folders."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("entries", LISTS)
@pytest.mark.parametrize("mask", [7, 4, 0])
@pytest.mark.parametrize(("owner", "group"), [(0, 0), (UID, 0), (0, GID)])
def test_an_access_list_counts_as_in_the_kernel(
    open_folder: Path, entries: list[tuple[int, int, int]], mask: int, owner: int, group: int
) -> None:
    file = open_folder / "key"
    file.touch()
    os.chown(file, owner, group)
    fixed = [(USER_OBJ, 6, NO_ID), (GROUP_OBJ, 0, NO_ID), (MASK, mask, NO_ID), (OTHER, 0, NO_ID)]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in sorted([*fixed, *entries]))
    os.setxattr(file, "system.posix_acl_access", struct.pack("<I", 2) + packed)
    user = SystemUser("agent", UID, frozenset({GID, OTHER_GID}))
    for right, option in ((os.R_OK, "-r"), (os.W_OK, "-w")):
        tried = subprocess.run(
            ["test", option, file], user=UID, group=GID, extra_groups=[OTHER_GID], check=False
        )
        assert user.may(file, right) == (tried.returncode == 0)


def test_a_process_may_have_groups_that_its_user_is_not_in() -> None:
    with subprocess.Popen(
        ["sleep", "60"], user=UID, group=GID, extra_groups=[OTHER_GID]
    ) as process:
        account = SystemUser.running(process.pid, "nobody")
        process.kill()
    assert (account.uid, account.gids) == (UID, frozenset({OTHER_GID}))
