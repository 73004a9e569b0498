"""The recipes of docs/receivers.md, sent to simulated receivers that obey them."""

import re
import tomllib
from pathlib import Path

import pytest
from nmea import line, rmc
from scripted import ScriptedReceiver

from telemetry_agent.gnss.sources.on_connect import command_bytes
from telemetry_agent.gnss.sources.protocols import protocol, ubx_checksum
from telemetry_agent.gnss.sources.serial import SerialSource

PAGE = (Path(__file__).parents[2] / "docs/receivers.md").read_text("utf-8")
SAID_BY_DEFAULT = {"RMC", "GGA", "GSA", "GSV", "GLL", "VTG"}


def recipes(heading: str) -> list[list[str]]:
    section = PAGE.split(f"### {heading}")[1].split("\n## ")[0].split("\n### ")[0]
    blocks = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    return [tomllib.loads(block)["on_connect"] for block in blocks]


class Obedient:
    """The settings of a receiver that obeys commands as its manual says."""

    def __init__(self) -> None:
        self.says = set(SAID_BY_DEFAULT)
        self.interval_ms = 1000
        self.speaks_nmea = True

    def take(self, data: bytes) -> None:
        for frame in re.findall(rb"\xb5\x62.*", data, re.DOTALL):
            assert protocol(frame) == "UBX"
            self._ubx(frame[2:-2])
        for sentence in re.findall(rb"\$([^*]*)\*(..)\r\n", data):
            assert line(sentence[0].decode()) == b"$%s*%s\r\n" % sentence
            self._sentence(sentence[0].decode().split(","))

    def _ubx(self, body: bytes) -> None:
        assert ubx_checksum(body)
        payload = body[4:]
        if body[:2] == b"\x06\x08":  # CFG-RATE
            self.interval_ms = int.from_bytes(payload[:2], "little")
        elif body[:2] == b"\x06\x8a":  # CFG-VALSET: CFG-RATE-MEAS in RAM
            assert payload[:8] == bytes.fromhex("00 01 0000 01002130")
            self.interval_ms = int.from_bytes(payload[8:], "little")

    def _sentence(self, fields: list[str]) -> None:
        match fields:
            case ["PMTK220", interval_ms]:
                self.interval_ms = int(interval_ms)
            case ["PMTK314", *switches]:
                assert len(switches) == 19
                kinds = ["GLL", "RMC", "VTG", "GGA", "GSA", "GSV"]
                self.says = {k for k, on in zip(kinds, switches, strict=False) if on == "1"}
            case ["PUBX", "40", kind, _i2c, uart, *rest]:
                assert len(rest) == 4
                (self.says.add if uart == "1" else self.says.discard)(kind)
            case ["PUBX", "41", "1", _into, out, "9600", "0"]:
                self.speaks_nmea = bool(int(out, 16) & 2)


def after(recipe: list[str]) -> Obedient:
    """The receiver after a source sent the recipe to it."""
    commands = [command_bytes(text) for text in recipe]
    with ScriptedReceiver(rmc("120000")) as receiver:
        source = SerialSource(receiver.device, commands=commands)
        source.open()
        receiver.wait_for(commands[-1])
        source.close()
    obedient = Obedient()
    for command in commands:
        assert command in receiver.heard
        obedient.take(command)
    return obedient


def test_u_blox() -> None:
    five_hz, from_9_on, errors, nmea = map(after, recipes("u-blox"))
    assert (five_hz.interval_ms, five_hz.says) == (200, {"RMC", "GGA", "GSA"})
    assert from_9_on.interval_ms == 200
    assert errors.says == SAID_BY_DEFAULT | {"GST"}
    assert nmea.speaks_nmea


def test_media_tek() -> None:
    (five_hz,) = map(after, recipes("MediaTek"))
    assert (five_hz.interval_ms, five_hz.says) == (200, {"RMC", "GGA", "GSA"})


@pytest.mark.parametrize("text", re.findall(r'- `"(.*?)"`', PAGE))
def test_the_examples_of_the_grammar(text: str) -> None:
    assert command_bytes(text)
