"""A mount whose file system never answers, like a network share whose server is gone.

It is real FUSE: a process that accesses it waits in the kernel, and even SIGKILL does not end it.
"""

import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

_MOST_BYTES = 1 << 17
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class DeadMount:
    """A mount that hides the files at ``folder`` until ``end``; sets ``asked`` on an access."""

    def __init__(self, folder: Path) -> None:
        self.asked = threading.Event()
        self._folder = os.fsencode(folder)
        try:
            self._kernel = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            pytest.skip(f"no FUSE here: {error.strerror}")
        options = f"fd={self._kernel},rootmode=40000,user_id=0,group_id=0,allow_other"
        if _libc.mount(b"dead", self._folder, b"fuse", 0, options.encode()):
            os.close(self._kernel)
            pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
        self._is_over = False
        self._greet()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _greet(self) -> None:
        """Answer only the kernel's first request (FUSE_INIT)."""
        asked = os.read(self._kernel, _MOST_BYTES)
        (number,) = struct.unpack_from("<Q", asked, 8)
        accepted = struct.pack("<IIIIHHIIHHI", 7, 31, 0, 0, 12, 9, 1 << 16, 1, 0, 0, 0) + bytes(28)
        os.write(self._kernel, struct.pack("<IiQ", 16 + len(accepted), 0, number) + accepted)

    def _read(self) -> None:
        # A request becomes uninterruptible only after the file system has read it.
        with contextlib.suppress(OSError):
            while True:
                os.read(self._kernel, _MOST_BYTES)
                self.asked.set()

    def end(self) -> None:
        """Unmount: the hidden files appear again, and waiting processes get an error."""
        if not self._is_over:
            self._is_over = True
            _libc.umount2(self._folder, _MNT_DETACH | 1)  # MNT_FORCE ends the connection
            self._reader.join(60)
            os.close(self._kernel)


@contextlib.contextmanager
def dead_mount(folder: Path) -> Iterator[DeadMount]:
    """A mount that never answers, until the end of the block."""
    mount = DeadMount(folder)
    try:
        yield mount
    finally:
        mount.end()
