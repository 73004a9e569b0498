"""The user's own attributes: read for each recorded fix, without delaying the reader."""

import json
import os
import re
import threading
from pathlib import Path

import pytest
from rig import simulated, started, write_config

from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import ExtraFile, ExtraSettings
from telemetry_agent.daemon import extras
from telemetry_agent.daemon.extras import Extras, parsed, power_values
from telemetry_agent.lab.endpoint import Endpoint

clock = Clock()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a thread may start late; the value must still be read."""
    monkeypatch.setattr(extras, "_PATIENCE_S", 60.0)


def of(**files: ExtraFile) -> Extras:
    """Extras from these files."""
    return Extras(ExtraSettings(attributes=files))


@pytest.mark.parametrize(
    ("text", "scale", "value"),
    [
        ("48312", 0.001, 48.312),
        ("48312", None, 48312),
        ("-3", None, -3),
        ("1.5", None, 1.5),
        ("7", 1.0, 7.0),
        ("1e3", None, 1000.0),
        ("open", None, "open"),
        ("zu 50 %", None, "zu 50 %"),
    ],
)
def test_a_value_is_a_number_or_a_word(text: str, scale: float | None, value: object) -> None:
    found = parsed(text, scale)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("", None),
        ("", 1.0),
        ("open", 1.0),
        ("nan", None),
        ("inf", 2.0),
        ("1e300", 1e300),
        ("a\nb", None),
        ("x" * 65, None),
    ],
)
def test_what_is_neither_is_absent(text: str, scale: float | None) -> None:
    with pytest.raises(ValueError, match=r"not a number|neither|too large"):
        parsed(text, scale)


def test_a_file_that_is_missing_is_said_once_and_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    door, temperature = tmp_path / "door", tmp_path / "temp"
    temperature.write_text("21500\n")
    read = of(door=ExtraFile(door), temp_C=ExtraFile(temperature, 0.001))
    for _ in range(3):
        assert read.json() == '{"temp_C":21.5}'
    door.write_text("open\n")
    temperature.write_text("broken\n")
    assert read.json() == '{"door":"open"}'
    missing, back, broken = caplog.messages
    assert missing == f"extra.door is left out: cannot read {door}: No such file or directory"
    assert re.match(r"extra.door can be read again after \d+ s \(failures: 3", back)
    assert broken == f"extra.temp_C is left out: {temperature}: 'broken' is not a number"


def test_nothing_asked_for_is_nothing_and_no_thread() -> None:
    before = threading.active_count()
    assert of().json() is None
    assert threading.active_count() == before


def test_a_thread_that_the_system_refuses_leaves_the_fix_alone_and_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    door = tmp_path / "door"
    door.write_text("open\n")
    extras = of(door=ExtraFile(door))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert extras.json() is None
    assert extras.json() == '{"door":"open"}'


def test_a_pipe_that_nobody_writes_to_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert of(door=ExtraFile(tmp_path / "pipe")).json() is None


def test_a_file_that_hangs_costs_one_short_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    def hanging(_: Path) -> str:
        assert let_go.wait(60)
        return "1"

    monkeypatch.setattr(extras, "read_text", hanging)
    monkeypatch.setattr(extras, "_PATIENCE_S", 0.5)
    read = of(door=ExtraFile(tmp_path / "door"))
    began_s = clock.monotonic_s()
    assert [read.json() for _ in range(50)] == [None] * 50
    assert clock.monotonic_s() - began_s < 20  # a wait each time would take 25 s
    let_go.set()
    until_s = clock.monotonic_s() + 60
    while read.json() != '{"door":1}':
        assert clock.monotonic_s() < until_s


def supply(root: Path, name: str, **facts: str) -> None:
    folder = root / "sys/class/power_supply" / name
    folder.mkdir(parents=True)
    for fact, text in facts.items():
        (folder / fact).write_text(f"{text}\n")


def test_battery_and_power(tmp_path: Path) -> None:
    supply(tmp_path, "0-hidpp", type="Battery", scope="Device", capacity="99")
    supply(tmp_path, "AC", type="Mains", online="0")
    supply(tmp_path, "AC-without-state", type="Mains")
    supply(tmp_path, "BAT-empty-slot", type="Battery")
    supply(tmp_path, "BAT0", type="Battery", capacity="81", status="Discharging")
    supply(tmp_path, "BAT1", type="Battery", capacity="5", status="Full")
    supply(tmp_path, "ups", type="UPS", online="1")
    assert Extras(ExtraSettings(power=True), tmp_path).json() == (
        '{"battery":81,"battery_state":"discharging","mains":0}'
    )
    (tmp_path / "sys/class/power_supply/AC/online").write_text("1\n")
    assert power_values(tmp_path / "sys/class/power_supply")["mains"] == 1
    assert Extras(ExtraSettings(), tmp_path).json() is None
    supply(tmp_path / "no-battery", "BAT-empty-slot", type="Battery")
    assert power_values(tmp_path / "no-battery/sys/class/power_supply") == {}
    assert power_values(tmp_path / "nowhere") == {}


def test_each_fix_carries_what_the_files_say_at_its_time(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("1")
    with Endpoint("127.0.0.1:0", tmp_path / "r.db") as endpoint, simulated(tmp_path) as receiver:
        config = write_config(tmp_path, str(receiver.device), endpoint.url)
        with config.open("a") as file:
            file.write(f'[extra]\nload = {{file = "{count}", scale = 0.5, unit = "pct"}}\n')
        with started(config) as agent:
            assert endpoint.wait_for(5, 60), agent.text()
            count.write_text("3")
            assert endpoint.wait_for(endpoint.count() + 20, 60), agent.text()
            assert agent.end() == 0
        rows = endpoint.store.read("SELECT fix FROM fixes ORDER BY seq")
    extra = [json.loads(fix).get("extra", {}) for (fix,) in rows]
    values = [
        each["load_pct"] for each in extra if each
    ]  # values read in time; a busy machine may miss some
    assert sorted(set(values)) == [0.5, 1.5]
    assert values == sorted(values)
