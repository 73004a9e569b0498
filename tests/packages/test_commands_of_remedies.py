"""Every command that a message advises is run as printed, and must fix the fault.

Jane runs them: a user with sudo. Each fault is injected in a booted Debian with the agent as a
service.
"""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from packages.built import Built
from packages.containers import Container, container
from packages.device import INIT, UNIT, install, start_endpoint, start_receiver
from packages.roots import root

from telemetry_agent.clock import Clock
from telemetry_agent.gnss.sources.machine import getty_remedy
from telemetry_agent.lab.drive import Drive

pytestmark = pytest.mark.timeout(1800)  # the first test creates root file systems and packages

CONFIG = "/etc/telemetry-agent/config.toml"
STATE = "/var/lib/telemetry-agent"

REFUSER = """
import gzip, json
from http.server import BaseHTTPRequestHandler, HTTPServer

class Refuser(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        first = json.loads(body)["fixes"][:1]
        refused = [{"seq": fix["seq"], "reason": "not on a road"} for fix in first]
        answer = json.dumps({"rejected": refused}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

print("http://127.0.0.1:8080", flush=True)
HTTPServer(("127.0.0.1", 8080), Refuser).serve_forever()
"""
"""An endpoint that refuses the first fix of each batch."""

TRIED: dict[str, Callable[["Device"], object]] = {}
"""A command, with {} for each filled-in value -> the scenario that runs it."""
SCENARIOS: list[Callable[["Device"], object]] = []


def tries(*commands: str) -> Callable[[Callable[["Device"], object]], object]:
    """Register the scenario below as the one that runs these commands."""

    def add(scenario: Callable[["Device"], object]) -> object:
        TRIED.update(dict.fromkeys(commands, scenario))
        SCENARIOS.append(scenario)
        return scenario

    return add


class Device:
    """A machine with the agent as a service."""

    def __init__(self, machine: Container) -> None:
        self.machine = machine
        self.typed: list[str] = []
        self.config = machine.root / CONFIG[1:]
        self.right = self.config.read_text()

    def configured(self, *changes: tuple[str, str], more: str = "") -> None:
        """Write the original config with these changes, and restart the service."""
        text = self.right
        for old, new in changes:
            assert old in text, (old, text)
            text = text.replace(old, new)
        self.config.write_text(f"{text}\n{more}")
        self.machine.run("systemctl", "restart", UNIT)

    def found(self, check: str) -> dict[str, str]:
        """The doctor's finding for this check."""
        done = self.machine.run("telemetry-agent", "doctor", "--json", check=False)
        (found,) = [each for each in json.loads(done.stdout)["checks"] if each["name"] == check]
        return dict(found)

    def remedied(self, check: str, said: str, verdict: str = "pass") -> None:
        """Let the doctor find the fault and run its advice; then check the new verdict.

        Args:
            check: the check that finds the fault.
            said: a regular expression for its message.
            verdict: the verdict of the check after the advice.
        """
        found = self.found(check)
        assert found["verdict"] in {"warn", "fail"}, found
        assert re.search(said, found["said"]), found
        self.type_commands(found["remedy"])
        after = self.found(check)
        assert after["verdict"] == verdict, (found, after)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            self.machine.said("telemetry-agent", "status", "--json")
        )
        return answer

    def wait_for(self, right: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until ``right`` is true of the status."""
        argv = ("telemetry-agent", "status", "--watch", "--json")
        self.machine.wait_for(*argv, until=lambda line: right(json.loads(line)))

    def type_commands(self, remedy: str, *, check: bool = True) -> str:
        """Run the commands between backticks; return the output of the last one."""
        said, commands = "", re.findall("`([^`]+)`", remedy)
        assert commands, remedy
        for command in commands:
            said = self.jane(command, check=check)
            self.typed.append(command)
        return said

    def jane(self, command: str, *, check: bool = True) -> str:
        """Run a command as Jane in a new login."""
        return self.machine.run("runuser", "-l", "jane", "-c", command, check=check).stdout


@pytest.fixture(scope="module")
def device(built: Built) -> Iterator[Device]:
    with container(root("bookworm-with-programs")) as machine:
        machine.boot()
        (machine.root / "etc/apt/apt.conf.d/90yes").write_text('APT::Get::Assume-Yes "true";\n')
        (machine.root / "etc/hosts").write_text("127.0.0.1 localhost vm\n")
        machine.run("useradd", "--create-home", "--shell=/bin/bash", "jane")
        (machine.root / "etc/sudoers.d/jane").write_text("jane ALL=(ALL) NOPASSWD: ALL\n")
        install(machine, built.debs["amd64"])
        start_receiver(machine)
        start_endpoint(machine)
        machine.run(*INIT)
        yield Device(machine)


# The service


@tries(
    "sudo systemctl enable --now telemetry-agent",
    "sudo journalctl -u telemetry-agent",
    "sudo journalctl -u {}",
)
def the_service_is_switched_off(device: Device) -> None:
    device.machine.run("systemctl", "disable", "--now", UNIT)
    device.remedied("agent", "does not run")
    assert device.machine.said("systemctl", "is-enabled", UNIT) == "enabled"


@tries("sudo systemctl unmask{} telemetry-agent && sudo systemctl enable --now telemetry-agent")
def the_service_is_masked(device: Device) -> None:
    for how in ("--system", "--runtime"):
        device.machine.run("systemctl", "mask", "--now", how, UNIT)
        device.remedied("agent", "does not run")
        assert device.machine.said("systemctl", "is-enabled", UNIT) == "enabled"


@tries("sudo systemctl restart telemetry-agent")
def the_service_hangs(device: Device) -> None:
    device.machine.run("kill", "-STOP", device.machine.show(UNIT, "MainPID"))
    device.remedied("agent", "does not answer")


@tries("sudo systemctl reload telemetry-agent")
def the_config_was_wrong_at_the_start(device: Device) -> None:
    device.configured(more="nonsense")
    assert device.found("config")["verdict"] == "fail"
    was = device.config.stat()
    device.config.write_text(device.config.read_text().replace("nonsense", "########"))
    # With the old size and date; otherwise the agent notices the valid config within 5 s.
    os.utime(device.config, ns=(was.st_atime_ns, was.st_mtime_ns))
    device.remedied("agent", "last good config")


@tries()
def uploads_are_held(device: Device) -> None:
    token = device.machine.root / "etc/telemetry-agent/token"
    device.configured(("[upload]", "[upload]\ntoken_file = '/etc/telemetry-agent/token'"))
    assert device.found("delivery")["verdict"] == "fail"
    token.write_text("s3cret-t0ken")
    device.machine.run("chown", "telemetry-agent:", "/etc/telemetry-agent/token")
    token.chmod(0o600)
    device.type_commands(device.found("delivery")["remedy"])
    device.wait_for(lambda status: status["upload"]["state"] != "held")


@tries()
def a_credential_is_missing(device: Device) -> None:
    device.configured(("[upload]", "[upload]\nusername = 'jane'"))
    said = device.status()["upload"]["last_error"]
    (file,) = re.findall(r"/etc/credstore/\S+", said)
    device.jane(f"sudo install -D -m 600 /etc/hostname {file}")
    device.type_commands(said)
    device.wait_for(lambda status: status["upload"]["state"] != "held")


# Permissions


@tries("sudo usermod -aG {} {}")
def the_service_may_not_read_the_port(device: Device) -> None:
    device.machine.run("groupadd", "--force", "gps")
    device.machine.run("chgrp", "gps", "/run/gps")
    device.machine.run("chmod", "660", "/run/gps")
    device.machine.run("systemctl", "restart", UNIT)
    # With PrivateUsers= in the unit, every other group appears as nogroup: it must not be advised.
    device.wait_for(
        lambda status: "telemetry-agent doctor" in str(status["receiver"].get("remedy"))
    )
    device.machine.run("systemctl", "stop", UNIT)
    try:
        device.remedied("permissions", "may not read /run/gps")
    finally:
        device.machine.run("chmod", "666", "/run/gps")


@tries()
def jane_may_not_read_the_port(device: Device) -> None:
    device.machine.run("systemctl", "stop", UNIT)
    device.machine.run("chmod", "660", "/run/gps")
    (device.machine.root / "home/jane/config.toml").write_text(
        f"{device.right}\n[queue]\npath = '/home/jane/queue.db'"
    )
    run = "timeout 5 telemetry-agent run --config config.toml"
    try:
        said = device.jane(run, check=False)
        (why,) = [line for line in said.splitlines() if "no permission to read" in line]
        device.type_commands(why)
        assert "no permission to read" not in device.jane(run, check=False)
    finally:
        device.machine.run("chmod", "666", "/run/gps")


@tries("sudo usermod -aG telemetry-agent $USER")
def jane_asks_for_more_than_the_status(device: Device) -> None:
    device.type_commands(device.jane("telemetry-agent queue list", check=False))
    device.jane("telemetry-agent queue list --limit 1")
    device.machine.run("gpasswd", "--delete", "jane", "telemetry-agent")


def with_token(device: Device, path: str, owner: str, mode: str) -> None:
    token = device.machine.root / path[1:]
    token.write_text("s3cret-t0ken")
    device.machine.run("chown", f"{owner}:{owner}", path)
    device.machine.run("chmod", mode, path)
    device.configured(("[upload]", f"[upload]\ntoken_file = '{path}'"))


@tries("sudo chown {}: {}")
def the_token_is_of_root(device: Device) -> None:
    with_token(device, "/etc/telemetry-agent/token", "root", "600")
    device.remedied("credentials", "may not read upload.token_file")


@tries("sudo chown {} {} && sudo chmod o-rwx {}")
def everybody_can_read_the_token(device: Device) -> None:
    with_token(device, "/etc/telemetry-agent/token", "telemetry-agent", "644")
    device.machine.run("chmod", "755", "/etc/telemetry-agent")
    device.remedied("credentials", "every user")


@tries("sudo install -D -o {} -m 600 {} /etc/telemetry-agent/{}")
def the_token_is_in_a_home(device: Device) -> None:
    with_token(device, "/root/key", "root", "600")
    device.remedied("credentials", "does not see upload.token_file", verdict="fail")
    device.configured(("[upload]", "[upload]\ntoken_file = '/etc/telemetry-agent/key'"))
    assert device.found("credentials")["verdict"] == "pass"


# The disk


@tries("sudo chown -R {}: {}")
def the_state_directory_is_of_root(device: Device) -> None:
    device.machine.run("systemctl", "stop", UNIT)
    device.machine.run("chown", "-R", "root:", STATE)
    device.remedied("state directory", "may not write")


@tries()
def the_queue_is_of_root(device: Device) -> None:
    """The agent records anyway, and returns to the queue when it has permission."""
    run = device.machine.run
    run("systemctl", "stop", UNIT)
    run("sh", "-c", f"chown root: {STATE}/queue.db* && chmod 600 {STATE}/queue.db*")
    run("systemctl", "start", UNIT)
    assert device.status()["storage"]["state"] == "runtime"
    device.remedied("state directory", "may not write .*queue.db")
    device.wait_for(lambda status: status["storage"]["state"] == "forgets")  # on an overlay


@tries("sudo rm -r {}")
def the_lock_is_no_file(device: Device) -> None:
    device.machine.run("systemctl", "stop", UNIT)
    device.machine.run("rm", "-f", f"{STATE}/queue.db.lock")
    device.machine.run("mkdir", f"{STATE}/queue.db.lock")
    device.machine.run("systemctl", "start", UNIT)
    assert device.status()["storage"]["state"] == "runtime"
    device.remedied("state directory", "is not a regular file")
    device.wait_for(lambda status: status["storage"]["state"] == "forgets")  # on an overlay


@tries("sudo chown {}: {}")
def the_queue_of_root_lies_among_other_things(device: Device) -> None:
    run = device.machine.run
    run("install", "-d", "-m", "777", "/srv/shared")
    run("touch", "/srv/shared/others", "/srv/shared/queue.db", "/srv/shared/queue.db.lock")
    device.configured(more="[queue]\npath = '/srv/shared/queue.db'")
    run("systemctl", "stop", UNIT)
    device.remedied("state directory", "may not write .*queue.db")


@tries("sudo chown --reference={} {}")
def a_command_meets_a_queue_of_root(device: Device) -> None:
    device.machine.run("systemctl", "stop", UNIT)
    device.machine.run("sh", "-c", f"chown root: {STATE}/queue.db* && chmod 600 {STATE}/queue.db*")
    discard = "sudo telemetry-agent queue retry --all"
    said = device.jane(discard, check=False)
    assert "may not" in said, said
    device.type_commands(said)
    device.jane(discard)


@tries("sudo install -d -o {} {}", "sudo systemctl edit telemetry-agent")
def the_state_directory_cannot_be_made(device: Device) -> None:
    device.configured(more="[queue]\npath = '/srv/gps/queue.db'")
    device.remedied("state directory", "does not exist", verdict="fail")
    found = device.found("state directory")
    assert "the service's unit does not let the service write to /srv/gps" in found["said"], found
    assert "`sudo systemctl edit telemetry-agent`" in found["remedy"]
    (line,) = re.findall("add (ReadWritePaths=/srv/gps) under", found["remedy"])
    editor = device.machine.root / "usr/local/bin/editor"
    editor.write_text(f"#!/bin/sh\nsed -i '/^### Anything/a [Service]\\n{line}' \"$1\"\n")
    editor.chmod(0o755)
    device.jane("script -qec 'sudo systemctl edit telemetry-agent'")
    device.typed.append("sudo systemctl edit telemetry-agent")
    device.machine.run("systemctl", "restart", UNIT)
    assert device.found("state directory")["verdict"] == "pass"
    assert device.status()["storage"]["state"] == "forgets"  # on an overlay
    device.machine.run("systemctl", "revert", UNIT)


@tries(
    "sudo mount -o remount,rw $(findmnt -no TARGET -T {})",
    "sudo dmesg",
    "sudo telemetry-agent doctor",
)
def the_disk_is_read_only(device: Device) -> None:
    run = device.machine.run
    run("systemctl", "stop", UNIT)
    (device.machine.root / STATE[1:]).mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", STATE)
    run("systemctl", "start", UNIT)
    try:
        storage = device.status()["storage"]
        assert storage["state"] == "runtime"
        device.type_commands(storage["remedy"], check=False)  # it fails because it finds a fault
        assert "recording into /run" in device.found("agent")["said"]
        device.remedied("file system", "read-only", verdict="fail")  # the state is then "forgets"
        assert device.status()["storage"]["state"] == "forgets"
    finally:
        run("systemctl", "stop", UNIT)
        run("umount", STATE)


@tries("sudo du {} $(findmnt -no TARGET -T {}) | sort -h | tail")
def the_disk_is_full(device: Device) -> None:
    run = device.machine.run
    run("systemctl", "stop", UNIT)
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", STATE)
    try:
        run("dd", "if=/dev/zero", f"of={STATE}/others", "bs=1k", "count=300")
        found = device.found("disk space")
        assert found["verdict"] == "fail"
        assert device.type_commands(found["remedy"]).split() == ["300K", STATE]
    finally:
        run("umount", STATE)


# Programs that use the port


PORT = "/dev/ttyACM9"


def has_port(device: Device, start: Callable[[], object], said: str) -> None:
    plug_in(device)
    start()
    device.remedied("port in use", said)


def plug_in(device: Device) -> None:
    """Give the receiver the name of a serial port, and stop the service."""
    machine = device.machine
    port = machine.said("realpath", "/run/gps")
    if not (machine.root / "root/kept").exists():
        machine.run("touch", PORT, "/root/kept")
        machine.run("mount", "--bind", port, PORT)
    device.configured(('"/run/gps"', f'"{PORT}"'))
    machine.run("systemctl", "stop", UNIT)


def holding(device: Device, unit: str, program: str) -> None:
    """Start a unit whose program has this name and has the port as its input."""
    file = device.machine.root / "etc/systemd/system" / unit
    file.write_text(
        f"[Service]\nExecStart=/usr/local/bin/{program} infinity\nStandardInput=file:{PORT}\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    device.machine.run("cp", "/usr/bin/sleep", f"/usr/local/bin/{program}")
    device.machine.run("systemctl", "daemon-reload")
    device.machine.run("systemctl", "enable", "--now", unit)


@tries("sudo systemctl disable --now gpsd.socket gpsd")
def gpsd_has_it(device: Device) -> None:
    (device.machine.root / "etc/default/gpsd").write_text(f'DEVICES="{PORT}"\nGPSD_OPTIONS="-n"\n')
    has_port(device, lambda: device.machine.run("systemctl", "start", "gpsd"), "gpsd")


@tries(
    "sudo systemctl disable --now ModemManager", "sudo mmcli -m any --location-enable-gps-unmanaged"
)
def modem_manager_has_it(device: Device) -> None:
    """The real ModemManager takes only modems from udev, which has none: a substitute holds it."""
    machine = device.machine
    machine.run("systemctl", "stop", "ModemManager")
    plug_in(device)
    holding(device, "ModemManager.service", "ModemManager")
    free, switch_on = re.findall("`([^`]+)`", device.found("port in use")["remedy"])
    device.type_commands(f"`{free}`")
    assert device.found("port in use")["verdict"] == "pass"
    (machine.root / "etc/systemd/system/ModemManager.service").unlink()
    machine.run("systemctl", "daemon-reload")
    start_modem_manager(device)
    assert "couldn't find modem" in device.type_commands(f"`{switch_on}`", check=False)


def start_modem_manager(device: Device) -> None:
    """Start the program directly: its unit does not start in a container."""
    device.machine.run("systemctl", "start", "dbus")
    if device.machine.run("systemctl", "is-active", "modems", check=False).returncode:
        device.machine.start("modems", "/usr/sbin/ModemManager")
    bus = ("busctl", "status", "org.freedesktop.ModemManager1")
    device.machine.run("timeout", "30", "sh", "-c", f"until {' '.join(bus)}; do sleep 0.2; done")


@tries("sudo systemctl disable hciuart")
def bluetooth_has_it(device: Device) -> None:
    def start() -> None:
        holding(device, "hciuart.service", "hciattach")

    with pytest.raises(AssertionError):  # only after a reboot
        has_port(device, start, "Bluetooth")
    device.machine.run("systemctl", "stop", "hciuart")
    assert device.machine.run("systemctl", "is-enabled", "hciuart", check=False).returncode == 1


@tries("sudo kill {}")
def some_program_has_it(device: Device) -> None:
    has_port(device, lambda: holding(device, "other.service", "minicom"), "minicom")


@tries("sudo fuser -v {}")
def a_locked_port(device: Device) -> None:
    device.machine.start("locker", "flock", "/run/gps", "sleep", "infinity")
    device.machine.run("systemctl", "restart", UNIT)
    device.machine.wait_for_line(UNIT, "in use by another program")
    device.type_commands(device.status()["receiver"]["remedy"])
    device.machine.run("systemctl", "stop", "locker")


@tries("ls -l /dev/serial/by-id", "ls /dev/serial/by-id")
def nothing_is_plugged_in(device: Device) -> None:
    device.configured(('"/run/gps"', '"/dev/ttyNONE"'))
    device.machine.run("mkdir", "-p", "/dev/serial/by-id")  # udev creates it with the first device
    device.type_commands(device.status()["receiver"]["remedy"])
    device.type_commands(device.found("device")["remedy"])


@tries("sudo ss -ulpn sport = :{}", "ip address")
def a_udp_port_is_taken(device: Device) -> None:
    device.machine.start("binder", "python3", "-c", UDP)
    device.configured(('"/run/gps"', '"udp://127.0.0.1:5577"'))
    device.machine.wait_for_line(UNIT, "cannot listen at")
    receiver = device.status()["receiver"]
    assert "ss" in str(receiver), receiver
    device.type_commands(receiver.get("remedy") or receiver["message"])
    device.machine.run("systemctl", "stop", "binder")


UDP = (
    "import socket, signal; s = socket.socket(type=socket.SOCK_DGRAM); "
    "s.bind(('127.0.0.1', 5577)); signal.pause()"
)


@tries("sudo gpsdctl add /dev/…")
def gpsd_has_no_receiver(device: Device) -> None:
    (device.machine.root / "etc/default/gpsd").write_text('DEVICES=""\nGPSD_OPTIONS="-n"\n')
    device.machine.run("systemctl", "restart", "gpsd.socket")
    device.configured(('"/run/gps"', '"gpsd://localhost:2947"'))
    device.machine.wait_for_line(UNIT, "has no receiver")
    remedy = device.status()["receiver"]["remedy"]
    device.type_commands(remedy.replace("/dev/…", "/run/gps"))
    device.typed += re.findall("`([^`]+)`", remedy)
    device.wait_for(lambda status: status["receiver"]["state"] == "3d")
    device.machine.run("systemctl", "disable", "--now", "gpsd.socket", "gpsd")


# The network and the clock


@tries("ip route", "mmcli -m any")
def there_is_no_route(device: Device) -> None:
    device.configured(("http://127.0.0.1:8080", "http://192.0.2.7"))
    start_modem_manager(device)
    found = device.found("tcp")
    assert found["verdict"] == "fail", found
    said = device.type_commands(found["remedy"], check=False)
    assert "couldn't find modem" in said, said  # the real program, without a modem


@tries("sudo apt install ca-certificates")
def there_are_no_certificates(device: Device) -> None:
    run = device.machine.run
    run("dpkg", "--purge", "--force-depends", "ca-certificates")
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", "/root/key.pem", "-out", "/root/cert.pem"),
    )
    server = "openssl s_server -quiet -accept 8443 -key /root/key.pem -cert /root/cert.pem -www"
    device.machine.start("tls", *server.split())
    device.configured(("http://127.0.0.1:8080", "https://127.0.0.1:8443"))
    found = device.found("tls")
    assert "has no CA certificates" in found["said"], found
    device.type_commands(found["remedy"])
    assert "not trusted: self-signed" in device.found("tls")["said"]
    run("systemctl", "stop", "tls")


@tries("openssl rand -hex 16")
def the_token_of_the_page_is_short(device: Device) -> None:
    token = device.machine.root / "etc/telemetry-agent/page"
    token.write_text("short")
    device.machine.run("chown", "telemetry-agent:", "/etc/telemetry-agent/page")
    device.configured(
        more="[page]\nlisten = '127.0.0.1:8085'\ntoken_file = '/etc/telemetry-agent/page'"
    )
    page = device.status()["page"]
    assert "must hold at least" in page["last_error"], page
    token.write_text(device.type_commands(page["last_error"]))
    device.machine.run("systemctl", "restart", UNIT)
    assert device.status().get("page", {}).get("state") != "held"


@tries("sudo timedatectl set-ntp true")
def the_clock_is_wrong(device: Device) -> None:
    """The receiver is ahead: the container uses the machine's clock, which must not be changed."""
    machine = device.machine
    drive = Drive(Clock().wall_ms() + 10 * 86_400_000)
    (machine.root / "root/old.nmea").write_bytes(b"".join(map(drive.epoch, range(2000))))
    machine.start(
        *("old", "telemetry-agent", "simulate", "--link=/run/old", "--replay=/root/old.nmea")
    )
    machine.wait_for_line("old", "/run/old")
    machine.run("chmod", "666", "/run/old")
    device.configured(('"/run/gps"', '"/run/old"'))
    found = device.found("clock")
    machine.run("systemctl", "stop", "old")
    device.type_commands(found["remedy"])
    # In a container the service is enabled but not started.
    assert machine.said("systemctl", "is-enabled", "systemd-timesyncd") == "enabled"


@tries("sudo gpsctl -f -n {}", "gpsmon")
def the_receiver_speaks_ubx(device: Device) -> None:
    """The programs accept these options; their effect on a receiver needs real hardware."""
    for program in ("gpsctl", "gpsmon"):
        device.jane(f"{program} -V")
    said = device.jane("sudo gpsctl -f -n /run/gps", check=False)
    assert "invalid option" not in said, said
    device.typed += ["sudo gpsctl -f -n /run/gps", "gpsmon"]


# The program


@tries(
    "sudo telemetry-agent queue list --state ack_failed",
    "sudo telemetry-agent queue retry --all",
)
def the_endpoint_refused_positions(device: Device) -> None:
    machine = device.machine
    machine.run("systemctl", "stop", "endpoint")
    (machine.root / "root/refuser.py").write_text(REFUSER)
    machine.start("refuser", "python3", "/root/refuser.py")
    machine.wait_for_line("refuser", "http://")
    device.wait_for(lambda status: bool(status["queue"].get("dead_letters")))
    found = device.found("queue")
    assert "the endpoint refused" in found["said"], found
    machine.run("systemctl", "stop", "refuser")
    start_endpoint(machine)
    device.type_commands(found["remedy"])
    device.wait_for(lambda status: not status["queue"].get("dead_letters"))


@tries("sudo telemetry-agent doctor --send")
def the_doctor_is_asked_again(device: Device) -> None:
    device.type_commands(device.found("proof")["said"], check=False)


@tries("sudo telemetry-agent config check")
def a_key_is_misspelt(device: Device) -> None:
    device.config.write_text(device.right.replace("source =", "sorce ="))
    found = device.found("config")
    device.config.write_text(device.right)
    device.type_commands(found["remedy"])


@tries("sudo telemetry-agent init")
def there_is_no_config(device: Device) -> None:
    device.config.unlink()
    found = device.found("config")
    assert "there is no config" in found["said"], found
    device.typed += re.findall("`([^`]+)`", found["remedy"])
    device.jane(shlex.join(("sudo", *INIT)))


@tries("telemetry-agent init --config {}")
def the_named_config_is_not_there(device: Device) -> None:
    said = device.jane("telemetry-agent run --config here.toml", check=False)
    (command,) = re.findall("`([^`]+)`", said)
    device.typed.append(command)
    device.jane(f"{command} --source=/run/gps --device=van-07 --url=http://127.0.0.1:8080/v1/fixes")
    device.jane("telemetry-agent config check --config here.toml")


@tries("sudo systemctl disable --now serial-getty@{}")
def a_login_has_it(device: Device) -> None:
    unit = device.machine.said("systemctl", "cat", "serial-getty@.service")
    (device.machine.root / "etc/systemd/system/serial-getty@.service").write_text(
        re.sub("^(BindsTo|After)=dev-.*$", "", unit, flags=re.MULTILINE)  # udev does not run
    )
    device.machine.run("systemctl", "daemon-reload")
    start = ("systemctl", "start", "serial-getty@ttyACM9")
    plug_in(device)
    device.machine.run(*start)
    # On a pty the login ends repeatedly, so the doctor may miss it.
    device.type_commands(getty_remedy("ttyACM9", device.machine.root))
    assert device.machine.show(start[-1], "ActiveState") == "inactive"
    start_receiver(device.machine)  # the login has hung up the port and changed its mode


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_the_commands_mend_it(device: Device, scenario: Callable[[Device], object]) -> None:
    device.typed.clear()
    device.configured()
    scenario(device)
    wanted = [command for command, by in TRIED.items() if by is scenario]
    for command in wanted:
        pattern = ".+".join(map(re.escape, command.split("{}")))
        assert any(re.fullmatch(pattern, typed) for typed in device.typed), (command, device.typed)
