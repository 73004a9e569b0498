"""The reference endpoint matches its OpenAPI description and admits only permitted clients."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from processes import run_agent

from telemetry_agent.errors import ConfigError
from telemetry_agent.lab import native_request
from telemetry_agent.lab.endpoint import Endpoint, Tokens

EXAMPLES = settings().max_examples * 3 // 10
STREAM = "9f0c2d6e11a7b354"
FIX = {"seq": 1, "time": "2026-11-23T12:35:19.000Z", "lat": 48.1, "lon": 11.5}


def asked(url: str, body: Any = None, token: str | None = None) -> tuple[int, Any, dict[str, str]]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
            return answer.status, json.loads(answer.read()), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), dict(error.headers)


def batch(device: str, **changes: Any) -> dict[str, Any]:
    said = {"format": "native/1", "device": device, "stream": STREAM, "fixes": [FIX]}
    return {**said, **changes}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text('van-07 = "seven"\n"van 08" = "eight"\n')
    return path


@pytest.mark.hypothesis
@pytest.mark.parametrize("guarded", [False, True])
def test_every_answer_is_as_described(tmp_path: Path, tokens: Path, guarded: bool) -> None:
    who = Tokens(tokens) if guarded else None
    with Endpoint("127.0.0.1:0", tmp_path / "r.db", tokens=who) as endpoint:
        description = endpoint.url.replace("/v1/fixes", "/openapi.json")
        options = ["--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"]
        options += ["--header", "Authorization: Bearer seven"] if guarded else []
        done = subprocess.run(
            [str(Path(sys.executable).with_name("schemathesis")), "run", description, *options],
            capture_output=True,
            text=True,
            timeout=4 * EXAMPLES,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONUTF8": "1"},
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "3 selected / 3 total" in done.stdout


def test_the_description_knows_every_field_of_a_fix() -> None:
    text = resources.files("telemetry_agent.lab.endpoint").joinpath("openapi.json").read_text()
    described = json.loads(text)["components"]["schemas"]["Fix"]
    assert set(described["properties"]) == {"seq", *native_request._FIELDS}
    assert set(described["required"]) == {"seq", *native_request._REQUIRED}


def test_each_device_has_a_token_of_its_own(tmp_path: Path, tokens: Path) -> None:
    with Endpoint("127.0.0.1:0", tmp_path / "r.db", tokens=Tokens(tokens)) as endpoint:
        for token in (None, "", "nine", "seven "[:3]):
            status, _, headers = asked(endpoint.url, batch("van-07"), token)
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert asked(endpoint.url, batch("van 08"), "seven")[0] == 403
        assert endpoint.count() == 0
        assert asked(endpoint.url, batch("van-07", agent={"a": 1}), "seven")[0] == 200
        assert asked(endpoint.url, batch("van 08", agent={}, stream="0" * 16), "eight")[0] == 200
        assert endpoint.count() == 2
        agents = endpoint.url.replace("/v1/fixes", "/v1/agents")
        assert asked(agents)[0] == 401
        assert [told["device"] for told in asked(agents, token="eight")[1]] == ["van 08"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('van-07 = "a"\nvan-08 = "a"', "two devices have the same token"),
        ('"" = "a"', "'' needs a name"),
        ("van-07 = 7", "'van-07' needs a name, and a token: ASCII without spaces"),
        ('van-07 = "a b"', "'van-07' needs a name, and a token"),
        ('van-07 = ""', "'van-07' needs a name, and a token"),
        ("van-07 = s3cret", 'must hold lines like van-07 = "token"'),
    ],
)
def test_tokens_that_are_none(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Tokens(path)
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_receive_reads_them(tmp_path: Path) -> None:
    done = run_agent("receive", "--tokens", str(tmp_path / "none.toml"), cwd=tmp_path)
    assert done.returncode == 78
    assert "--tokens: cannot read" in done.stderr


def test_a_database_that_cannot_be_written_says_when_to_come_again(tmp_path: Path) -> None:
    with Endpoint("127.0.0.1:0", tmp_path / "r.db") as endpoint:
        endpoint.store._db.execute("PRAGMA query_only = 1")
        status, said, headers = asked(endpoint.url, batch("van-07"))
        endpoint.store._db.execute("PRAGMA query_only = 0")
    assert (status, headers["Retry-After"]) == (503, "10")
    assert said["error"].startswith("cannot store: ")


@pytest.mark.parametrize(
    ("path", "body", "allowed"), [("/v1/fixes", None, "POST"), ("/v1/agents", {}, "GET")]
)
def test_another_method_says_which_is_right(
    tmp_path: Path, path: str, body: Any, allowed: str
) -> None:
    with Endpoint("127.0.0.1:0", tmp_path / "r.db") as endpoint:
        status, _, headers = asked(endpoint.url.replace("/v1/fixes", path), body)
    assert (status, headers["Allow"]) == (405, allowed)
