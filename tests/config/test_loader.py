import json
import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent import __version__, cli
from telemetry_agent.config import last_good, loader, subprocess_loader
from telemetry_agent.config.settings import LoadedConfig, known_keys, shown
from telemetry_agent.daemon.delivery import build_credentials
from telemetry_agent.errors import ConfigError, ResourceError, UnreadableConfigError
from telemetry_agent.upload.interfaces import FormatName

ROOT = Path(__file__).parents[2]
SCHEMA = jsonschema_rs.validator_for(loader.json_schema())
MINIMAL = """
device = "van-07"
[gps]
source = "/dev/ttyACM0"
[upload]
url = "http://127.0.0.1:8080/v1/fixes"
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TELEMETRY_AGENT_") and "__" in name:
            monkeypatch.delenv(name)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_example_file_loads_and_names_every_key() -> None:
    loaded = loader.load(ROOT / "config.example.toml")
    assert sorted(loaded.origins) == sorted(known_keys())


def test_the_example_file_shows_the_defaults(tmp_path: Path) -> None:
    minimal = shown(loader.load(write(tmp_path / "c.toml", MINIMAL)).settings)
    example = shown(loader.load(ROOT / "config.example.toml").settings)
    differing = {key for key in minimal if minimal[key] != example[key]}
    assert differing == {"gps.source", "upload.url"}


def test_the_example_file_names_every_format() -> None:
    text = (ROOT / "config.example.toml").read_text("utf-8")
    (named,) = re.findall(r"^format = \"native\" +# (.*):", text, re.MULTILINE)
    assert named.split(" | ") == list(get_args(FormatName))


def test_a_misspelt_key_at_the_top_is_no_table(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", MINIMAL.replace("device =", "devic ="))
    with pytest.raises(ConfigError, match=r"devic is not a key .* did you mean device\?"):
        loader.load(path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [('"250ms"', 0.25), ('"30s"', 30), ('"5min"', 300), ('"2h"', 7200), ('"7d"', 604800), ("3", 3)],
)
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    path = write(tmp_path / "c.toml", f"{MINIMAL}timeout = {text}\n")
    assert loader.load(path).settings.upload.timeout_s == seconds


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("timout = 3", "upload.timout is not a key of the config; did you mean upload.timeout?"),
        ("[quue]\nmax_size = 1", "quue is not a key of the config; did you mean [queue]?"),
        ('timeout = "soon"', "upload.timeout = 'soon': must be a duration such as"),
        (f'timeout = "{"9" * 309}d"', "must be a duration such as"),
        ('intervall = "1s"', "upload.intervall is not a key of the config; did you mean sampling."),
        ("[queue]\ntoken = 'x'", "queue.token is not a key of the config ["),
        ('URL = "http://e/"', "upload.URL is not a key of the config; did you mean upload.url?"),
        ('interval = "1s"', "upload.interval is not a key of the config; did you mean sampling.i"),
        ("[Queue]\nmax_size = 1", "Queue is not a key of the config; did you mean [queue]?"),
        ("[UPLOAD]\ntimeout = 3", "UPLOAD is not a key of the config; did you mean [upload]?"),
        ("[_env_file]\nx = 3", "_env_file is not a key of the config"),
        ("[__pydantic_self__]\nx = 3", "__pydantic_self__ is not a key of the config"),
        ("[uploads]\ntimeout = 3", "uploads is not a key of the config; did you mean [upload]?"),
        ('token = "x"', "upload.token is not a key of the config; did you mean upload.token_file"),
        ("allow_insecure = 2", "upload.allow_insecure = 2: must be true or false"),
        ('max_batch = "x"', "upload.max_batch = 'x': must be a whole number"),
        ("username = 7", "upload.username = 7: must be a text in quotation marks"),
        ("token_file = 7", "upload.token_file = 7: must be a path in quotation marks"),
        ('format = "Traccar"', "telemetry-agent init` knows the format of each kind of server"),
        ("[sampling]\ndrop_quality = 'pps'", "sampling.drop_quality = 'pps': must be a list, "),
        ("[queue]\npath = '~/queue.db'", "queue.path = '~/queue.db': must be the path"),
        ("[queue]\npath = ''", "queue.path = '': must be the path of a file, such as /var/lib/"),
        ("[queue]\npath = '/'", "queue.path = '/': must be the path of a file, such as /var/lib/"),
        ("[queue]\npath = 'a/..'", "queue.path = 'a/..': must be the path of a file, such as"),
        ("timeout = 0", "upload.timeout = 0: must be a duration such as"),
        ("timeout = true", "upload.timeout = True: must be a duration"),
        ("order = '" + "x" * 99_999 + "'", f"upload.order = '{'x' * 79}…: must be 'auto'"),
        ("max_batch = 0", "upload.max_batch = 0: must be a whole number from 1 to 10000"),
        ("max_batch = true", "upload.max_batch = True: must be a whole number"),
        ('format = "xml"', "upload.format = 'xml': must be 'native', 'overland'"),
        ("[log]\nlevel = 'loud'", "log.level = 'loud': must be 'debug', 'info', 'warning' or"),
        (
            "[sampling]\nturn_deg = 181",
            "sampling.turn_deg = 181: must be a number from 0 to 180",
        ),
        ("[sampling]\ndistance_m = -1", "sampling.distance_m = -1: must be a number, 0 or more"),
        ("[sampling]\nmax_hdop = inf", "sampling.max_hdop = inf: must be a number, 0 or more"),
        ("[sampling]\nmax_hdop = true", "sampling.max_hdop = True: must be a number"),
        ("[sampling]\nheartbeat = 0", "sampling.heartbeat = 0: must be a duration such as"),
        ("[sampling]\ndrop_quality = ['bad']", "sampling.drop_quality = 'bad': must be 'gps', "),
        ("headers = {X = 5}", "upload.headers.X: must be a text in quotation marks"),
        ("[extra]\ncpu = {file = 'x'}", "extra.cpu.file = 'x': must be the full path of a file"),
        ("[extra]\ncpu = {file = '/x', y = 1}", "extra.cpu.y is not a key of the config"),
        ("[page]\nlisten = '8077'", "page.listen = '8077': must be host:port"),
        ("[page]\nlisten = ' ::1:8077'", "page.listen = ' ::1:8077': must be host:port"),
        ("[connectivity]\nprobe = ' h:443'", "connectivity.probe = ' h:443': must be host:port"),
        (
            "[page]\ntiles = 'https://t.example/'",
            "page.tiles = 'https://t.example/': must be like https:",
        ),
    ],
)
def test_a_fault_names_the_key_the_value_what_is_allowed_and_the_file(
    tmp_path: Path, change: str, says: str
) -> None:
    path = write(tmp_path / "c.toml", MINIMAL + change)
    with pytest.raises(ConfigError) as caught:
        loader.load(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_key_of_another_case_at_the_top_is_not_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", MINIMAL.replace("device =", "Device ="))
    with pytest.raises(ConfigError, match=r"Device is not a key .* did you mean device\?"):
        loader.load(path)


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_a_token_beside_a_header_that_it_replaces_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write(tmp_path / "c.toml", f'{MINIMAL}headers = {{{name} = "Bearer of-the-header"}}\n')
    assert "Authorization" not in str(loader.load(path).notes)
    token = write(tmp_path / "credentials/token", "of-the-credential")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(token.parent))
    note = f"the credential {token} is sent, and not the Authorization header of upload.headers"
    assert note in str(loader.load(path).notes)


def test_hidden_files_beside_the_overrides_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", MINIMAL)
    used = write(tmp_path / "config.d/10-own.toml", "[upload]\ntimeout = 2\n")
    used.with_name("._10-own.toml").write_bytes(b"\x00\x05\x16\x07")  # a copy made by macOS
    used.with_name(".#10-own.toml").symlink_to("me@host.17")  # while Emacs has it open
    assert list(loader.load(path).texts) == [str(path), str(used)]


@pytest.mark.parametrize(
    ("line", "replacement", "says"),
    [
        ("url =", "#", "upload.url is missing: set it below [upload]"),
        ('"/dev/ttyACM0"', '"/dev/ttyACM0 "', "gps.source = '/dev/ttyACM0 ': must be auto"),
        ('source = "/dev/ttyACM0"', 'source = "ttyACM0"', "gps.source = 'ttyACM0': must be auto"),
        ('device = "van-07"', 'device = "{host}"', "{host} is not one of {hostname}, {serial}"),
        ("http://127.0.0.1:8080/v1/fixes", "ftp://x", "must be a URL such as https://"),
        (
            "http://127.0.0.1:8080/v1/fixes",
            "http://me:pw@x/",
            "must not contain a user name or password",
        ),
        (
            "http://127.0.0.1:8080/v1/fixes",
            "http://x:99999/",
            "must be a URL: its port must be a number up to 65535",
        ),
        ("http://127.0.0.1:8080/v1/fixes", "http://[v1.a]/", "must be a URL: "),
        ("http://127.0.0.1:8080/v1/fixes", "http://[::g]/", "must be a URL: "),
        (
            "http://127.0.0.1:8080/v1/fixes",
            r"http://x/\u0000",
            "must be plain ASCII without spaces",
        ),
        ("http://127.0.0.1:8080/v1/fixes", "http://bücher.example/", "a host as xn--…"),
        ("http://127.0.0.1:8080/v1/fixes", f"http://x/{'a' * 9000}", "must be shorter than 8192"),
        ("[gps]", "[gps", "is not valid TOML: Expected ']'"),
        ("[gps]", "[gps", "): a line is [table], key ="),
        ('"van-07"', "van-07", '(at line 2, column 10): write a text as "…", in straight quot'),
        ('"van-07"', '"van-07', "(at line 2, column 17): end the text with a quotation mark"),
        ('"van-07"', r'"\van"', "write a text with backslashes as '…'"),
        ('"van-07"', r'"\Users"', "write a text with backslashes as '…'"),
        ("[upload]", "[gps]", "Cannot declare ('gps',) twice (at line 5, column 5): keep"),
        ("source =", 'source = "auto"\nsource =', "keep one line of this key"),
    ],
)
def test_wrong_values(tmp_path: Path, line: str, replacement: str, says: str) -> None:
    path = write(tmp_path / "c.toml", MINIMAL.replace(line, replacement))
    with pytest.raises(ConfigError) as caught:
        loader.load(path)
    assert says in str(caught.value)


def test_memory_that_is_short_while_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_path: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr("telemetry_agent.config.files.read_small_file", refused)
    with pytest.raises(MemoryError):
        loader.load(write(tmp_path / "c.toml", MINIMAL))


def test_a_look_sees_a_change(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", MINIMAL)
    look = subprocess_loader.Look(path)

    def sees_a_change() -> bool:
        return any(look.changed() for _ in range(300))  # a busy machine may need several calls

    assert sees_a_change()
    assert not look.changed()
    write(path, MINIMAL + "\n")
    assert sees_a_change()  # so its process has ended and was reaped


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe", "not valid TOML: it is not text in UTF-8"),
        (MINIMAL.encode("utf-16-le"), "it has NUL characters.* save it as UTF-8"),
        (MINIMAL.encode() + bytes(512), "it has NUL characters, as after a power cut: write it ag"),
    ],
)
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(UnreadableConfigError, match=says):
        loader.load(path)


@pytest.mark.parametrize(
    "source",
    [
        "auto",
        "/dev/ttyACM0",
        "gpsd://localhost:2947",
        "gpsd://localhost",
        "gpsd://[::1]:2947",
        "tcp://192.0.2.1:4001",
        "udp://:10110",
        "udp://127.0.0.1:10110",
        "file:///var/lib/track.nmea",
    ],
)
def test_sources(tmp_path: Path, source: str) -> None:
    path = write(tmp_path / "c.toml", MINIMAL.replace("/dev/ttyACM0", source))
    assert loader.load(path).settings.gps.source == source


@pytest.mark.parametrize(
    "source",
    [
        "",
        "/",
        "ttyUSB0",
        "file://track",
        "gpsd://",
        "tcp://host",
        "tcp://:4001",
        "tcp://host:99999",
        "tcp://host:0",
        "tcp://host:4001/path",
        "tcp://me@host:4001",
        "udp://",
        "http://host:80",
    ],
)
def test_what_is_no_source(tmp_path: Path, source: str) -> None:
    path = write(tmp_path / "c.toml", MINIMAL.replace("/dev/ttyACM0", source))
    with pytest.raises(ConfigError, match=r"gps\.source = .*: must be "):
        loader.load(path)


def test_the_receiver_is_found_by_itself_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    text = MINIMAL.replace('source = "/dev/ttyACM0"', "")
    gps = loader.load(write(tmp_path / "c.toml", text)).settings.gps
    assert (gps.source, gps.baud, gps.on_connect) == ("auto", "auto", ())


def test_commands_and_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = MINIMAL.replace("[upload]", 'on_connect = ["$PMTK220,200", "ubx:06 04 00 00"]\n[upload]')
    monkeypatch.setenv("TELEMETRY_AGENT_GPS__BAUD", "38400")
    gps = loader.load(write(tmp_path / "c.toml", text)).settings.gps
    assert gps.on_connect == ("$PMTK220,200", "ubx:06 04 00 00")
    assert gps.baud == 38400


@pytest.mark.parametrize(
    ("gps", "says"),
    [
        ("baud = 1200", 'gps.baud = 1200: must be "auto" or one of 4800, 9600, 19200, 38400'),
        ("baud = true", "gps.baud = True: must be"),
        ('baud = "fast"', "gps.baud = 'fast': must be"),
        ('on_connect = ["PMTK"]', "gps.on_connect = 'PMTK': 'PMTK' must be like"),
        ('on_connect = ["ubx:06 08 06 00 C8"]', "says 6 bytes of payload, 1 follow"),
    ],
)
def test_wrong_speeds_and_commands(tmp_path: Path, gps: str, says: str) -> None:
    text = MINIMAL.replace("[upload]", f"{gps}\n[upload]")
    with pytest.raises(ConfigError) as caught:
        loader.load(write(tmp_path / "c.toml", text))
    assert says in str(caught.value)


def test_commands_need_a_way_to_the_receiver(tmp_path: Path) -> None:
    text = MINIMAL.replace("/dev/ttyACM0", "udp://:10110").replace(
        "[upload]", 'on_connect = ["$PMTK220,200"]\n[upload]'
    )
    with pytest.raises(
        ConfigError,
        match=r"gps\.on_connect = .*udp://:10110 cannot pass commands .*: leave it empty \[/",
    ):
        loader.load(write(tmp_path / "c.toml", text))


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"the config .*nope.toml does not exist: `telemetry-agent init --"
    ):
        loader.load(tmp_path / "nope.toml")


def test_a_symlink_to_nothing_is_not_to_be_written_by_init(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", MINIMAL)
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d/10-fleet.toml").symlink_to("/none/fleet.toml")
    with pytest.raises(
        UnreadableConfigError,
        match=r"/10-fleet.toml is a symlink to /none/fleet.toml, which does not exist: write that",
    ):
        loader.load(path)


def test_a_section_that_a_later_file_replaces_is_reported_with_that_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", MINIMAL)
    fleet = write(tmp_path / "config.d/10-fleet.toml", "upload = 3\n")
    with pytest.raises(ConfigError) as caught:
        loader.load(path)
    assert str(caught.value) == f"config: upload = 3: must be a table, [upload] [{fleet}]"


def test_no_config_at_all_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "telemetry_agent.config.files.DEFAULT_PATHS", (tmp_path / "a.toml", tmp_path / "b.toml")
    )
    with pytest.raises(ConfigError, match=r"is no config: neither .*a\.toml nor .*b\.toml exists"):
        loader.load()


def test_the_first_default_path_that_exists_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = write(tmp_path / "b.toml", MINIMAL)
    monkeypatch.setattr("telemetry_agent.config.files.DEFAULT_PATHS", (tmp_path / "a.toml", second))
    assert [*loader.load().texts] == [str(second)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("whose", [".", "config.toml", "config.d"])
def test_sudo_uses_no_config_of_a_third_user_that_was_not_named(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "config.toml", MINIMAL)
    write(tmp_path / "config.d/10-fleet.toml", "[upload]\ntimeout = 2\n")
    monkeypatch.chdir(tmp_path)
    missing = tmp_path / "a.toml"
    monkeypatch.setattr(
        "telemetry_agent.config.files.DEFAULT_PATHS", (missing, Path("config.toml"))
    )
    os.chown(whose, 1234, -1)
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert loader.load().settings.upload.timeout_s == 2
    monkeypatch.setenv("SUDO_UID", "1234")
    assert loader.load().settings.upload.timeout_s == 2
    monkeypatch.setenv("SUDO_UID", "1000")
    with pytest.raises(
        ConfigError, match=r"belongs to another user \(1234\).*name it with --config"
    ):
        loader.load()
    assert loader.load(Path("config.toml")).settings.upload.timeout_s == 2


def test_layers_and_where_each_value_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write(tmp_path / "c.toml", MINIMAL + "max_batch = 10\ntimeout = 1\nflush_every = 1\n")
    fleet = write(tmp_path / "config.d/10-fleet.toml", "[upload]\ntimeout = 2\nflush_every = 2\n")
    own = write(tmp_path / "config.d/20-device.toml", '[upload]\nflush_every = "3s"\n')
    monkeypatch.setenv("TELEMETRY_AGENT_UPLOAD__URL", "https://example.com/")
    monkeypatch.setenv("TELEMETRY_AGENT_DEVICE", "from-env")
    loaded = loader.load(base)
    upload = loaded.settings.upload
    assert (upload.max_batch, upload.timeout_s, upload.flush_every_s) == (10, 2, 3)
    assert upload.url == "https://example.com/"
    assert loaded.settings.device == "from-env"
    assert loaded.origins["upload.max_batch"] == str(base)
    assert loaded.origins["upload.timeout"] == str(fleet)
    assert loaded.origins["upload.flush_every"] == str(own)
    assert loaded.origins["upload.url"] == "environment variable TELEMETRY_AGENT_UPLOAD__URL"
    assert "queue.path" not in loaded.origins


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "TELEMETRY_AGENT_UPLAOD__URL",
            "x",
            "uplaod is not a key of the config; did you mean [upload]? [env",
        ),
        ("TELEMETRY_AGENT_UPLOAD__TIMEOT", "3", "upload.timeot is not a key"),
        ("TELEMETRY_AGENT_UPLOAD__TIMEOUT", "x", "upload.timeout = 'x': must be a duration"),
    ],
)
def test_environment_faults_name_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        loader.load(write(tmp_path / "c.toml", MINIMAL))
    assert says in str(caught.value)
    assert name in str(caught.value)


def test_the_device_may_hold_facts_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "gw-3")
    text = MINIMAL.replace("van-07", "fleet-{hostname}")
    assert loader.load(write(tmp_path / "c.toml", text)).settings.device == "fleet-gw-3"


def test_a_fact_that_the_machine_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = tmp_path / "serial-number"
    monkeypatch.setattr("telemetry_agent.config.values.SERIAL_NUMBER", number)
    config = write(tmp_path / "c.toml", MINIMAL.replace("van-07", "{serial}"))
    with pytest.raises(ConfigError, match="this machine has no serial: use another placeholder"):
        loader.load(config)
    number.write_bytes(b"100000003d1d1c36\0")
    assert loader.load(config).settings.device == "100000003d1d1c36"


def test_what_is_shown_can_be_written_into_a_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '[page]\nlisten = "[::1]:8077"\n[connectivity]\nprobe = "example.com:443"\n'
    first = write(tmp_path / "first.toml", MINIMAL + text)
    with pytest.raises(SystemExit):
        cli.main(["config", "show", "--config", str(first)])
    second = write(tmp_path / "second.toml", capsys.readouterr().out)
    assert loader.load(second).settings == loader.load(first).settings


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = loader.load(write(tmp_path / "c.toml", MINIMAL)).settings
    with pytest.raises(FrozenInstanceError):
        settings.upload.timeout_s = 3  # type: ignore[misc]  # must fail


def test_the_schema_holds_every_key() -> None:
    schema = loader.json_schema()
    keys = []
    for name, part in schema["properties"].items():
        section = schema["$defs"].get(part.get("$ref", "").rpartition("/")[2])
        keys += [f"{name}.{key}" for key in section["properties"]] if section else [name]
    assert sorted(keys) == sorted(known_keys())
    assert json.dumps(schema)
    assert schema["required"] == ["upload"]
    assert schema["$defs"]["UploadSettings"]["required"] == ["url"]
    turn = schema["$defs"]["SamplingSettings"]["properties"]["turn_deg"]["anyOf"][0]
    assert (turn["minimum"], turn["maximum"]) == (0, 180)
    extra = schema["$defs"]["ExtraSettings"]
    assert list(extra["properties"]) == ["power"]
    of_an_attribute = [{"type": "string"}, {"$ref": "#/$defs/ExtraFile"}]
    assert extra["additionalProperties"] == {"anyOf": of_an_attribute}


_NEARLY = {
    *("sampling.turn_deg", "sampling.parked_after", "sampling.heartbeat", "queue.max_size"),
    *("upload.max_batch", "upload.timeout", "upload.backoff_initial", "upload.backoff_max"),
    *("upload.allow_insecure", "upload.allow_resend", "connectivity.probe_every"),
    *("extra.power", "extra.cpu", "extra.Cpu"),
    *("device", "gps.on_connect", "upload.url", "upload.proxy", "upload.headers"),
}
"""Keys whose schema refuses a quoted boolean, or does not know every limit."""


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [
        (
            "device",
            ["van-07", "Bus {hostname}", "é", "a/b"],
            ["", " ", "{host}", "{", "a\nb", 5, 129 * "x"],
        ),
        (
            "gps.source",
            [
                "auto",
                "/dev/ttyUSB0",
                "file:///a b",
                "gpsd://h",
                "gpsd://[::1]:2947",
                "tcp://h:1",
                "udp://:10110",
                "udp://1.2.3.4:1?from=10.0.0.2",
            ],
            [
                "",
                "ttyUSB0",
                "COM3",
                "/dev/x ",
                "tcp://h",
                "tcp://:1",
                "udp://",
                "http://h",
                "file://x",
                "gpsd://",
                "gpsd://me@h",
                "gpsd://h/x",
            ],
        ),
        ("gps.baud", ["auto", 9600, "9600"], ["fast", 9601, "9601", " 9600", 0, True]),
        (
            "sampling.turn_deg",
            [0, 30, 180, "30", "7.5", "180.0"],
            [-1, 180.5, "181", "x", "", "1e2"],
        ),
        ("sampling.max_hdop", [0, 1.5, "1.5", " 1"], [-1, "-1", "1_0", "1e3", "+1", True]),
        ("upload.allow_insecure", [True, False], ["", 2, " on", "2", []]),
        (
            "gps.on_connect",
            [["$PMTK220,200"], ["ubx:06 08 00 00"]],
            ["$X", ["PMTK"], [""], ["ubx:zz"]],
        ),
        (
            "sampling.interval",
            ["250ms", "1.5s", "2h", 0, "0s", 3, 0.5, 0.000001],
            ["", 10**15, "5m", "1S", "-1s", -1, "1h30min", "٣s", True],
        ),
        (
            "sampling.heartbeat",
            ["1s", 0.1, "0.5s", "10s", "100ms"],
            ["", -1],
        ),
        (
            "queue.max_size",
            ["1MiB", 1 << 20, "2GiB", "2048KiB"],
            ["1MB", -1],
        ),
        ("queue.min_free", [0, "0", "10MiB"], ["10%", -1, "1TiB"]),
        (
            "queue.path",
            ["/a/q.db", "q.db", "a/.q", "...", "a/../q", "~q", "q/./"],
            ["", "/", ".", "..", "a/..", "a/../.", "./.", "~/q.db", "~", 5],
        ),
        (
            "upload.url",
            ["HTTPS://h/x", "http://h", "http://[::1]:80/", "http://h:1?a=b#c", "http://h/@x"],
            [
                "",
                "ftp://h",
                "http://",
                "h/x",
                "http://me:pw@h/",
                "http://h/ x",
                "http://bücher.example/",
                "http://:80/",
                f"http://h/{'a' * 9000}",
            ],
        ),
        (
            "upload.proxy",
            ["", "http://p:1", "http://p:1/"],
            ["p:1", "socks5://p:1", "http://u:w@p:1", "http://p/x"],
        ),
        ("upload.max_batch", [1, 10_000, "10000"], [0, 10_001, "0", "10001", 1.5, True]),
        (
            "upload.headers",
            [{}, {"X-Key": "a b"}, {"X": "é"}, {"X": ""}],
            ["x", {"X Y": "a"}, {"X": " a"}, {"X": 5}],
        ),
        ("upload.username", ["", "me"], ["me:pw", 5, "m\0e"]),
        ("connectivity.probe", ["", "h:1", "::1:5"], ["h", ":5", "h:0", "h:123456", "h:x", 5]),
        ("page.listen", ["[::1]:8077", "fe80::1%eth0:8077"], ["h :1", "http://h:1", "[::1:8077"]),
        ("page.names", [["van-07.example.com"], ["a:80"]], ["a", ["http://a"], ["a b"]]),
        (
            "page.tiles",
            ["", "https://{s}.t/{z}/{x}/{y}.png"],
            ["https://t/", "ftp://t/{z}/{x}/{y}"],
        ),
        (
            "extra.cpu",
            ["/sys/x", {"file": "/sys/x", "scale": 0.001, "unit": "c"}],
            ["x", 5, {"file": "x"}, {}],
        ),
        ("extra.Cpu", [], ["/sys/x"]),
    ],
)
def test_the_schema_agrees_with_the_loader(
    key: str, right: list[object], wrong: list[object], tmp_path: Path
) -> None:
    section, _, name = key.rpartition(".")
    for number, value in enumerate(right + wrong):
        config: dict[str, Any] = {"upload": {"url": "http://127.0.0.1:8080/"}}
        (config.setdefault(section, {}) if section else config)[name] = value
        accepted = True
        try:
            tables = [f"{top} = {as_toml(each)}" for top, each in config.items()]
            loader.load(write(tmp_path / "c.toml", "\n".join(tables)))
        except ConfigError:
            accepted = False
        is_right = number < len(right)
        assert accepted == is_right, value
        assert is_right or key in _NEARLY or not SCHEMA.is_valid(config), value
        assert not is_right or SCHEMA.is_valid(config), value


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('sampling.turn_deg = "7.5"', 7.5),
        ('sampling.max_hdop = "1.5"', 1.5),
        ('upload.max_batch = "10000"', 10_000),
        ('upload.allow_insecure = "tRUE"', True),
        ('upload.allow_insecure = "no"', False),
        ("upload.allow_insecure = 1", True),
    ],
)
def test_numbers_and_switches_may_be_in_quotes(line: str, value: object, tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", f'upload.url = "http://127.0.0.1/"\n{line}')
    key = line.partition(" ")[0]
    assert shown(loader.load(config).settings)[key] == value


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sampling.heartbeat = 0", ", and longer than 0"),
        ('sampling.heartbeat = "0.0min"', ", and longer than 0"),
        ('queue.max_size = "1KiB"', ", and at least 1MiB"),
        ("queue.max_size = 5", ", and at least 1MiB"),
        ('queue.max_size = "9"', ", and at least 1MiB"),
    ],
)
def test_durations_and_sizes_that_are_too_small(line: str, says: str, tmp_path: Path) -> None:
    config = write(tmp_path / "c.toml", f'upload.url = "http://127.0.0.1/"\n{line}')
    with pytest.raises(ConfigError, match=says):
        loader.load(config)


_PARTS = st.sampled_from(
    [
        *("auto", "/", "file://", "gpsd://", "tcp://", "udp://", "https://", "http://", "[::1]"),
        *("$PMTK", "ubx:", "06", "{hostname}", "{", "}", "{z}", "{x}", "{y}", "native", "gpsd"),
        *(":", ".", "..", "~", "_", "?", "#", "@", "&", "-", "+", " ", "\t", "\x00", "\x7f", "é"),
        *("0", "1", "5", "2947", "9600", "s", "ms", "min", "KiB", "MiB", "true", "no", "h", "x=1"),
    ]
)
_TEXTS = st.lists(_PARTS, max_size=6).map("".join)
_SCALARS = (
    _TEXTS
    | st.integers(-10, 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(0, 1e6).map(str)
    | st.booleans()
)
_OF_TWO_KEYS = {"upload.proxy", "upload.password_file", "upload.client_key"} | {
    "upload.proxy_password_file"
}


@given(
    key=st.sampled_from([key for key in [*known_keys(), "extra.cpu"] if key not in _OF_TWO_KEYS]),
    value=_SCALARS | st.lists(_SCALARS, max_size=3) | st.dictionaries(_TEXTS, _SCALARS, max_size=3),
)
def test_the_schema_accepts_what_the_loader_accepts(key: str, value: object) -> None:
    config: dict[str, Any] = {"upload": {"url": "https://example.com/"}}
    section, _, name = key.rpartition(".")
    (config.setdefault(section, {}) if section else config)[name] = value
    accepted = True
    try:
        loader.load_texts(
            {"": "\n".join(f"{top} = {as_toml(one)}" for top, one in config.items())}, {}
        )
    except ConfigError:
        accepted = False
    assert SCHEMA.is_valid(config) == accepted or key in _NEARLY


def as_toml(value: object) -> str:
    """The TOML value on one line."""
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{as_toml(key)} = {as_toml(one)}" for key, one in value.items()) + "}"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


# Secrets


def upload(tmp_path: Path, lines: str, url: str = "https://example.com/v1") -> LoadedConfig:
    text = MINIMAL.replace("http://127.0.0.1:8080/v1/fixes", url)
    return loader.load(write(tmp_path / "c.toml", text + lines))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            'token_file = "/t"\nusername = "me"\npassword_file = "/p"',
            "upload.token_file and upload.username exclude each other",
        ),
        (
            'token_file = "/t"\nheaders = {authorization = "Bearer geheim"}',
            "upload.token_file and upload.headers.authorization exclude each other",
        ),
        ('password_file = "/p"', "upload.username is missing, upload.password_file is set"),
        ('client_key = "/k"', "upload.client_cert is missing, upload.client_key is set"),
        (
            'username = "a:b"',
            "upload.username = 'a:b': must be a text in quotation marks, without colons",
        ),
        ('headers = {Host = "geheim"}', "upload.headers: Host is set by the agent itself"),
        ('headers = {"X Y" = "geheim"}', "'X Y' is not a header name"),
        ('headers = {X = "geheim\\nY: geheim"}', "X must be printable"),
        ('headers = {X = "a", x = "geheim"}', "a header may be given only once"),
        ("headers = {X = 3}", "upload.headers.X: must be a text in quotation marks"),
        ('proxy = "https://p:1"', "upload.proxy = 'https://p:1': must be http://HOST:PORT"),
        ('proxy = "http://p:1/x"', "must be http://HOST:PORT"),
        ('proxy = "http://me:geheim@p:1"', "must not contain a password"),
        ('proxy = "http://me@p:1"', "belong together"),
        ('proxy_password_file = "/p"', "belong together"),
    ],
)
def test_faults_in_how_the_endpoint_is_approached(tmp_path: Path, lines: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        upload(tmp_path, lines)
    assert says in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "secret",
    ['token_file = "/t"', 'username = "me"\npassword_file = "/p"', 'headers = {X-Api-Key = "k"}'],
)
@pytest.mark.parametrize(
    ("url", "proxy", "host"),
    [
        ("http://far.example/", "", "far.example"),
        ("http://127.0.0.1.far.example/", "", "127.0.0.1.far.example"),
        ("http://10.0.0.1/", "", "10.0.0.1"),
        ("http://127.0.0.1/", "http://proxy.example:3128", "proxy.example"),
        ("http://127.0.0.1/", "", None),
        ("http://[::1]:80/", "", None),
        ("http://localhost/", "http://127.0.0.1:3128", None),
        ("https://far.example/", "http://proxy.example:3128", None),
    ],
)
def test_a_secret_leaves_the_machine_encrypted_or_not_at_all(
    tmp_path: Path, secret: str, url: str, proxy: str, host: str | None
) -> None:
    lines = f'{secret}\nproxy = "{proxy}"\n'
    assert upload(tmp_path, f"{lines}allow_insecure = true", url).settings.upload.allow_insecure
    if host is None:
        upload(tmp_path, lines, url)
        return
    with pytest.raises(ConfigError, match=f"a secret would be sent to {host} unencrypted"):
        upload(tmp_path, lines, url)


def test_plain_http_without_a_secret_is_nobodys_business(tmp_path: Path) -> None:
    upload(tmp_path, 'headers = {X-Fleet = "north"}', "http://far.example/")


def test_what_is_shown_holds_no_secret(tmp_path: Path) -> None:
    loaded = upload(
        tmp_path,
        'headers = {Authorization = "Bearer geheim", X-Api-Key = "geheim", X-Fleet = "north"}',
        "https://example.com/v1?api_key=geheim&db=gps",
    )
    values = shown(loaded.settings)
    assert values["upload.headers"] == {
        "Authorization": "***",
        "X-Api-Key": "***",
        "X-Fleet": "north",
    }
    assert values["upload.url"] == "https://example.com/v1?api_key=***&db=gps"
    assert "geheim" in repr(loaded.settings)


def test_a_password_in_a_url_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as e:
        upload(tmp_path, "", "https://me:geheim@x/?key=geheim")
    assert "upload.url = 'https://***@x/?key=***': must not contain a user name" in str(e.value)


def test_headers_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_AGENT_UPLOAD__HEADERS", '{"X-Fleet": "south"}')
    assert upload(tmp_path, "").settings.upload.headers == {"X-Fleet": "south"}
    for value in ("south", "[" * 100_000):
        monkeypatch.setenv("TELEMETRY_AGENT_UPLOAD__HEADERS", value)
        with pytest.raises(ConfigError, match=r"upload\.headers: .*as JSON\) \[env.*__HEADERS"):
            upload(tmp_path, "")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("TELEMETRY_AGENT_UPLOAD", ""),  # a section as JSON is not documented
        ("TELEMETRY_AGENT_UPLOAD__", "; did you mean TELEMETRY_AGENT_UPLOAD__"),
        ("TELEMETRY_AGENT_DEVICE__X", "; did you mean TELEMETRY_AGENT_DEVICE?"),
        ("telemetry_agent_upload__url", "; did you mean TELEMETRY_AGENT_UPLOAD__URL?"),
        ("TELEMETRY_AGENT_upload__url", "; did you mean TELEMETRY_AGENT_UPLOAD__URL?"),
    ],
)
@pytest.mark.parametrize("value", ["x", '{"url": "https://elsewhere/"}', "[" * 100_000])
def test_a_variable_that_is_reported_as_unknown_has_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    loaded = upload(tmp_path, "")
    assert loaded.settings == upload(tmp_path, "").settings
    assert loaded.settings.upload.url == "https://example.com/v1"
    assert any(f"{name} is unknown and has no effect{hint}" in note for note in loaded.notes)


def test_a_variable_below_a_single_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEMETRY_AGENT_UPLOAD__HEADERS__X", "x")
    with pytest.raises(ConfigError, match="not a key"):
        upload(tmp_path, "")


def test_a_table_from_the_environment_is_merged_as_that_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELEMETRY_AGENT_UPLOAD__HEADERS", '{"X-Fleet": "south"}')
    monkeypatch.setenv("TELEMETRY_AGENT_EXTRA__DOOR", '{"file": "/run/door", "unit": "cm"}')
    settings = upload(tmp_path, 'headers = {X-Van = "7"}').settings
    assert settings.upload.headers == {"X-Fleet": "south", "X-Van": "7"}
    assert settings.extra.files["door_cm"].file == Path("/run/door")


@pytest.mark.parametrize("key", ["upload.ca_file", "page.token_file", "page.listen"])
@pytest.mark.parametrize("value", ["0", "false", "[]", "{}", "{user = 3}"])
def test_only_an_empty_text_stands_for_no_file_and_no_address(
    tmp_path: Path, key: str, value: str
) -> None:
    section, _, name = key.partition(".")
    line = f"{name} = {value}" if section == "upload" else f"[{section}]\n{name} = {value}"
    with pytest.raises(ConfigError, match=rf"config: {key}.* must be .*c\.toml"):
        upload(tmp_path, line)


def test_connections_are_made_to_the_proxy(tmp_path: Path) -> None:
    assert upload(tmp_path, "").settings.upload.address == ("example.com", 443)
    behind = upload(tmp_path, 'proxy = "http://proxy.example:3128/"').settings.upload
    assert (behind.proxy, behind.address) == ("http://proxy.example:3128", ("proxy.example", 3128))


PHONETRACK = "/index.php/apps/phonetrack/log/overland/0123456789abcdef0123456789abcdef/van"


@pytest.mark.parametrize("secret", ["/?api_key=geheim", "/write?u=me&p=geheim&db=gps", PHONETRACK])
def test_a_secret_in_the_url_is_masked_and_not_sent_in_the_clear(
    tmp_path: Path, secret: str
) -> None:
    with pytest.raises(ConfigError, match=r"a secret would be sent to far\.example unencrypted"):
        upload(tmp_path, "", f"http://far.example{secret}")
    settings = upload(tmp_path, "", f"https://far.example{secret}").settings
    url = shown(settings)["upload.url"]
    assert "***" in url
    assert "geheim" not in url
    assert "0123456789abcdef" not in url
    secrets: set[str] = set()
    access = build_credentials(settings.upload, secrets)
    assert access.masked(f"no such thing: {secret}") != f"no such thing: {secret}"
    assert secrets & {"geheim", "0123456789abcdef0123456789abcdef"}


@pytest.mark.parametrize(
    ("format_", "path", "word"),
    [
        ("influx", "/api/v2/write?org=o&bucket=b", "Token"),
        ("influx", "/write?db=gps", "Bearer"),
        ("overland", "/api/v1/overland/batches", "Bearer"),
    ],
)
def test_a_token_has_the_word_that_the_server_knows(
    tmp_path: Path, format_: str, path: str, word: str
) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken")
    lines = f'format = "{format_}"\ntoken_file = "{token}"'
    settings = upload(tmp_path, lines, f"https://example.com{path}").settings
    assert build_credentials(settings.upload, set()).headers()["Authorization"] == f"{word} t0ken"


def test_the_precision_is_the_agents(tmp_path: Path) -> None:
    lines = 'format = "influx"'
    upload(tmp_path, lines, "https://example.com/write?db=gps&precision=ms")
    upload(tmp_path, "", "https://example.com/?precision=ns")
    with pytest.raises(ConfigError, match=r"upload\.url has precision=ns: leave it out"):
        upload(tmp_path, lines, "https://example.com/write?db=gps&precision=ns")


def test_attributes_of_the_users_own(tmp_path: Path) -> None:
    lines = """
        [extra]
        power = true
        door = "/run/door"
        cpu_temp = {file = "/sys/class/thermal/thermal_zone0/temp", scale = 0.001, unit = "C"}
    """
    loaded = loader.load(write(tmp_path / "c.toml", MINIMAL + lines))
    extra = loaded.settings.extra
    assert extra.power
    assert {name: str(one.file) for name, one in extra.files.items()} == {
        "door": "/run/door",
        "cpu_temp_C": "/sys/class/thermal/thermal_zone0/temp",
    }
    values = shown(loaded.settings)
    assert values["extra.door"] == {"file": "/run/door"}
    assert values["extra.cpu_temp"]["unit"] == "C"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('lat = "/x"', "extra.lat: this name is already in use"),
        ('battery = "/x"', "extra.battery: this name is already in use"),
        (
            'AccessPolicy = "/x"',
            "extra.AccessPolicy: a name (with its unit) is a lower-case letter",
        ),
        ('a = {file = "/x", unit = "m/s"}', "extra.a_m/s: a name"),
        ('door = "x"', "extra.door.file = 'x': must be the full path of a file"),
        ("door = 3", "extra.door = 3: must be a file, or {file = "),
        ('door = {fil = "/x"}', "extra.door.fil is not a key of the config"),
        ('door = {file = "/x", scale = "a"}', "extra.door.scale = 'a': must be a number"),
        ('a_b = "/x"\na = {file = "/x", unit = "b"}', "two attributes have the same name"),
        ("power = 3", "extra.power"),
    ],
)
def test_wrong_attributes(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loader.load(write(tmp_path / "c.toml", f"{MINIMAL}[extra]\n{line}\n"))
    assert says in str(caught.value)


# In a separate process


def test_another_process_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_AGENT_UPLOAD__HEADERS", '{"X-Fleet": "south"}')
    path = write(tmp_path / "c.toml", f'{MINIMAL}[extra]\ndoor = "/run/door"\n')
    assert subprocess_loader.load(path).settings == loader.load(path).settings
    monkeypatch.chdir(tmp_path)
    path.rename("config.toml")
    assert subprocess_loader.load(None).settings.extra.files["door"].file == Path("/run/door")


@pytest.mark.parametrize("load", [loader.load, subprocess_loader.load])
def test_a_config_may_come_from_process_substitution(load: Any) -> None:
    reads, writes = os.pipe()
    os.set_inheritable(reads, True)
    os.write(writes, MINIMAL.encode())
    os.close(writes)
    assert load(Path(f"/dev/fd/{reads}")).settings.device == "van-07"
    os.close(reads)


def test_what_another_process_finds_wrong_is_said_as_here(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", MINIMAL + "timout = 3")
    with pytest.raises(ConfigError) as here:
        loader.load(path)
    with pytest.raises(ConfigError) as there:
        subprocess_loader.load(path)
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("sys.executable", "/bin/false", "the process that reads it ended with 1$"),
        ("sys.executable", "/none/python", "cannot start /none/python to read it: No such file"),
        (
            "telemetry_agent.config.subprocess_loader.__version__",
            "0.0.9",
            f"telemetry-agent {re.escape(__version__)} is installed, but 0.0.9 is running",
        ),
    ],
)
def test_another_process_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, attribute: str, value: str, says: str
) -> None:
    monkeypatch.setattr(attribute, value)
    with pytest.raises(ResourceError, match=says):
        subprocess_loader.load(ROOT / "config.example.toml")


def test_a_config_that_the_system_does_not_let_us_read_is_not_called_wrong(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.symlink_to("/proc/self/mem")  # no memory is mapped at its start
    for load in (loader.load, subprocess_loader.load):
        with pytest.raises(ResourceError, match=f"config {path}: Input/output.*sudo dmesg"):
            load(path)
    path.unlink()
    write(path, MINIMAL)
    (tmp_path / "config.d").symlink_to("config.d")
    with pytest.raises(ResourceError, match=r"cannot read the folder .*/config.d: Too many.* must"):
        loader.load(path)
    with pytest.raises(ResourceError, match=r"Is a folder: .*: files of the config must be reg"):
        loader.load(tmp_path)


def test_the_other_process_says_nothing_where_nobody_waits_for_it_any_more() -> None:
    argv = [
        sys.executable,
        "-m",
        subprocess_loader.__name__,
        "-",
        str(ROOT / "config.example.toml"),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_the_newest_copy_wins_over_an_older_one_that_the_environment_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    path = write(tmp_path / "c.toml", MINIMAL)
    last_good.keep({str(path): MINIMAL})
    last_good.keep({str(path): MINIMAL.replace("van-07", "van-08") + 'username = "van"\n'})
    # In addition to a username, it is a second login method.
    monkeypatch.setenv("TELEMETRY_AGENT_UPLOAD__TOKEN_FILE", "/run/token")
    path.unlink()
    found = subprocess_loader.load(path, fall_back=True)
    assert found.settings.device == "van-08"
    assert found.settings.upload.token_file is None
    # A key of another version: the older copy is used, with the environment.
    last_good.keep({str(path): MINIMAL})
    last_good.keep({str(path): MINIMAL + "[later]\n"})
    found = subprocess_loader.load(path, fall_back=True)
    assert (found.settings.device, found.settings.upload.token_file) == (
        "van-07",
        Path("/run/token"),
    )
