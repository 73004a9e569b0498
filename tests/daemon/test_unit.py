"""The shipped unit under a real systemd."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from misbehaving import Server, hang
from rig import simulated
from systemd_boot import SOURCE, Machine, boot, launcher, require_systemd

from telemetry_agent.lab.endpoint import Endpoint
from telemetry_agent.lab.simulator import Simulator

UNIT = "telemetry-agent.service"
TEXT = (SOURCE / "systemd" / UNIT).read_text()
CREDENTIALS = ("client_key", "page_token", "password", "token")
CONFIG = """\
device = "van-07"
[gps]
source = "{source}"
[upload]
url = "{url}"
flush_every = "200ms"
backoff_max = "1s"
[log]
level = "debug"
"""
SYSTEMD_ALONE = pytest.mark.once("systemd reads the unit, and the agent does not run")
NOWHERE = "http://127.0.0.1:9/"
CONFIG_PATH = "/etc/telemetry-agent/config.toml"
INSTALLED = {
    "/usr/bin/telemetry-agent": launcher("-m telemetry_agent"),
    CONFIG_PATH: CONFIG.format(source="/dev/none", url=NOWHERE).encode(),
    "/usr/lib/sysusers.d/telemetry-agent.conf": (
        SOURCE / "systemd/sysusers.d/telemetry-agent.conf"
    ).read_bytes(),
}
PROBED = INSTALLED | {
    "/usr/bin/telemetry-agent": launcher("/opt/source/tests/daemon/sandbox_probe.py"),
    "/usr/bin/python-inside": launcher(),
}


def drop_in(*lines: str) -> dict[str, str]:
    """The shipped unit, with a drop-in such as an engineer writes."""
    return {UNIT: TEXT, f"{UNIT}.d/test.conf": "\n".join(["[Service]", *lines])}


@pytest.fixture
def machine() -> Iterator[Machine]:
    with boot({UNIT: TEXT}, INSTALLED) as machine:
        yield machine


def config(source: str, url: str) -> dict[str, bytes]:
    """A machine with the agent installed, and this config."""
    text = CONFIG.format(source=source, url=url)
    return INSTALLED | {"/etc/telemetry-agent/config.toml": text.encode()}


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    """A receiver that every user can open."""
    with simulated(tmp_path, rate_hz=5) as simulator:
        simulator.device.chmod(0o666)
        yield simulator


def systemd_version(machine: Machine) -> int:
    return int(machine.systemctl("--version").split()[1])


def own_entries(machine: Machine) -> list[dict[str, Any]]:
    return [entry for entry in machine.journal(UNIT) if "LOGGER" in entry]


@SYSTEMD_ALONE
def test_systemd_understands_every_line(machine: Machine) -> None:
    version = systemd_version(machine)
    done = machine.run("systemd-analyze", "verify", f"/run/systemd/system/{UNIT}", check=False)
    complaints = [line.split(": ", 1)[1] for line in done.stderr.splitlines() if UNIT in line]
    unknown = ["RestartSteps", "RestartMaxDelaySec"] if version < 254 else []
    assert sorted(set(complaints)) == sorted(
        f"Unknown key '{key}' in section [Service], ignoring." for key in unknown
    )


@SYSTEMD_ALONE
def test_the_exposure_score_is_at_most_1_5() -> None:
    require_systemd()
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--threshold=15",
            SOURCE / "systemd" / UNIT,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Overall exposure level" in done.stdout
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@SYSTEMD_ALONE
def test_it_waits_for_no_network(machine: Machine) -> None:
    orders = ("After", "Wants", "Requires", "Requisite", "BindsTo")
    assert not [name for name in orders if "network" in machine.show(UNIT, name)]


@SYSTEMD_ALONE
def test_it_is_kept_within_limits(machine: Machine) -> None:
    limits = ("MemoryHigh", "MemoryMax", "TasksMax")
    assert [machine.show(UNIT, name) for name in limits] == [str(128 << 20), str(192 << 20), "64"]


def test_start_returns_when_the_agent_says_that_it_is_ready(machine: Machine) -> None:
    machine.systemctl("start", UNIT)
    assert machine.show(UNIT, "ActiveState") == "active"
    assert machine.show(UNIT, "StatusText").startswith("van-07 from /dev/none: no receiver")
    assert machine.show(UNIT, "WatchdogUSec") == "30s"


def test_the_agent_and_its_state_belong_to_its_own_user(machine: Machine) -> None:
    machine.systemctl("start", UNIT)
    process = f"/proc/{machine.main_pid(UNIT)}"
    for path, mode in ((process, "555"), ("/var/lib/telemetry-agent", "751")):
        owner = machine.run("stat", "--format=%U:%G %a", path).stdout.strip()
        assert owner == f"telemetry-agent:telemetry-agent {mode}"


def test_root_who_runs_it_by_hand_leaves_nothing_that_the_service_cannot_open() -> None:
    with boot({UNIT: TEXT}, config("/dev/none", NOWHERE)) as machine:
        machine.systemctl("start", UNIT)
        machine.systemctl("stop", UNIT)
        machine.run("sh", "-c", "rm /var/lib/telemetry-agent/queue.*")
        until_it_records = (
            "mkfifo /run/said; /usr/bin/telemetry-agent run 2>/run/said & "
            "sed '/ records /q' </run/said; kill $!; wait $!"
        )
        by_hand = machine.run("sh", "-c", until_it_records, check=False)
        assert "running as telemetry-agent, the owner of the queue" in by_hand.stdout
        found = machine.run("find", "/var/lib/telemetry-agent", "-user", "root")
        assert found.stdout == ""
        assert machine.path("/var/lib/telemetry-agent/queue.db").exists()


def test_the_path_of_a_fix_under_the_sandbox(simulator: Simulator, tmp_path: Path) -> None:
    with Endpoint("127.0.0.1:0", tmp_path / "received.db") as endpoint:
        source = str(simulator.device.resolve())
        with boot({UNIT: TEXT}, config(source, endpoint.url)) as machine:
            machine.systemctl("start", UNIT)
            assert endpoint.wait_for(10, 60), machine.messages(UNIT)
            machine.systemctl("stop", UNIT)
            assert machine.show(UNIT, "ExecMainStatus") == "0"


def test_who_may_ask_what_under_the_sandbox() -> None:
    """Inside the sandbox, the agent sees neither processes nor users and groups of others."""
    asked = {"status": ["status"], "stats": ["queue", "stats"], "list": ["queue", "list"]}
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup"]
    with boot({UNIT: TEXT}, config("/dev/none", NOWHERE)) as machine:
        machine.run("chgrp", "telemetry-agent", "/etc/telemetry-agent/config.toml")
        machine.run("chmod", "640", "/etc/telemetry-agent/config.toml")
        machine.systemctl("start", UNIT)
        for who, may in (
            ([], {"status", "stats", "list"}),
            (["runuser", "--user", "telemetry-agent", "--"], {"status", "stats", "list"}),
            ([*nobody, "--groups=telemetry-agent"], {"status", "stats", "list"}),
            ([*nobody, "--clear-groups"], {"status", "stats"}),
        ):
            answered = {
                name
                for name, command in asked.items()
                if machine.run(*who, "/usr/bin/telemetry-agent", *command, check=False).returncode
                == 0
            }
            assert answered == may, who


def test_journald_gets_levels_and_fields(machine: Machine) -> None:
    machine.systemctl("start", UNIT)
    machine.wait_for(lambda: "no such device" in machine.messages(UNIT), "a warning")
    names = ("PRIORITY", "STATE", "DEVICE", "LOGGER", "SYSLOG_IDENTIFIER", "_SYSTEMD_UNIT")
    said = {
        entry["MESSAGE"].partition(" ")[0]: [entry.get(name) for name in names]
        for entry in own_entries(machine)
    }
    rest = ["telemetry-agent", UNIT]
    assert said["telemetry-agent"] == ["6", None, "van-07", "telemetry_agent.daemon.service", *rest]
    assert said["/dev/none:"] == ["4", "absent", "van-07", "telemetry_agent.gnss.reader", *rest]


@pytest.mark.parametrize("task", ["reader", "uploader"])
def test_a_stuck_thread_is_ended_by_the_watchdog_and_the_agent_started_again(task: str) -> None:
    files = INSTALLED | {
        "/usr/bin/telemetry-agent": launcher("/opt/source/tests/daemon/stuck_agent.py")
    }
    with boot(drop_in("WatchdogSec=8s", "RestartSec=0"), files) as machine:
        machine.systemctl("start", UNIT)
        stuck = machine.main_pid(UNIT)
        machine.path("/etc/telemetry-agent/stuck").write_text(task)
        # An idle uploader makes no step without this. The watchdog may end the agent first.
        machine.run("/usr/bin/telemetry-agent", "drain", check=False)
        machine.wait_for(lambda: f"stuck: {task}" in machine.messages(UNIT), "noticed")
        machine.path("/etc/telemetry-agent/stuck").unlink()
        machine.wait_for(lambda: machine.show(UNIT, "NRestarts") != "0", "restarted")
        machine.wait_active(UNIT)
        assert machine.main_pid(UNIT) not in (0, stuck)
        said = machine.messages(UNIT)
    assert "Watchdog timeout" in said
    # The position of each thread, to find the cause.
    assert "Fatal Python error: Aborted" in said
    assert "step_or_hang" in said


def test_an_endpoint_that_hangs_is_no_fault_and_does_not_hold_up_a_stop(
    simulator: Simulator,
) -> None:
    with Server(then=hang()) as server:
        files = config(str(simulator.device.resolve()), server.url)
        # One watchdog message each 4 s; a loaded machine may wake the main thread 4 s late.
        with boot(drop_in("WatchdogSec=8s"), files) as machine:
            machine.systemctl("start", UNIT)
            server.wait_for(lambda s: bool(s.requests))
            # The request has no answer for longer than the watchdog's limit.
            machine.wait_for(lambda: machine.messages(UNIT).count("is in time") > 2, "fed")
            assert machine.show(UNIT, "NRestarts") == "0"
            machine.systemctl("stop", UNIT)
            assert machine.show(UNIT, "Result") == "success"
            assert machine.show(UNIT, "ExecMainStatus") == "0"


def test_reload_keeps_the_process(machine: Machine) -> None:
    machine.systemctl("start", UNIT)
    before = machine.main_pid(UNIT)
    text = CONFIG.format(source="/dev/other", url=NOWHERE)
    machine.path("/etc/telemetry-agent/config.toml").write_text(text)
    machine.systemctl("reload", UNIT)
    machine.wait_for(
        lambda: "van-07 from /dev/other" in machine.show(UNIT, "StatusText"), "reloaded"
    )
    machine.wait_active(UNIT)
    assert machine.main_pid(UNIT) == before


def test_a_wrong_config_is_tried_again_until_it_is_right() -> None:
    path = "/etc/telemetry-agent/config.toml"
    with boot(drop_in("RestartSec=0"), INSTALLED | {path: b"nonsense"}) as machine:
        machine.systemctl("start", UNIT, check=False)
        machine.wait_for(lambda: int(machine.show(UNIT, "NRestarts")) > 1, "second restart")
        machine.path(path).write_bytes(INSTALLED[path])
        machine.wait_active(UNIT)


def test_every_end_is_started_again_without_a_limit() -> None:
    with boot(drop_in("RestartSec=0"), INSTALLED | {CONFIG_PATH: b"[gps"}) as machine:
        machine.systemctl("start", UNIT, check=False)
        # systemd's own limit would stop the restarts after 5 within 10 s.
        machine.wait_for(lambda: int(machine.show(UNIT, "NRestarts")) > 6, "seventh restart")
        machine.path(CONFIG_PATH).write_bytes(INSTALLED[CONFIG_PATH])
        machine.wait_active(UNIT)


def test_the_delay_before_a_start_grows_to_its_limit() -> None:
    changed = drop_in("RestartSec=50ms", "RestartMaxDelaySec=2s")
    with boot(changed, INSTALLED | {CONFIG_PATH: b"[gps"}) as machine:
        grows = systemd_version(machine) >= 254
        machine.systemctl("start", UNIT, check=False)
        machine.wait_for(lambda: int(machine.show(UNIT, "NRestarts")) > 6, "seventh restart")
        journal = machine.journal(UNIT)
    ends_us, starts_us = (
        [int(entry["__MONOTONIC_TIMESTAMP"]) for entry in journal if text in entry["MESSAGE"]]
        for text in ("Failed with result", "Scheduled restart job")
    )
    delays_s = [(start - end) / 1e6 for end, start in zip(ends_us, starts_us, strict=False)][:7]
    if grows:
        # From 50 ms to 2 s in five steps with equal factors; the journal is slightly late.
        least_s = [0.05 * 40 ** (min(step, 5) / 5) for step in range(7)]
        assert all(delay >= 0.95 * least for delay, least in zip(delays_s, least_s, strict=True))
    assert min(delays_s) < 1


def test_secrets_come_from_the_credential_store_and_none_is_needed() -> None:
    store = {name: f"/etc/credstore/telemetry-agent.{name}" for name in CREDENTIALS}
    with boot({UNIT: TEXT}, INSTALLED | dict.fromkeys(store.values(), b"s3cret")) as machine:
        machine.systemctl("start", UNIT)
        held = f"/run/credentials/{UNIT}"
        assert machine.run("ls", held).stdout.split() == sorted(store)
        assert machine.run("cat", f"{held}/token").stdout == "s3cret"
        asked = machine.run("runuser", "-u", "nobody", "--", "cat", f"{held}/token", check=False)
        assert asked.returncode
        for path in store.values():
            machine.path(path).unlink()
        machine.systemctl("restart", UNIT)
        assert machine.run("ls", held, check=False).stdout == ""


def test_a_credential_that_a_drop_in_names_by_its_path_must_be_there() -> None:
    with boot(drop_in("LoadCredential=token:/nonexistent"), INSTALLED) as machine:
        machine.systemctl("start", UNIT, check=False)
        assert machine.show(UNIT, "ExecMainStatus") == "243"  # CREDENTIALS


ASK = """
import socket
control = socket.socket(socket.AF_UNIX)
control.connect("/run/telemetry-agent/control.sock")
print(control.recv(99).decode(), end="")
"""
READ = """
import sqlite3
queue = sqlite3.connect("file:/var/lib/telemetry-agent/queue.db?mode=ro", uri=True)
print(queue.execute("SELECT x FROM t").fetchone()[0], end="")
"""


def by(user: str, machine: Machine, program: str) -> str:
    """Return what ``program`` prints as ``user``; empty if it fails."""
    argv = ["runuser", "--user", user, "--", "/usr/bin/python-inside", "-c", program]
    return machine.run(*argv, check=False).stdout


@pytest.fixture
def receiver() -> Iterator[str]:
    """A pty with the mode of a serial receiver: for root and the group dialout."""
    master, slave = os.openpty()
    path = Path(os.ttyname(slave))
    path.chmod(0o660)
    shutil.chown(path, group="dialout")
    yield str(path)
    os.close(master)
    os.close(slave)


def test_the_sandbox(receiver: str) -> None:
    files = PROBED | {"/tmp/of-another": b"", "/run/systemd/timesync/synchronized": b""}
    with boot(drop_in(f"Environment=RECEIVER={receiver}"), files) as machine:
        machine.run("useradd", "--groups=telemetry-agent", "engineer")
        machine.run("useradd", "stranger")
        # Everyone could open this device without the unit's sandbox.
        machine.run("mknod", "--mode=666", "/dev/foreign", "c", "10", "229")
        # A serial port that no machine has.
        machine.run("mknod", "--mode=666", "/dev/ttyS191", "c", "4", "255")
        machine.systemctl("start", UNIT)
        facts = json.loads(own_entries(machine)[0]["FACTS"])
        users = ("root", "telemetry-agent", "engineer", "stranger")
        answers = [by(user, machine, ASK) for user in users]
        reads = [by(user, machine, READ) for user in users]
    # systemd allows only kinds of devices that the kernel knows at the start.
    known = " ttyS\n" in Path("/proc/devices").read_text()
    assert (facts.pop("serial port") != "EPERM") is known
    assert facts.pop("writable code") in {"EPERM", "EACCES"}  # from a filter, or from the kernel
    assert facts == {
        "write /etc": "EROFS",
        "write /usr": "EROFS",
        "write /proc/sys": "EROFS",
        "write cgroup": "EROFS",
        "write state": "ok",
        "write runtime": "ok",
        "list /root": "EACCES",
        "list /home": "EACCES",
        "others in /tmp": 0,
        "others in /proc": 0,
        "packet socket": "EAFNOSUPPORT",
        "route socket": "ok",
        "read /proc/net": "ok",
        "ctypes callback": 7,
        "user namespace": "EPERM",
        "adjtimex": "EPERM",
        "synchronised": True,  # timesyncd's file says so
        "host name": "EPERM",
        "foreign device": "EPERM",
        "receiver": "ok",
        "queue": "wal",
        "thread": "ok",
        "core dump": [0, 0],
        "CapBnd": "0000000000000000",
        "CapEff": "0000000000000000",
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    assert answers == ["all", "all", "all", "status"]
    assert reads == ["42", "42", "42", ""]


def test_a_drop_in_lets_the_agent_ask_the_kernel_for_the_clock() -> None:
    calls = "SystemCallFilter=adjtimex clock_adjtime clock_adjtime64"
    with boot(drop_in("ProtectClock=no", calls, "Environment=RECEIVER=/none"), PROBED) as machine:
        machine.systemctl("start", UNIT)
        facts = json.loads(own_entries(machine)[0]["FACTS"])
    assert facts["adjtimex"] != "EPERM"


def test_a_read_only_state_directory_does_not_keep_it_from_recording() -> None:
    with boot({UNIT: TEXT}, config("/dev/none", NOWHERE)) as machine:
        machine.run("mkdir", "-p", "/var/lib/telemetry-agent")
        machine.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/var/lib/telemetry-agent")
        machine.systemctl("start", UNIT)
        told = machine.run("/usr/bin/telemetry-agent", "status").stdout
        assert "recording into /run/telemetry-agent, at most 16 MiB" in told
        machine.systemctl("stop", UNIT)
        machine.path("/run/telemetry-agent/queue.db").stat()  # it survives the stop


def test_the_last_good_config_serves_and_the_status_line_says_so(machine: Machine) -> None:
    machine.systemctl("start", UNIT)
    line = machine.show(UNIT, "StatusText")
    # The first report is tried after 10 s.
    assert re.match("van-07 from /dev/none: no receiver; uploads (not tried yet|unreachable)", line)
    machine.systemctl("stop", UNIT)
    machine.path("/etc/telemetry-agent/config.toml").write_bytes(bytes(400))
    machine.systemctl("start", UNIT)
    assert machine.show(UNIT, "StatusText").count("; the last good config is in effect")
    assert machine.show(UNIT, "NRestarts") == "0"


def test_why_a_start_failed_is_an_error_in_the_journal() -> None:
    wrong = INSTALLED | {"/etc/telemetry-agent/config.toml": b"device = 3"}
    with boot({UNIT: TEXT}, wrong) as machine:
        machine.systemctl("start", UNIT, check=False)
        errors = [e["MESSAGE"] for e in machine.journal(UNIT) if e.get("PRIORITY") == "3"]
        assert any(text.startswith("telemetry-agent: config: ") for text in errors)


def test_a_missing_credential_says_that_it_takes_a_restart() -> None:
    text = CONFIG.format(source="/dev/none", url="https://127.0.0.1:9/")
    text = text.replace("[upload]", '[upload]\nusername = "van"')
    with boot(
        {UNIT: TEXT}, INSTALLED | {"/etc/telemetry-agent/config.toml": text.encode()}
    ) as machine:
        machine.systemctl("start", UNIT)
        machine.wait_for(lambda: "uploads are held" in machine.messages(UNIT), "held")
        told = machine.run("/usr/bin/telemetry-agent", "status").stdout
    assert "uploading: held" in told
    assert "/etc/credstore/telemetry-agent.password" in told
    assert "systemctl restart telemetry-agent`: a reload does not read it" in told
