"""A GNSS receiver on a pty: what it says, and the line that it says it on.

``Drive`` and ``replay`` give epochs, each the bytes of one instant; they know nothing of clocks
and ptys. ``Simulator`` sends epochs at their pace to whoever opens the device.
"""

import contextlib
import ctypes
import errno
import fcntl
import itertools
import math
import os
import pty
import random
import re
import select
import struct
import termios
import threading
import tty
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from telemetry_agent.clock import Clock
from telemetry_agent.errors import AgentError

_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_START_LAT, _START_LON, _ALT_M, _GEOID_SEP_M = 48.1173, 11.516667, 519.4, 47.1
_M_PER_DEGREE = 111_195.0
_M_S_PER_KNOT = 0.514444
_CORNER_M_S = 3.0
_ACCELERATION_M_S2 = 1.5
_RED_LIGHT_S = 12.0


@dataclass(frozen=True)
class _Street:
    """From one corner to the next: speeding up, cruising, braking."""

    start_s: float
    x_m: float
    """Where it begins: east of the drive's start, and north of it."""
    y_m: float
    course_deg: float
    length_m: float
    """Long enough to reach ``cruise_m_s``."""
    cruise_m_s: float
    wait_s: float
    """Standing before it begins."""

    @property
    def _ramp_s(self) -> float:
        return (self.cruise_m_s - _CORNER_M_S) / _ACCELERATION_M_S2

    @property
    def _moving_s(self) -> float:
        saved_m = self._ramp_s * (self.cruise_m_s - _CORNER_M_S)
        return (self.length_m + saved_m) / self.cruise_m_s

    @property
    def end_s(self) -> float:
        return self.start_s + self.wait_s + self._moving_s

    def at(self, t_s: float) -> tuple[float, float]:
        """How far along (metres) and how fast (m/s) at ``t_s`` of the drive."""
        gone_s = t_s - self.start_s - self.wait_s
        if gone_s < 0:
            return 0.0, 0.0
        left_s = self._moving_s - gone_s
        ramp_s = min(gone_s, left_s, self._ramp_s)
        speed_m_s = _CORNER_M_S + _ACCELERATION_M_S2 * ramp_s
        ramp_m = ramp_s * (_CORNER_M_S + speed_m_s) / 2
        if left_s <= ramp_s:
            return self.length_m - ramp_m, speed_m_s
        return ramp_m + (gone_s - ramp_s) * speed_m_s, speed_m_s


class Drive:
    """A made-up drive round some blocks of a town, with a red light, lap after lap.

    The same arguments give the same bytes: ``epoch(i)`` is what a receiver says at
    ``start_ms + i * interval_ms``.
    """

    def __init__(self, start_ms: int, *, interval_ms: int = 1000, seed: int = 1) -> None:
        self._start_ms = start_ms
        self._interval_ms = interval_ms
        draw = random.Random(seed)  # noqa: S311 - a made-up drive, no secret
        east = [draw.uniform(150, 450) for _ in range(4)]
        north = [draw.uniform(150, 450) for _ in range(4)]
        turned_deg = draw.uniform(0, 360)
        steps = [
            leg for pair in zip(east, north, strict=True) for leg in zip((90, 0), pair, strict=True)
        ]
        steps += [(270, sum(east)), (180, sum(north))]
        red_light = draw.randrange(1, len(steps))
        self._streets: list[_Street] = []
        t_s = x_m = y_m = 0.0
        for i, (heading_deg, length_m) in enumerate(steps):
            street = _Street(
                t_s,
                x_m,
                y_m,
                (heading_deg + turned_deg) % 360,
                length_m,
                draw.uniform(8, 14),
                _RED_LIGHT_S if i == red_light else 0.0,
            )
            self._streets.append(street)
            t_s = street.end_s
            x_m += length_m * math.sin(math.radians(street.course_deg))
            y_m += length_m * math.cos(math.radians(street.course_deg))
        self._lap_s = t_s
        self._sky = [
            (prn, draw.randrange(8, 85), draw.randrange(360), draw.randrange(24, 48))
            for prn in sorted(draw.sample(range(1, 33), 11))
        ]

    def __iter__(self) -> Iterator[bytes]:
        return map(self.epoch, itertools.count())

    def epoch(self, index: int) -> bytes:
        """All sentences of one instant, in the order of a common receiver."""
        since_start_ms = index * self._interval_ms
        t_s = since_start_ms / 1000 % self._lap_s
        street = self._streets[bisect_right(self._streets, t_s, key=lambda s: s.start_s) - 1]
        along_m, speed_m_s = street.at(t_s)
        course_rad = math.radians(street.course_deg)
        north_m = street.y_m + along_m * math.cos(course_rad)
        east_m = street.x_m + along_m * math.sin(course_rad)
        lat = _START_LAT + north_m / _M_PER_DEGREE
        lon = _START_LON + east_m / _M_PER_DEGREE / math.cos(math.radians(_START_LAT))
        position = f"{_angle(lat, 2)},N,{_angle(lon, 3)},E"
        # Receivers leave the course empty while they stand.
        course = f"{street.course_deg:.1f}" if speed_m_s else ""
        knots = speed_m_s / _M_S_PER_KNOT
        alt_m = _ALT_M + 4 * math.sin(math.tau * t_s / self._lap_s)
        utc = _1970 + timedelta(milliseconds=self._start_ms + since_start_ms)
        time = f"{utc:%H%M%S}.{utc.microsecond // 1000:03}"
        used = [f"{prn:02}" for prn, elevation, _, _ in self._sky if elevation > 12]
        twelve = (used + [""] * 12)[:12]
        bodies = [
            f"GPRMC,{time},A,{position},{knots:.2f},{course},{utc:%d%m%y},,,A",
            f"GPVTG,{course},T,,M,{knots:.2f},N,{speed_m_s * 3.6:.2f},K,A",
            f"GPGGA,{time},{position},1,{len(used):02},0.90,{alt_m:.1f},M,{_GEOID_SEP_M},M,,",
            f"GPGSA,A,3,{','.join(twelve)},1.60,0.90,1.30",
            *self._satellites_in_view(),
        ]
        return b"".join(map(_sentence, bodies))

    def _satellites_in_view(self) -> Iterator[str]:
        pages = [self._sky[i : i + 4] for i in range(0, len(self._sky), 4)]
        for number, page in enumerate(pages, 1):
            seen = ",".join(f"{prn:02},{el:02},{az:03},{snr}" for prn, el, az, snr in page)
            yield f"GPGSV,{len(pages)},{number},{len(self._sky):02},{seen}"


def _angle(degrees: float, width: int) -> str:
    """``ddmm.mmmmm``; every position of the drive is north and east."""
    whole, minutes_e5 = divmod(round(degrees * 60e5), 60 * 100_000)
    return f"{whole:0{width}}{minutes_e5 // 100_000:02}.{minutes_e5 % 100_000:05}"


def _sentence(body: str) -> bytes:
    checksum = 0
    for byte in body.encode():
        checksum ^= byte
    return f"${body}*{checksum:02X}\r\n".encode()


_TIME_OF_DAY = re.compile(rb"\$..(?:(?:GGA|RMC|GNS|ZDA|GBS),|GLL,[^,]*,[^,]*,[^,]*,[^,]*,)([\d.]+)")


def replay(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a recording into epochs, where the time of day changes. No byte is lost or changed."""
    epoch: list[bytes] = []
    time = b""
    for line in lines:
        found = _TIME_OF_DAY.search(line)
        if found and found[1] != time:
            if time:
                yield b"".join(epoch)
                epoch = []
            time = found[1]
        epoch.append(line)
    if epoch:
        yield b"".join(epoch)


_IN_ACCESS, _IN_CLOSE, _IN_OPEN = 0x01, 0x18, 0x20  # inotify(7)
_EVENT = struct.Struct("iIII")
_SETTLE_S = 0.1


class _Line:
    """One pty. We keep its far end open too: what nobody has read yet stays readable.

    Because of that the master never says whether somebody else has the device open (POLLHUP is
    the sign that nobody has it, ourselves included), and could not wake us if it did. inotify
    does both: it tells of each open, close and read of the device's node.
    """

    def __init__(self) -> None:
        self.master, self._far = pty.openpty()
        tty.setraw(self._far)
        os.set_blocking(self.master, False)
        self.device = os.ttyname(self._far)
        self.opened_s: float | None = None
        libc = ctypes.CDLL(None, use_errno=True)
        self.events: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        wanted = _IN_OPEN | _IN_CLOSE | _IN_ACCESS
        if libc.inotify_add_watch(self.events, os.fsencode(self.device), wanted) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def look(self, now_s: float) -> None:
        """Take note of what others did with the device."""
        with contextlib.suppress(BlockingIOError):
            for _, mask, _, _ in _EVENT.iter_unpack(os.read(self.events, 256 * _EVENT.size)):
                if mask & _IN_OPEN and self.opened_s is None:
                    self.opened_s = now_s
                if mask & _IN_CLOSE:
                    # A serial port forgets its exclusive user; this pty would not, as we have it.
                    fcntl.ioctl(self._far, termios.TIOCNXCL)
        with contextlib.suppress(BlockingIOError):
            os.read(self.master, 4096)  # commands to the receiver: heard, not obeyed

    def is_taken(self) -> bool:
        """Whether everything that reached the device was read."""
        return fcntl.ioctl(self._far, termios.FIONREAD, b"\0" * 4) == b"\0" * 4

    def unplug(self) -> None:
        """Pull the cable: readers get an error or an empty read."""
        os.close(self.master)
        os.close(self.events)

    def forget(self) -> None:
        """Give the node's number back."""
        os.close(self._far)


class _StoppedError(Exception):
    pass


class Simulator:
    """A receiver on a pty, which sends epochs in a thread of its own.

    It starts when somebody opens the device for the first time, and a moment later, because many
    programs throw away what comes in while they open it; so no epoch is lost before. From then on
    it sends at its pace; what nobody reads waits, and when the pty is full, the receiver waits.

    Args:
        epochs: what it says: a ``Drive``, or ``replay`` of a recording.
        rate_hz: epochs per second; 0 sends as fast as the reader takes them.
        link: a symlink that names the device whatever node it is on; there only while plugged in.
        clock: paces the epochs.

    Raises:
        AgentError: there is no pty to be had, or the link cannot be made.
    """

    def __init__(
        self,
        epochs: Iterable[bytes],
        *,
        rate_hz: float = 1.0,
        link: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.sent = 0
        """Epochs that went out whole, or were cut by an unplugging."""
        self.done = threading.Event()
        """All epochs were sent and read, or the simulator was stopped."""
        self._epochs = epochs
        self._interval_s = 1 / rate_hz if rate_hz else 0.0
        self._next_s = 0.0
        self._hushed = False
        self._link = link
        self._clock = clock or Clock()
        self._line: _Line | None = None
        self._unplugged: _Line | None = None
        self._orders: SimpleQueue[tuple[Callable[[], None], Future[None]]] = SimpleQueue()
        self._stopping = False
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._plug()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        self._unplug()
        if self._unplugged:
            self._unplugged.forget()
        os.close(self._bell)

    @property
    def device(self) -> Path:
        """What to open: the link if there is one, else the node."""
        return self._link or Path(self._node)

    def unplug(self) -> None:
        """Pull the cable. What was sent and not read yet is lost; the next epoch waits."""
        self._order(self._unplug)

    def hush(self) -> None:
        """Send no more. What was sent can still be read."""
        self._order(self._hush)

    def replug(self) -> None:
        """Put the cable back: the same receiver, on another node.

        Raises:
            AgentError: as the constructor.
        """
        self._order(self._plug)

    def _order(self, obey: Callable[[], None]) -> None:
        """Have the thread do it, which alone touches the line; return when it is done."""
        done: Future[None] = Future()
        self._orders.put((obey, done))
        os.eventfd_write(self._bell, 1)
        done.result()

    # From here on only the simulator's thread; before it starts and after it ended, its owner.

    def _run(self) -> None:
        try:
            for epoch in self._epochs:
                if not self._send(epoch):
                    break
                self.sent += 1
            self._wait_until_taken()
            self.done.set()
            while True:
                self._wait(None)
        except _StoppedError:
            pass
        finally:
            self.done.set()

    def _send(self, epoch: bytes) -> bool:
        """Send it when it is due; ``False`` if nothing is to be sent any more."""
        while (left_s := self._left_s()) is None or left_s > 0:
            self._wait(left_s)
            if self._hushed:
                return False
        self._next_s = max(self._next_s + self._interval_s, self._clock.monotonic_s())
        line = self._line
        while epoch and line and line is self._line:
            try:
                epoch = epoch[os.write(line.master, epoch) :]
            except BlockingIOError:
                self._wait(None, for_room=True)
        return True

    def _left_s(self) -> float | None:
        """Until the next epoch is due; ``None`` while nobody has opened the device."""
        if self._line is None or self._line.opened_s is None:
            return None
        due_s = max(self._next_s, self._line.opened_s + _SETTLE_S)
        return due_s - self._clock.monotonic_s()

    def _wait_until_taken(self) -> None:
        # What was written reaches the device a little later, and looks read until then.
        while self._wait(_SETTLE_S) or not (self._line and self._line.is_taken()):
            continue

    def _wait(self, timeout_s: float | None, *, for_room: bool = False) -> bool:
        """Until an order comes, or somebody touches the device; ``False`` if the time passed."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if self._line:
            poll.register(self._line.events, select.POLLIN)
            poll.register(self._line.master, select.POLLIN | (select.POLLOUT if for_room else 0))
        woken = poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1000))
        if self._line:
            self._line.look(self._clock.monotonic_s())
        if (self._bell, select.POLLIN) in woken:
            os.eventfd_read(self._bell)
        while not self._orders.empty():
            obey, done = self._orders.get()
            try:
                done.set_result(obey())
            except AgentError as error:
                done.set_exception(error)
        if self._stopping:
            raise _StoppedError
        return bool(woken)

    def _hush(self) -> None:
        self._hushed = True

    def _plug(self) -> None:
        if self._line:
            return
        try:
            line = _Line()
            with contextlib.ExitStack() as failed:
                failed.callback(line.forget)
                failed.callback(line.unplug)
                if self._link:
                    _point(self._link, line.device)
                failed.pop_all()
        except OSError as error:
            raise AgentError(f"cannot make a simulated receiver: {error}") from error
        self._line, self._node = line, line.device
        if self._unplugged:
            self._unplugged.forget()
            self._unplugged = None

    def _unplug(self) -> None:
        """Close the line, but keep the number of its node: the next line gets another."""
        if not self._line:
            return
        if self._link and _target(self._link) == self._node:
            self._link.unlink()
        self._line.unplug()
        self._unplugged, self._line = self._line, None


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)  # noqa: PTH115 - compared as the text that it is
    except OSError:
        return None


def _point(link: Path, node: str) -> None:
    """Let ``link`` name ``node``, in one step: there is no moment without a link."""
    if link.exists() and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "is there already, and is no link", str(link))
    new = link.with_name(f".{link.name}.{os.getpid()}")
    new.symlink_to(node)
    new.replace(link)
