"""The table of injected faults: each one is named with its remedy, and nothing else is blamed."""

import contextlib
import errno
import fcntl
import os
import pwd
import re
import socket
import sqlite3
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from ackqueue import damage
from bench import START_MS, Bench, Calendar, answers
from machines import Machine
from misbehaving import (
    answer,
    ca_file,
    demands_certificates,
    drips,
    hang,
    pair_file,
    says,
    swallowed_syn,
    tls_server_context,
)
from nmea import gga, line, rmc
from ports import free_port
from processes import ROOT

from telemetry_agent import __version__
from telemetry_agent.ackqueue.file.lock import QueueLock
from telemetry_agent.ackqueue.recovery.set_aside_files import move_away
from telemetry_agent.addresses import Address, Resolve
from telemetry_agent.daemon import client
from telemetry_agent.doctor import agent_checks
from telemetry_agent.doctor.agent_checks import AgentChecks
from telemetry_agent.doctor.checks import NAMES
from telemetry_agent.doctor.findings import Finding
from telemetry_agent.doctor.storage_checks import disk_space
from telemetry_agent.errors import AgentError
from telemetry_agent.gnss.sources.on_connect import command_bytes
from telemetry_agent.lab.drive import Drive

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can seed this fault")

Seed = Callable[[Bench], object]


class Fault(NamedTuple):
    seed: Seed
    name: str
    """The check that must name it."""
    verdict: str
    said: str
    """Regular expressions."""
    remedy: str


FAULTS: list[Any] = []


def fault(
    name: str, verdict: str, said: str, remedy: str, *marks: pytest.MarkDecorator
) -> Callable[[Seed], Seed]:
    """Register a fault and its expected finding."""

    def add(seed: Seed) -> Seed:
        row = Fault(seed, name, verdict, said, remedy)
        FAULTS.append(pytest.param(row, id=getattr(seed, "__name__", ""), marks=marks))
        return seed

    return add


# The config


@fault("config", "fail", "upload.timout is not a key.*did you mean upload.timeout", "config check")
def a_misspelt_key(bench: Bench) -> None:
    bench.upload["timout"] = 3


@fault("config", "fail", "gps.baud = 9601: must be", "config check")
def a_bad_value(bench: Bench) -> None:
    bench.gps["baud"] = 9601


@fault("config", "warn", "for the device raspberrypi", "called raspberrypi, as many others")
def a_name_that_many_have(bench: Bench) -> None:
    bench.cleanup.enter_context(
        mock.patch.dict(os.environ, {"TELEMETRY_AGENT_DEVICE": "raspberrypi"})
    )


@fault("config", "warn", "for the device raspberrypi", "as many others are.*set device =")
def a_name_that_many_devices_share(bench: Bench) -> None:
    bench.device = "raspberrypi"


@fault("config", "warn", "for the device van-07", "TELEMETRY_AGENT_UPLOAD_URL")
def a_variable_that_means_nothing(bench: Bench) -> None:
    bench.cleanup.callback(os.environ.pop, "TELEMETRY_AGENT_UPLOAD_URL")
    os.environ["TELEMETRY_AGENT_UPLOAD_URL"] = "http://x/"


@fault("config", "fail", r"nobody may not read .*/config.toml \(root:", "chown nobody: ", ROOT_ONLY)
def a_config_that_only_root_may_read(bench: Bench) -> None:
    bench.user = "nobody"
    bench.state.chmod(0o777)
    bench.folder.chmod(0o755)
    (bench.folder / "config.toml").touch(0o600)
    services = mock.patch("telemetry_agent.doctor.checks._CONFIG_FOLDER", bench.folder)
    bench.cleanup.enter_context(services)


# The receiver


@fault("device", "fail", "/dev/ttyNONE is not there", "plug the receiver in.*by-id")
def an_unplugged_receiver(bench: Bench) -> None:
    bench.source = "/dev/ttyNONE"


@fault("device", "fail", "ttyNONE is not there", r"set gps\.source = .*\(u-blox 7 is there\)")
def a_receiver_on_another_port(bench: Bench) -> None:
    machine(bench).usb("1546:01a7", "u-blox AG|u-blox 7", "ttyACM0", by_id="u-blox_AG")
    bench.source = "/dev/ttyNONE"


@fault("device", "fail", "no receiver found", "plug one in, or .*do_serial_hw 0")
def no_receiver_for_auto(bench: Bench) -> None:
    machine(bench)
    bench.source = "auto"


@fault("device", "fail", "/dev/ttyUSB0 is not there; brltty runs", "remove the package brltty")
def a_bridge_that_the_braille_driver_took(bench: Bench) -> None:
    machine(bench).process(776, "brltty")
    bench.source = "/dev/ttyUSB0"


@fault("device", "fail", "FT232R.* may be a receiver", "if it is one, set gps.source")
def an_unknown_port_for_auto(bench: Bench) -> None:
    machine(bench).usb("0403:6001", "FTDI|FT232R USB UART", "ttyUSB0")
    bench.source = "auto"


@fault("device", "fail", "queue.db is not a serial port", "name the receiver's device")
def a_file_for_a_port(bench: Bench) -> None:
    bench.queue.touch()
    bench.source = str(bench.queue)
    bench.queue.unlink()
    bench.source = str(bench.record(b""))
    bench.source = str(Path(bench.source).rename(bench.folder / "not_queue.db"))


@fault(
    "permissions",
    "fail",
    r"nobody may not read /dev/pts/\d+ \(root:",
    "sudo usermod -aG .* nobody.*restart",
    ROOT_ONLY,
)
def a_port_that_the_agent_may_not_read(bench: Bench) -> None:
    device = bench.plug_in()
    os.fchown(device, 0, 5)
    os.fchmod(device, 0o660)
    bench.user = "nobody"
    bench.state.chmod(0o777)
    bench.folder.chmod(0o755)


@fault("port in use", "fail", r"gpsd \(pid 777\) has /dev/tty", "gpsd://localhost:2947.*disable")
def a_port_that_gpsd_has(bench: Bench) -> None:
    machine(bench).process(777, "gpsd", has="/dev/tty")
    bench.source = "/dev/tty"


@fault(
    "port in use", "fail", "a login console has /dev/tty", "systemctl disable --now serial-getty"
)
def a_port_with_a_login(bench: Bench) -> None:
    machine(bench).process(778, "agetty", has="/dev/tty")
    bench.source = "/dev/tty"


@fault("device", "warn", "/dev/tty .u-blox 7. may have another name when", "source = .*/by-id/")
def a_port_whose_name_may_change(bench: Bench) -> None:
    machine(bench).usb("1546:01a7", "u-blox AG|u-blox 7", "tty", by_id="u-blox_AG")
    (bench.root / "dev/tty").symlink_to("/dev/tty")
    bench.source = "/dev/tty"
    runs(bench, receiver={"source": "/dev/tty", "state": "3d"})


@fault("device", "pass", "^tcp://192.0.2.7:4001: read from the network", "")
def a_receiver_in_the_network(bench: Bench) -> None:
    bench.source = "tcp://192.0.2.7:4001"
    runs(bench)


@fault("permissions", "fail", "a login console has", "serial-getty@tty-.*`, then reboot", ROOT_ONLY)
def a_port_whose_mode_the_login_has_changed(bench: Bench) -> None:
    a_port_that_the_agent_may_not_read(bench)
    port = Path("/dev") / f"tty-{os.getpid()}"
    bench.cleanup.callback(port.unlink)
    os.mknod(port, 0o620 | stat.S_IFCHR, Path(bench.source).stat().st_rdev)
    bench.source = str(port)
    machine(bench).process(778, "agetty", has=str(port))


@fault("sentences", "fail", "in use by another program", "fuser -v .*stop it")
def a_port_that_is_locked(bench: Bench) -> None:
    device = bench.plug_in()
    other = os.open(os.ttyname(device), os.O_RDWR | os.O_NOCTTY)
    bench.cleanup.callback(os.close, other)
    fcntl.flock(other, fcntl.LOCK_EX)


@fault("sentences", "fail", "no data from /dev/pts", "check the receiver's wiring and power")
def a_silent_receiver(bench: Bench) -> None:
    bench.plug_in()


@fault("sentences", "fail", "at 9600 baud is not NMEA", 'set gps.baud = "auto" to detect')
def a_wrong_baud_rate(bench: Bench) -> None:
    # 9600 baud, read at 115200: no byte is text.
    bench.plug_in(bytes([0x80, 0xE0, 0x00, 0x98, 0xFE]) * 60, every_s=0.02)


@fault("sentences", "fail", "sends UBX, not NMEA", "gpsctl -f -n /dev/pts.*on_connect")
def a_receiver_that_speaks_ubx(bench: Bench) -> None:
    bench.plug_in(command_bytes("ubx:01 07 08 00 01 02 03 04 05 06 07 08"))


@fault(
    "sentences",
    "warn",
    r"\d+ of \d+ sentences arrive damaged",
    "check the receiver's cable, ground",
)
def a_bad_cable(bench: Bench) -> None:
    bench.plug_in(*(epoch.replace(b"GNVTG,", b"GNVTG;") for epoch in driving()))


@fault("line load", "warn", r"\d{3}% of 4800 baud", "raise the receiver's baud rate.*GSV is")
def a_line_that_is_too_slow(bench: Bench) -> None:
    crowded(bench)
    # A pty has no baud limit, so the test treats it as a serial line.
    patch = mock.patch("telemetry_agent.doctor.reception.line_baud", lambda _name, baud: baud)
    bench.cleanup.enter_context(patch)


def crowded(bench: Bench) -> None:
    """Send more bytes than 4800 baud carry."""
    bench.gps["baud"] = 4800
    bench.plug_in(*(Drive(START_MS, interval_ms=250).epoch(i) for i in range(3)), every_s=0.25)


def driving(more: bytes = b"") -> list[bytes]:
    return [Drive(START_MS).epoch(i) + more for i in range(30)]


@fault("antenna", "fail", "sees no antenna", "plug the antenna in")
def a_cut_antenna(bench: Bench) -> None:
    bench.plug_in(*driving(line("GNTXT,01,01,01,ANTSTATUS=OPEN")))


@fault("antenna", "fail", "short circuit", "look for water")
def a_shorted_antenna(bench: Bench) -> None:
    bench.plug_in(*driving(line("GNTXT,01,01,01,ANTSTATUS=SHORT")))


@fault("antenna", "pass", "^the receiver reports OK$", "")
def an_antenna_that_is_well(bench: Bench) -> None:
    bench.plug_in(*driving(line("GNTXT,01,01,01,ANTSTATUS=OK")))


@fault("line load", "warn", "its buffer overflows", "raise the receiver's baud rate")
def a_receiver_that_is_short_of_room(bench: Bench) -> None:
    bench.plug_in(*driving(line("GNTXT,01,01,00,txbuf alloc")))


@fault("fix", "warn", "3D, .* in the datum W72: it may be off", "^set the receiver to WGS 84")
def a_receiver_with_another_datum(bench: Bench) -> None:
    bench.plug_in(*driving(line("GPDTM,W72,,0.00,N,0.01,E,-2.8,W84")))


def blind(*snrs: int) -> bytes:
    """Return an epoch without a fix, and satellites with these signals."""
    seen = "".join(f",{prn:02},45,180,{snr:02}" for prn, snr in enumerate(snrs, 1))
    return (
        line("GPRMC,120000.00,V,,,,,,,231126,,,N")
        + line("GPGGA,120000.00,,,,,0,00,99.99,,,,,,")
        + line(f"GPGSV,1,1,{len(snrs):02}{seen}")
    )


@fault("fix", "fail", "2 satellites are heard, the best at 22", "open sky; it needs 4 satellites")
def a_receiver_indoors(bench: Bench) -> None:
    bench.plug_in(blind(22, 17))


@fault("fix", "fail", "no satellite is heard", "antenna is often unplugged")
def a_receiver_that_hears_nothing(bench: Bench) -> None:
    bench.plug_in(blind())


@fault("fix", "warn", "none yet: 4 satellites have a strong signal", "wait: .* after power-on")
def a_receiver_that_starts(bench: Bench) -> None:
    bench.plug_in(blind(41, 38, 33, 31))


@fault("fix", "fail", "positions, but no date", "RMC or ZDA sentence on")
def a_receiver_without_a_date(bench: Bench) -> None:
    bench.clock = Calendar(synchronised=False)
    bench.plug_in(gga("120000.00"), gga("120001.00"))


@fault("fix", "fail", "too far in the past to be true", "week counter rolled over")
def a_receiver_from_another_age(bench: Bench) -> None:
    bench.clock = Calendar(synchronised=False)
    bench.plug_in(rmc("120000.00", date="010180"), rmc("120001.00", date="010180"))


@fault("fix", "fail", "sends no sentence with a position", "RMC and GGA sentences on")
def a_receiver_that_tells_satellites_only(bench: Bench) -> None:
    bench.plug_in(line("GPGSV,1,1,00"))


@fault("sentences", "fail", "sentences without a checksum", "switch the checksum on")
def a_receiver_without_checksums(bench: Bench) -> None:
    bench.plug_in(b"$GPRMC,120000.00,A,4807.038,N,01131.000,E,022.4,084.4,231126,,,A\r\n")


@fault("sentences", "fail", "sentences with wrong checksums only", "correct the program or sketch")
def a_sketch_that_includes_the_dollar(bench: Bench) -> None:
    bench.plug_in(b"$GPRMC,120000.00,A,4807.038,N,01131.000,E,022.4,084.4,231126,,,A*00\r\n")


@fault("sentences", "fail", "AIS messages only", "name a GNSS receiver in gps.source")
def a_port_of_an_ais_receiver(bench: Bench) -> None:
    bench.plug_in(b"!AIVDM,1,1,,A,15RTgt0PAso;90TKcjM8h6g208CQ,0*4A\r\n")


@fault("sentences", "fail", "sends text that is not NMEA", "name a GNSS receiver")
def a_port_of_a_modem_that_takes_commands(bench: Bench) -> None:
    bench.plug_in(b"\r\n+CGPSINFO: ,,,,,,,,\r\n\r\nOK\r\n")


@fault("fix", "fail", "sends proprietary sentences only", "RMC and GGA sentences on")
def a_receiver_with_proprietary_sentences(bench: Bench) -> None:
    bench.plug_in(line("PUBX,00,120000.00,4717.113210,N,00833.915187,E,546.589,G3"))


@fault("fix", "warn", "but simulated", "drop_quality")
def a_simulated_position(bench: Bench) -> None:
    bench.source = f"file://{bench.record(rmc('120000.00') + gga('120000.00', quality='8'))}"


@fault("clock", "warn", r"system clock is 14 d 0 h behind GNSS time \(2026-11-23T", "set-ntp true")
def a_clock_that_is_behind(bench: Bench) -> None:
    bench.clock = Calendar(START_MS - 14 * 86_400_000, synchronised=False)
    bench.plug_in(*driving())


@fault(
    "clock",
    "warn",
    "the synchronised system clock is (59 d 23|60 d 0) h ahead",
    "its date may|rolled over",
)
def a_receiver_in_the_past(bench: Bench) -> None:
    bench.clock = Calendar(START_MS + 60 * 86_400_000)
    bench.plug_in(*driving())


# The disk and the queue


@fault("state directory", "fail", "is not a folder", "set queue.path")
def a_file_for_the_state_directory(bench: Bench) -> None:
    bench.state.rmdir()
    bench.state.touch()


@fault(
    "state directory",
    "fail",
    r"nobody may not write .*/state \(root:",
    "chown -R nobody: /",
    ROOT_ONLY,
)
def a_state_directory_of_root(bench: Bench) -> None:
    bench.user = "nobody"


@fault("state directory", "fail", "nobody may not write", "holds other files too", ROOT_ONLY)
def a_queue_among_other_things(bench: Bench) -> None:
    bench.user = "nobody"
    (bench.state / "others").touch()


@fault("state directory", "fail", "/state was deleted under the agent", "restart the agent")
def a_state_directory_that_was_deleted_under_the_agent(bench: Bench) -> None:
    bench.state.rmdir()
    services = mock.patch("telemetry_agent.doctor.storage_checks.STATE_DIRECTORY", bench.state)
    bench.cleanup.enter_context(services)
    runs(bench)


@fault(
    "state directory", "fail", "does not exist, and nobody may not create", "install -d", ROOT_ONLY
)
def a_state_directory_that_cannot_be_made(bench: Bench) -> None:
    bench.user = "nobody"
    bench.state /= "deep"


@fault("state directory", "pass", "does not exist yet; root may create it", "", ROOT_ONLY)
def a_folder_that_the_agent_will_make(bench: Bench) -> None:
    bench.user = "root"
    bench.state.rmdir()


@fault("state directory", "pass", "is created when the service starts", "")
def a_service_that_has_never_run(bench: Bench) -> None:
    bench.state.rmdir()
    services = mock.patch("telemetry_agent.doctor.storage_checks.STATE_DIRECTORY", bench.state)
    bench.cleanup.enter_context(services)


@fault("state directory", "warn", "a write reaches the disk after .* ms", "worn out or busy")
def a_slow_disk(bench: Bench) -> None:
    patience = mock.patch("telemetry_agent.doctor.storage_checks._SLOW_WRITE_S", 0)
    bench.cleanup.enter_context(patience)


@fault(
    "state directory",
    "fail",
    "nobody may not write .*queue.db",
    r"`sudo chown nobody: \S+/queue.db \S+/queue.db.lock`",
    ROOT_ONLY,
)
def a_queue_of_root_among_other_things(bench: Bench) -> None:
    a_queue_of_root(bench)
    (bench.state / "others").touch()


@fault(
    "state directory",
    "fail",
    "nobody may not write .*queue.db",
    r"chown -R nobody: \S+/state`",
    ROOT_ONLY,
)
def a_queue_of_root(bench: Bench) -> None:
    bench.user = "nobody"
    bench.state.chmod(0o777)
    bench.recorded()


@fault("state directory", "fail", "queue.db is not a regular file", "set queue.path to a file,")
def a_folder_that_was_named_as_the_queue(bench: Bench) -> None:
    (bench.state / "queue.db").mkdir()
    (bench.state / "queue.db/holiday.jpg").touch()


@fault("state directory", "fail", "queue.db is not a regular file", "^set queue.path", ROOT_ONLY)
def a_folder_that_was_named_as_the_queue_in_one_of_root(bench: Bench) -> None:
    bench.user = "nobody"
    (bench.state / "queue.db").mkdir()


@fault("state directory", "fail", "queue.db.lock is not a regular file", "rm -r /.*queue.db.lock")
def a_lock_that_is_no_file(bench: Bench) -> None:
    (bench.state / "queue.db.lock").mkdir()


@fault("state directory", "fail", "queue.db-shm is not a regular file", "rm -r /.*queue.db-shm")
def an_index_that_leads_elsewhere(bench: Bench) -> None:
    (bench.state / "queue.db-shm").symlink_to(bench.state / "precious")


@fault(
    "state directory",
    "fail",
    "does not let the service write to",
    "ReadWritePaths=.*state under",
    ROOT_ONLY,
)
def a_folder_that_only_the_unit_forbids(bench: Bench) -> None:
    runs(bench, storage={"state": "runtime", "last_error": "read-only file system"})


@fault("state directory", "fail", "Read-only file system", "check of the file system", ROOT_ONLY)
def a_folder_of_a_read_only_container(bench: Bench) -> None:
    bench.user = pwd.getpwuid(os.geteuid()).pw_name
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(bench.state)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    bench.cleanup.callback(subprocess.run, ["umount", str(bench.state)], check=True)


@fault("file system", "fail", "is on tmpfs .*a power cut loses everything", "set queue.path")
def a_state_directory_in_memory(bench: Bench) -> None:
    shared = Path("/dev/shm") / f"doctor-{os.getpid()}"
    shared.mkdir()
    bench.cleanup.callback(shared.rmdir)
    bench.state = shared
    bench.root = Path("/")  # the real mounts


@fault("file system", "fail", "is on overlay .*a power cut loses everything", "do_overlayfs 1")
def an_overlay(bench: Bench) -> None:
    bench.mounted(
        "29 1 0:2 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/run/up,workdir=/w",
        "30 29 0:3 / /run rw - tmpfs tmpfs rw",
    )


@fault("file system", "fail", "is on vfat .*no journal: a power cut loses", "ext4")
def a_fat_stick(bench: Bench) -> None:
    bench.mounted(
        "29 1 8:1 / / rw - ext4 /dev/root rw", f"30 29 8:2 / {bench.state} rw - vfat /dev/sda1 rw"
    )


@fault("file system", "fail", "is on nfs4 .*over a network", "ext4")
def a_network_file_system(bench: Bench) -> None:
    bench.mounted(f"30 29 0:9 / {bench.folder} rw - nfs4 server:/x rw")


@fault("file system", "warn", "is on ubifs2 .*which may not survive power cuts", "ext4")
def a_file_system_that_nobody_has_cut_the_power_of(bench: Bench) -> None:
    bench.mounted(f"30 29 0:9 / {bench.folder} rw - ubifs2 ubi0 rw")


@fault("file system", "skip", "/proc does not show which", "")
def a_machine_without_proc(bench: Bench) -> None:
    bench.mounted("")


@fault("disk space", "warn", "of 33.6 MB free: the disk is almost full", "du -xh", ROOT_ONLY)
def a_disk_that_is_almost_full(bench: Bench) -> None:
    mount_over_the_state(bench, "size=32m")


@fault("file system", "fail", "read-only", "remount,rw .*-T /.*replace the card")
def a_card_that_turned_read_only(bench: Bench) -> None:
    bench.mounted("29 1 8:1 / / ro,relatime - ext4 /dev/root ro,errors=remount-ro")


def mount_over_the_state(
    bench: Bench, options: str, kind: str = "tmpfs", disk: str = "tmpfs"
) -> None:
    mount = ["mount", "-t", kind, "-o", options, disk, str(bench.state)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    bench.cleanup.callback(subprocess.run, ["umount", str(bench.state)], check=True)


@fault("state directory", "fail", "written: Read-only file system", "^see the check of", ROOT_ONLY)
def a_read_only_disk_for_the_user_who_asks(bench: Bench) -> None:
    mount_over_the_state(bench, "ro")


@fault("disk space", "fail", "of 1.05 MB free: recording stops", "du -xh .* -T .*state", ROOT_ONLY)
def a_full_disk(bench: Bench) -> None:
    mount_over_the_state(bench, "size=1m")
    with contextlib.suppress(OSError):
        (bench.state / "others").write_bytes(bytes(2 << 20))


@fault("disk space", "fail", "no free inodes", "du -x --inodes .* -T .*state", ROOT_ONLY)
def a_disk_without_inodes(bench: Bench) -> None:
    mount_over_the_state(bench, "size=8m,nr_inodes=1")


@fault("queue", "fail", "50 positions, of these 1 damaged", "replace it")
def a_flipped_bit(bench: Bench) -> None:
    bench.recorded()
    with contextlib.closing(sqlite3.connect(bench.queue)) as database:
        database.execute("UPDATE fix SET lat_e9 = lat_e9 + 1 WHERE id = 17")
        database.commit()


@fault(
    "queue",
    "fail",
    "is damaged: .*(not a database|malformed)",
    "sets it aside when it starts",
)
def a_destroyed_header(bench: Bench) -> None:
    bench.recorded()
    with bench.queue.open("r+b") as file:
        file.write(b"\xff" * 100)


@fault("queue", "fail", "is damaged: .*malformed", "sets it aside when it starts")
def a_destroyed_page(bench: Bench) -> None:
    bench.recorded()
    data = bytearray(bench.queue.read_bytes())
    page = damage.number_bits(bytes(data), 17)[0][0] // damage.PAGE_BYTES * damage.PAGE_BYTES
    data[page : page + damage.PAGE_BYTES] = b"\xff" * damage.PAGE_BYTES
    bench.queue.write_bytes(data)


@fault("queue", "fail", "is damaged: the log of the queue .*is damaged", "sets it aside when")
def a_destroyed_log(bench: Bench) -> None:
    bench.recorded()
    bench.queue.with_name("queue.db-wal").write_bytes(b"\xa5" * 5000)


@fault("queue", "warn", "is still to be carried over", "when it runs")
def a_file_to_be_carried_over(bench: Bench) -> None:
    bench.recorded()
    move_away(bench.queue)
    bench.recorded()


@fault("queue", "fail", "is a database of another program", "sets it aside when it starts")
def a_file_of_another_program(bench: Bench) -> None:
    with contextlib.closing(sqlite3.connect(bench.queue)) as database:
        database.execute("CREATE TABLE song (title TEXT)")


# The endpoint


def resolving(error: Exception) -> Resolve:
    def resolve(_host: str, _port: int) -> list[Address]:
        raise error

    return resolve


@fault("name", "fail", "there is no host tracker.example", "correct upload.url")
def a_name_that_does_not_exist(bench: Bench) -> None:
    bench.url = "https://tracker.example/v1/fixes"
    bench.resolve = resolving(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))


@fault("name", "fail", "no name server answers for tracker.example", "ip route.*/etc/resolv.conf")
def no_name_server(bench: Bench) -> None:
    bench.url = "https://tracker.example/v1/fixes"
    bench.resolve = resolving(socket.gaierror(socket.EAI_AGAIN, "Temporary failure"))


@fault("name", "fail", "no name server answered", "ip route.*/etc/resolv.conf")
def a_silent_name_server(bench: Bench) -> None:
    over = threading.Event()
    bench.cleanup.callback(over.set)
    bench.url = "https://tracker.example/v1/fixes"

    def resolve(_host: str, _port: int) -> list[Address]:
        over.wait(60)
        return []

    bench.resolve = resolve


@fault(
    "tcp", "fail", r"connection refused by 127.0.0.1:\d+", "start the server.*port in upload.url"
)
def a_closed_port(bench: Bench) -> None:
    bench.url = f"http://127.0.0.1:{free_port()}/"


@fault("tcp", "fail", r"no connection to 127.0.0.1:\d+", "firewall")
def a_firewall_that_drops(bench: Bench) -> None:
    bench.url = f"http://127.0.0.1:{bench.cleanup.enter_context(swallowed_syn())}/"


@fault("tls", "fail", "certificate not trusted: self-signed", "set upload.ca_file")
def a_self_signed_certificate(bench: Bench) -> None:
    bench.serve(tls=tls_server_context())


@fault("tls", "fail", "expired; this machine's clock says 2026-11-23", "renew the server's")
def an_expired_certificate(bench: Bench) -> None:
    bench.upload["ca_file"] = str(ca_file("past"))
    bench.serve(tls=tls_server_context("past"))


@fault("tls", "fail", "the certificate is for another name", "certificate's name in upload.url")
def a_certificate_for_another_name(bench: Bench) -> None:
    bench.upload["ca_file"] = str(ca_file())
    port = bench.serve(tls=tls_server_context()).split(":")[2]
    bench.url = f"https://tracker.example:{port}"
    bench.resolve = lambda _host, number: [Address(socket.AF_INET, ("127.0.0.1", number))]


@fault("tls", "fail", "no TLS .*: it answers in plain http", "write http:// in upload.url")
def plain_http_where_tls_was_meant(bench: Bench) -> None:
    talks_first = drips(b"", first=b"HTTP/1.1 400 Bad Request\r\n\r\n", at_once=True)
    bench.url = bench.serve(then=talks_first).replace("http", "https")


@fault("tls", "fail", "no TLS .*: it says SSH-2.0-dropbear", "another service listens there")
def ssh_where_tls_was_meant(bench: Bench) -> None:
    greets = drips(b"", first=b"SSH-2.0-dropbear\r\n", at_once=True)
    bench.url = bench.serve(then=greets).replace("http", "https")


@fault("tls", "fail", "refuses this device's certificate .*: certificate expired", "renew yours")
def an_expired_certificate_of_ours(bench: Bench) -> None:
    bench.upload |= {"ca_file": str(ca_file()), "client_cert": str(pair_file("past"))}
    bench.serve(tls=demands_certificates(ssl.TLSVersion.TLSv1_2))


@fault("answer", "fail", "refuses this device's certificate .*: certificate required", "set upload")
def no_certificate_of_ours(bench: Bench) -> None:
    bench.upload["ca_file"] = str(ca_file())
    bench.serve(tls=demands_certificates(ssl.TLSVersion.TLSv1_3))


@fault(
    "tls", "fail", "no TLS handshake with .* within 4 s", "the port in upload.url.*versions of TLS"
)
def a_server_that_never_shakes_hands(bench: Bench) -> None:
    bench.serve(then=hang(after_reading=False), tls=tls_server_context())


@fault("credentials", "fail", "upload.token_file: cannot read .*/token", "correct it")
def a_token_that_is_not_there(bench: Bench) -> None:
    bench.upload["token_file"] = str(bench.folder / "token")


@fault("credentials", "fail", "nobody may not read upload.token_file", "chown nobody:", ROOT_ONLY)
def a_token_for_root_alone(bench: Bench) -> None:
    bench.upload["token_file"] = str(secret(bench, 0o600))
    bench.user = "nobody"
    bench.state.chmod(0o777)


def secret(bench: Bench, mode: int) -> Path:
    """A token file in a folder that every user can read."""
    token = bench.folder / "deep" / "token"
    token.parent.mkdir()
    token.write_text("s3cret-t0ken")
    token.chmod(mode)
    return token


@fault("answer", "fail", "the proxy does not connect to the endpoint", "check upload.proxy")
def a_proxy_that_refuses(bench: Bench) -> None:
    bench.upload["proxy"] = bench.serve(then=answer(502)).removesuffix("/v1/fixes")
    bench.url = "https://tracker.example/v1/fixes"


@fault(
    "credentials", "fail", "does not see upload.token_file", "sudo install -D -o nobody", ROOT_ONLY
)
def a_token_in_a_home(bench: Bench) -> None:
    bench.user, bench.hidden = "nobody", (bench.folder / "home",)
    bench.hidden[0].mkdir()
    bench.state.chmod(0o777)
    token = bench.hidden[0] / "token"
    token.write_text("s3cret-t0ken")
    bench.upload["token_file"] = str(token)


def in_a_home(bench: Bench, name: str) -> Path:
    """A file that the unit's sandbox hides."""
    bench.user, bench.hidden = "nobody", (bench.folder / "home",)
    bench.hidden[0].mkdir(exist_ok=True)
    bench.state.chmod(0o777)
    file = bench.hidden[0] / name
    file.write_text("s3cret-t0ken-for-the-page")
    return file


@fault("credentials", "fail", "does not see upload.ca_file", "and set upload.ca_file =", ROOT_ONLY)
def a_certificate_in_a_home(bench: Bench) -> None:
    bench.upload["ca_file"] = str(in_a_home(bench, "ca.pem"))


@fault("credentials", "fail", "does not see upload.proxy_password_file", "sudo install", ROOT_ONLY)
def a_proxy_password_in_a_home(bench: Bench) -> None:
    bench.upload["proxy_password_file"] = str(in_a_home(bench, "password"))
    bench.upload["proxy"] = bench.serve().removesuffix("/v1/fixes").replace("//", "//jane@")


@fault("files", "warn", "does not see page.token_file", "set page.token_file =", ROOT_ONLY)
def a_page_token_in_a_home(bench: Bench) -> None:
    bench.more = {"page": {"token_file": str(in_a_home(bench, "page"))}}


@fault("files", "warn", "does not see page.map", "sudo install.*set page.map", ROOT_ONLY)
def a_map_in_a_home(bench: Bench) -> None:
    link = bench.folder / "area.pmtiles"
    link.symlink_to(in_a_home(bench, "area.pmtiles"))
    bench.more = {"page": {"map": str(link)}}


@fault("files", "warn", "page.map: .* is not a PMTiles file", "correct page.map")
def a_map_that_is_not_one(bench: Bench) -> None:
    file = bench.folder / "area.pmtiles"
    file.write_text("nothing")
    bench.more = {"page": {"map": str(file)}}


@fault("files", "warn", "does not see extra.door", "write it where nobody may", ROOT_ONLY)
def an_attribute_in_a_home(bench: Bench) -> None:
    bench.more = {"extra": {"door": str(in_a_home(bench, "door"))}}


@fault("files", "warn", "extra.door: /none/door: No such file", "correct extra.door")
def an_attribute_that_is_not_there(bench: Bench) -> None:
    bench.more = {"extra": {"door": "/none/door"}}


@fault("files", "fail", "does not see gps.source", "set gps.source =", ROOT_ONLY)
def a_recording_in_a_home(bench: Bench) -> None:
    recording = Path(bench.source.removeprefix("file://"))
    bench.source = f"file://{recording.rename(in_a_home(bench, 'drive.nmea'))}"


@fault("credentials", "fail", "nobody may not look into .*/deep", "sudo install -D -o", ROOT_ONLY)
def a_token_in_a_folder_of_root(bench: Bench) -> None:
    token = secret(bench, 0o644)
    token.parent.chmod(0o700)
    bench.upload["token_file"], bench.user = str(token), "nobody"
    bench.state.chmod(0o777)


@fault(
    "credentials",
    "warn",
    "every user of this machine can read upload.token_file",
    "chown .* && sudo chmod o-rwx",
)
def a_token_for_everybody(bench: Bench) -> None:
    bench.upload["token_file"] = str(secret(bench, 0o644))


@fault("state directory", "fail", "the service does not see .*/state", "set queue.path", ROOT_ONLY)
def a_queue_where_the_service_sees_none(bench: Bench) -> None:
    bench.user, bench.hidden = "nobody", (bench.state,)


@fault(
    "authentication",
    "fail",
    r"401: the endpoint does not accept the credentials \(it says: unknown user\)",
    "credentials under .upload",
)
def a_wrong_token(bench: Bench) -> None:
    bench.upload["token_file"] = str(secret(bench, 0o600))
    bench.serve(then=answer(401, "unknown user"))


@fault(
    "authentication",
    "fail",
    "401: the endpoint requires credentials, and none are set",
    "set upload.token_file, or upload.username",
)
def no_credentials(bench: Bench) -> None:
    bench.serve(then=answer(401))


@fault("authentication", "fail", "403: the endpoint does not allow this device", "credentials")
def a_token_without_rights(bench: Bench) -> None:
    bench.serve(then=answer(403))


@fault("answer", "fail", "404 Not Found", "correct upload.url")
def a_wrong_path(bench: Bench) -> None:
    bench.serve(then=answer(404, "<h1>Not Found</h1>"))


@fault("answer", "fail", "redirected to http://portal.example", "log in to this network's portal")
def a_portal_that_redirects(bench: Bench) -> None:
    bench.serve(then=answer(302, headers={"Location": "http://portal.example/login"}))


@fault("answer", "fail", "200 with a web page", "log in to this network's portal")
def a_portal_that_shows_its_page(bench: Bench) -> None:
    bench.serve(then=answer(200, "<html>Welcome to our hotel</html>"))


@fault("answer", "warn", "503: maintenance", "nothing is lost")
def an_endpoint_that_is_down(bench: Bench) -> None:
    bench.serve(then=answer(503, "maintenance"))


@fault(
    "answer", "warn", "a batch without positions is refused", "only a position shows.*doctor --send"
)
def an_endpoint_that_wants_positions(bench: Bench) -> None:
    bench.serve(then=answer(422, "fixes must not be empty"))


@fault("answer", "fail", "not HTTP: 220 mail.example ESMTP", "another service")
def a_server_of_another_kind(bench: Bench) -> None:
    bench.serve(then=says(b"220 mail.example ESMTP\r\n"))


# The running agent


STATUS = {
    "running": True,
    "version": __version__,
    "pid": os.getpid(),
    "uptime_s": 7300.0,
    "receiver": {"source": "/dev/ttyACM0", "state": "3d"},
    "upload": {"state": "ok", "last_delivery_s": 4.0},
    "queue": {"pending": 3, "delivered": 90, "dead_letters": {}, "lost": {}},
}


def runs(bench: Bench, tapped: list[Any] | None = None, **changed: Any) -> None:
    heard = [{"raw": epoch.decode()} for epoch in (Drive(START_MS).epoch(i) for i in range(3))]
    heard.insert(0, {"source": "/dev/ttyACM0", "state": "3d"})
    bench.ask = answers(status=[STATUS | changed], tap=heard if tapped is None else tapped)


@fault("agent", "fail", "the process with pid .* and does not answer", "^restart the agent$")
def an_agent_that_hangs(bench: Bench) -> None:
    lock = QueueLock(bench.queue)
    bench.cleanup.callback(lock.release)


@fault("agent", "fail", "the agent at .* does not answer", "systemctl restart")
def an_agent_that_does_not_answer(bench: Bench) -> None:
    bench.user = pwd.getpwuid(os.geteuid()).pw_name
    bench.ask = answers(status=[AgentError("the agent at x does not answer")])


@fault("agent", "warn", "cannot ask the agent", "^use sudo$")
def an_agent_that_this_user_may_not_ask(bench: Bench) -> None:
    refused = AgentError("cannot ask the agent at x: Permission denied", "use sudo, or join")
    refused.__cause__ = PermissionError()
    bench.ask = answers(status=[refused])


@fault("agent", "warn", "does not run: nothing is recorded", "systemctl enable --now")
def an_agent_that_does_not_run(bench: Bench) -> None:
    services = (bench.folder / "config.toml",)
    patch = mock.patch("telemetry_agent.doctor.agent_checks.DEFAULT_PATHS", services)
    bench.cleanup.enter_context(patch)
    bench.ask = answers(status=[client.NoAgentError("no agent")])
    bench.user = pwd.getpwuid(os.geteuid()).pw_name
    machine_file(bench, "usr/lib/systemd/system/telemetry-agent.service", "[Service]")


def machine_file(bench: Bench, name: str, text: str) -> None:
    file = bench.root / name
    file.parent.mkdir(parents=True)
    file.write_text(text)


@fault(
    "agent", "warn", "does not run: nothing is recorded", "run --config .*config.toml` starts it"
)
def an_agent_with_a_config_that_is_not_the_service_s(bench: Bench) -> None:
    an_agent_that_does_not_run(bench)
    services = (Path("/etc/telemetry-agent/config.toml"),)
    patch = mock.patch("telemetry_agent.doctor.agent_checks.DEFAULT_PATHS", services)
    bench.cleanup.enter_context(patch)


@fault("agent", "warn", "does not run: nothing is recorded", "unmask telemetry-agent && .*enable")
def a_masked_service(bench: Bench) -> None:
    an_agent_that_does_not_run(bench)
    machine_file(bench, "etc/systemd/system/other.service", "[Service]")
    (bench.root / "etc/systemd/system/telemetry-agent.service").symlink_to(os.devnull)


@fault("agent", "warn", "does not start at the next boot", "^`sudo systemctl enable --now")
def a_service_that_was_started_and_not_enabled(bench: Bench) -> None:
    runs(bench)
    machine_file(bench, f"proc/{os.getpid()}/cgroup", "0::/system.slice/telemetry-agent.service\n")


@fault("agent", "warn", "does not run: nothing is recorded", "^`telemetry-agent run.*` starts it")
def a_service_that_was_never_installed(bench: Bench) -> None:
    bench.ask = answers(status=[client.NoAgentError("no agent")])


@fault(
    "agent",
    "warn",
    f"version 0.0.1.*version {re.escape(__version__)} is installed",
    "^restart the agent$",
)
def an_agent_from_before_the_upgrade(bench: Bench) -> None:
    runs(bench, version="0.0.1")


@fault("agent", "warn", "the device page is held: Address already in use", r"correct \[page\]")
def a_page_that_cannot_listen(bench: Bench) -> None:
    runs(bench, page={"state": "held", "last_error": "Address already in use"})


@fault("agent", "warn", "device page is held: use sudo to see the reason", r"correct \[page\]")
def a_page_that_is_held_for_what_others_may_not_see(bench: Bench) -> None:
    runs(bench, page={"state": "held"})


@fault("antenna", "fail", "sees no antenna", "plug the antenna in")
def a_cut_antenna_of_which_only_the_agent_heard(bench: Bench) -> None:
    runs(bench, receiver={"source": "/dev/ttyACM0", "state": "3d", "antenna": "OPEN"})


@fault("delivery", "fail", "held: 401: unknown token; 3 positions wait", "reload telemetry-agent")
def uploads_that_are_held(bench: Bench) -> None:
    bench.user = pwd.getpwuid(os.geteuid()).pw_name
    runs(bench, upload={"state": "held", "last_error": "401: unknown token"})


@fault("agent", "warn", "another upload.url than this config: old.example", "^restart the agent; ")
def a_url_that_the_agent_has_not_read(bench: Bench) -> None:
    runs(bench, upload={"state": "unreachable", "host": "old.example"})


@fault("agent", "warn", "another gps.source than this config: /dev/ttyACM0", "sets a variable")
def a_receiver_that_the_agent_has_not_read(bench: Bench) -> None:
    bench.plug_in()
    runs(bench)


@fault("port in use", "fail", r"cat \(pid 777\) has /dev/tty", "sudo kill 777")
def a_port_that_another_program_reads_beside_the_agent(bench: Bench) -> None:
    made = machine(bench)
    made.process(os.getpid() + 1, "telemetry-agent", has="/dev/tty")
    made.process(777, "cat", has="/dev/tty")
    bench.source = "/dev/tty"
    receiver = {"source": "/dev/tty", "state": "3d"}
    runs(bench, [], pid=os.getpid() + 1, receiver=receiver)


@fault("delivery", "fail", "held: 401; 3 positions wait", "to try at once: restart the agent")
def uploads_that_are_held_in_an_agent_without_the_service(bench: Bench) -> None:
    runs(bench, upload={"state": "held", "last_error": "401"})


@fault("delivery", "fail", "^held; 3 positions wait", "use sudo to see the reason")
def uploads_that_are_held_for_what_others_may_not_see(bench: Bench) -> None:
    runs(bench, upload={"state": "held"})


@fault("delivery", "warn", "portal: nothing .*complete at the endpoint until 14:02", "nothing is")
def uploads_behind_a_portal(bench: Bench) -> None:
    runs(bench, upload={"state": "portal", "last_error": "302", "complete_until": "14:02"})


@fault("delivery", "warn", "ok: .* refuses the backlog: device a: 404", "earlier name")
def a_backlog_that_is_refused_while_new_positions_are_accepted(bench: Bench) -> None:
    runs(bench, upload={"state": "ok", "last_delivery_s": 4.0, "backlog_error": "device a: 404"})


@fault("queue", "warn", "the endpoint refused 2,000", "queue list --state ack_failed")
def dead_letters(bench: Bench) -> None:
    runs(bench, queue=STATUS["queue"] | {"dead_letters": {"400: bad": 2000}})  # type: ignore[operator]


@fault("queue", "warn", "full", "larger queue.max_size")
def a_full_queue(bench: Bench) -> None:
    runs(bench, queue=STATUS["queue"] | {"full": True})  # type: ignore[operator]


@fault(
    "queue",
    "warn",
    "lost: 7 damaged on the disk, 3,000 while the disk refused them$",
    "replace it",
)
def a_disk_that_loses_data(bench: Bench) -> None:
    lost = {"damaged": 7, "discarded": 2, "memory": 3000}
    runs(bench, queue=STATUS["queue"] | {"lost": lost})  # type: ignore[operator]


@fault("agent", "fail", "with the last good config: not TOML", "reload telemetry-agent")
def a_config_that_does_not_work_and_a_service_that_does(bench: Bench) -> None:
    runs(bench, config={"state": "unreadable", "last_error": "not TOML"})


@fault("sentences", "fail", "the agent reads .*, which sends no sentences now", "its connection")
def a_receiver_that_says_nothing_to_the_agent(bench: Bench) -> None:
    runs(bench, tapped=[{"source": "/dev/ttyACM0", "state": "silent"}])


def trouble(state: str, message: str) -> dict[str, str]:
    """The receiver part of the agent's status."""
    return {"source": "/dev/x", "state": state, "message": message, "remedy": "unplug it"}


@fault("port in use", "fail", "/dev/x is in use by another program", "unplug it")
def a_port_that_another_program_took_before_the_agent(bench: Bench) -> None:
    runs(bench, [], receiver=trouble("busy", "/dev/x is in use by another program"))


@fault(
    "permissions",
    "fail",
    "but the running agent was refused: .* its unit does not allow this device",
    "restart telemetry-agent`; if that is .*DeviceAllow=/dev/pts/.* rw under",
)
def a_port_that_only_the_unit_forbids(bench: Bench) -> None:
    bench.user = pwd.getpwuid(os.geteuid()).pw_name
    bench.plug_in()
    refused = trouble("absent", f"no permission to read {bench.source}")
    runs(bench, [], receiver=refused | {"reason": "no-permission"})


@fault("sentences", "fail", "no connection to 192.0.2.7", "unplug it")
def a_receiver_that_the_agent_cannot_connect_to(bench: Bench) -> None:
    runs(bench, [], receiver=trouble("absent", "no connection to 192.0.2.7:4001"))


@fault("sentences", "fail", "/dev/x sends UBX, not NMEA", "unplug it")
def a_receiver_whose_fault_the_agent_knows(bench: Bench) -> None:
    silent = [{"source": "/dev/x", "state": "binary"}]
    runs(bench, silent, receiver=trouble("binary", "/dev/x sends UBX, not NMEA"))


@fault("sentences", "warn", "not listened to: only root", "use sudo")
def an_asker_that_may_not_listen(bench: Bench) -> None:
    runs(bench, tapped=[AgentError("only root and the agent's user and group may", "use sudo")])


def machine(bench: Bench) -> Machine:
    """Simulate another machine."""
    mounts = (bench.root / "proc/self/mountinfo").read_text()
    (bench.root / "proc/self/mountinfo").unlink()
    (bench.root / "proc/self").rmdir()
    (bench.root / "proc").rmdir()
    made = Machine(bench.root)
    bench.mounted(mounts)
    return made


def failing(found: dict[str, Finding]) -> set[str]:
    return {finding.name for finding in found.values() if finding.verdict == "fail"}


@pytest.mark.parametrize("seeded", FAULTS)
def test_a_seeded_fault_is_named_with_its_remedy(bench: Bench, seeded: Fault) -> None:
    seeded.seed(bench)
    found = bench.told()
    told = found[seeded.name]
    assert told.verdict == seeded.verdict, found
    assert re.search(seeded.said, told.said), told
    assert re.search(seeded.remedy, told.remedy), told
    assert "\n" not in told.said + told.remedy
    assert failing(found) <= {seeded.name}, found


def test_the_agent_of_the_default_config_is_the_service(bench: Bench) -> None:
    machine_file(bench, "usr/lib/systemd/system/telemetry-agent.service", "[Service]")
    stopped = answers(status=[client.NoAgentError("no agent")])
    agent = AgentChecks(bench.queue, agent_checks.Machine(root=bench.root, ask=stopped))
    assert agent.examine().remedy.startswith("`sudo systemctl enable --now telemetry-agent`")


def test_what_an_agent_that_does_not_answer_would_know_is_skipped(bench: Bench) -> None:
    an_agent_that_does_not_answer(bench)
    found = bench.told()
    assert {found[name].said for name in ("device", "delivery")} == {"needs agent"}


def test_no_secret_is_told(bench: Bench) -> None:
    token = bench.folder / "token"
    token.write_text("s3cret-t0ken")
    bench.upload["token_file"] = str(token)
    bench.serve(then=answer(403, "no rights for s3cret-t0ken"))
    found = bench.told()
    assert found["authentication"].verdict == "fail"
    assert "s3cret" not in str(found)


def test_a_credential_is_corrected_where_systemd_reads_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry_agent.secrecy.SERVICE_CREDENTIALS", bench.folder)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(bench.folder))
    (bench.folder / "token").touch()
    told = bench.told()["credentials"]
    assert (told.verdict, "is empty" in told.said) == ("fail", True)
    assert re.search("in /etc/credstore, then `sudo systemctl restart", told.remedy)


def test_a_corrected_credential_is_read_at_a_restart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(bench.folder))
    (bench.folder / "token").write_text("an-old-one")
    bench.serve(then=answer(401, "unknown token"))
    bench.user = pwd.getpwuid(os.geteuid()).pw_name
    runs(bench, upload={"state": "held", "last_error": "401: unknown token"})
    found = bench.told()
    for name in ("authentication", "delivery"):
        assert "`sudo systemctl restart telemetry-agent`" in found[name].remedy
        assert "reload" not in found[name].remedy


@ROOT_ONLY
def test_a_full_disk_is_not_tried_with_the_rights_of_root(bench: Bench) -> None:
    image = bench.folder / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "20", image], check=True)
    mount_over_the_state(bench, "loop", "ext4", str(image))
    with (bench.state / "others").open("wb") as file:
        disk = os.fstatvfs(file.fileno())
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize)
    written = bench.told()["state directory"]
    assert (written.verdict, written.said) == ("skip", "no space to test a write: see disk space")


@pytest.mark.parametrize(
    ("refused", "verdict", "remedy"),
    [
        (errno.EDQUOT, "fail", "quota"),
        (errno.EOPNOTSUPP, "pass", ""),
        (errno.EISDIR, "pass", ""),
        (errno.EROFS, "fail", "^see the check of the file system"),
        (errno.EIO, "fail", "dmesg"),
    ],
)
def test_why_the_disk_refuses_a_write_decides_the_remedy(
    refused: int, verdict: str, remedy: str, bench: Bench
) -> None:
    with mock.patch("os.fsync", side_effect=OSError(refused, os.strerror(refused))):
        written = bench.told()["state directory"]
    assert written.verdict == verdict
    assert re.search(remedy, written.remedy)


def test_a_folder_that_is_gone_has_no_space(tmp_path: Path) -> None:
    assert disk_space(tmp_path / "gone").verdict == "fail"


def test_every_remedy_is_there(bench: Bench) -> None:
    found = bench.told()
    assert not failing(found)
    assert all(f.remedy for f in found.values() if f.verdict in {"warn", "fail"})


def test_a_pty_has_no_line_load(bench: Bench) -> None:
    crowded(bench)
    assert bench.told()["line load"].verdict == "skip"


def test_binary_data_and_long_proprietary_sentences_are_no_damage(bench: Bench) -> None:
    long = line("PMTKCHN," + ",".join(["14001"] * 32))
    bench.plug_in(*(epoch + b"\xb5b\x01$z\x00" + long for epoch in driving()))
    assert bench.told()["sentences"].verdict == "pass"


def test_a_certificate_is_told_with_its_end_and_warned_of_two_weeks_before(bench: Bench) -> None:
    bench.upload["ca_file"] = str(ca_file())
    bench.serve(tls=tls_server_context())
    found = bench.told()["tls"]
    match = re.fullmatch(r"TLSv1\.[23], certificate trusted until (\d{4}-\d\d-\d\d)", found.said)
    assert match is not None, found
    assert (found.verdict, found.remedy) == ("pass", "")
    end = datetime.fromisoformat(f"{match[1]}T00:00:00Z") - timedelta(days=5)
    bench.clock = Calendar(round(end.timestamp() * 1000))
    found = bench.told()["tls"]
    assert re.fullmatch(rf".* until {match[1]}, [56] days left", found.said)
    assert (found.verdict, found.remedy) == ("warn", "renew the server's certificate")


def test_the_table_is_long_enough() -> None:
    assert len(FAULTS) >= 20


def test_nothing_fails_where_all_is_well(bench: Bench) -> None:
    runs(bench, receiver={"source": "/dev/tty", "state": "3d"})
    bench.source = "/dev/tty"
    found = bench.told()
    assert {f.name for f in found.values() if f.verdict != "pass"} <= {
        "antenna",
        "files",
        "line load",
        "proof",  # only with --send
        "tls",
    }


def test_every_check_is_described_in_its_order() -> None:
    text = (ROOT / "docs/doctor.md").read_text()
    assert tuple(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)) == NAMES


@ROOT_ONLY
def test_without_the_rights_to_judge_nothing_fails(bench: Bench) -> None:
    """A user without rights asks; the service works and owns its files."""
    bench.user = "daemon"
    service = pwd.getpwnam("daemon")
    device = bench.plug_in(*driving())
    os.fchown(device, 0, service.pw_gid)
    os.fchmod(device, 0o660)
    token = secret(bench, 0o600)
    bench.recorded()
    for path in (bench.state, *bench.state.iterdir(), token, token.parent):
        os.chown(path, service.pw_uid, service.pw_gid)
    bench.upload["token_file"] = str(token)
    bench.serve(then=answer(401))  # with the token, the answer would differ
    config = bench.config
    found = as_nobody(bench, config)
    assert not failing(found), found
    for name in ("sentences", "credentials", "queue", "state directory"):
        told = found[name]
        assert (told.verdict, told.remedy) == ("warn", "use sudo"), told
        assert "no permission to" in told.said
    assert found["state directory"].said == f"no permission to access {bench.state}"
    assert found["permissions"].verdict == "pass"
    assert found["authentication"].said.startswith("not judged without the secrets")
    config.chmod(0o600)
    hidden = as_nobody(bench, config)
    assert (hidden["config"].verdict, hidden["agent"].verdict) == ("warn", "skip")
    assert "use sudo" in hidden["config"].remedy
    config.chmod(0o644)
    overrides = config.with_name("config.d")
    overrides.mkdir(0o700)
    assert "use sudo" in as_nobody(bench, config)["config"].remedy


def as_nobody(bench: Bench, config: Path) -> dict[str, Finding]:
    """Return the findings for a user without rights; root runs first, to import the modules."""
    bench.told(config)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        return bench.told(config)
    finally:
        os.seteuid(0)
        os.setegid(0)
