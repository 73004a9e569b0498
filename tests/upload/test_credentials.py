"""How the agent and the endpoint prove their identity: real files, real TLS."""

import base64
import logging
import os
import re
import select
import ssl
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Pair
from misbehaving import (
    Act,
    Line,
    Request,
    Server,
    Validity,
    answer,
    says,
    tls_server_context,
    trusting,
    tunnel,
)

from telemetry_agent.clock import Clock
from telemetry_agent.errors import ConfigError
from telemetry_agent.model import Answer, Payload
from telemetry_agent.upload.http.credentials import Credentials
from telemetry_agent.upload.http.dialer import Dialer
from telemetry_agent.upload.http.transport import Transport
from telemetry_agent.upload.interfaces import NoAnswer
from telemetry_agent.upload.quoting import words

PAYLOAD = Payload(b'{"fixes":[]}', {"Content-Type": "application/json"})


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def served(authority: Authority) -> Pair:
    return authority.sign("server")


@pytest.fixture(scope="module")
def van(authority: Authority) -> Pair:
    return authority.sign("van-07")


def exchange(url: str, credentials: Credentials, **how: Any) -> Answer | NoAnswer:
    with closing(Transport(url, credentials=credentials, **how)) as transport:
        return transport.exchange(PAYLOAD, 5)


def reason(outcome: Answer | NoAnswer) -> str:
    assert isinstance(outcome, NoAnswer), outcome
    return outcome.reason


# The identity of the endpoint


def test_an_own_authority_is_trusted_in_place_of_the_systems(
    authority: Authority, served: Pair, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    with Server(tls=authority.server_context(served)) as server:
        known = exchange(server.url, Credentials(ca_file=authority.pair.cert))
        assert isinstance(known, Answer)
        assert known.verified_tls
        for credentials in (Credentials(), Credentials(ca_file=stranger.pair.cert)):
            assert "certificate not trusted" in reason(exchange(server.url, credentials))
        assert len(server.requests) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_before_1_2_is_refused(
    authority: Authority, served: Pair, version: ssl.TLSVersion
) -> None:
    context = authority.server_context(served)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with Server(tls=context) as server:
        credentials = Credentials(ca_file=authority.pair.cert)
        credentials.ssl_context().set_ciphers("ALL:@SECLEVEL=0")  # only our own rule is left
        said = reason(exchange(server.url, credentials))
        assert "TLS handshake" in said
        assert "protocol" in said
        assert server.requests == []


def test_a_session_is_resumed_on_the_next_connection(authority: Authority, served: Pair) -> None:
    resumed: list[bool | None] = []

    def run(line: Line, request: Request) -> bool:
        assert isinstance(line.sock, ssl.SSLSocket)
        resumed.append(line.sock.session_reused)
        line.reply(200)
        return False

    with Server(then=Act(run), tls=authority.server_context(served)) as server:
        credentials = Credentials(ca_file=authority.pair.cert)
        sent = [0]
        with closing(Transport(server.url, credentials=credentials)) as transport:
            for _ in range(3):
                assert isinstance(transport.exchange(PAYLOAD, 5), Answer)
                sent.append(transport.dialer.sent_bytes + transport.dialer.received_bytes)
    assert resumed == [False, True, True]
    assert sent[2] - sent[1] < 0.8 * (sent[1] - sent[0])


# The identity of the agent


def test_a_client_certificate_is_shown(authority: Authority, served: Pair, van: Pair) -> None:
    seen: list[Any] = []

    def run(line: Line, request: Request) -> None:
        assert isinstance(line.sock, ssl.SSLSocket)
        seen.append(line.sock.getpeercert())
        line.reply(200)

    context = authority.server_context(served, clients=True)
    with Server(then=Act(run), tls=context) as server:
        ca_file = authority.pair.cert
        with_key = Credentials(ca_file=ca_file, client_cert=van.cert, client_key=van.key)
        assert isinstance(exchange(server.url, with_key), Answer)
        without = exchange(server.url, Credentials(ca_file=ca_file))
    assert isinstance(without, NoAnswer)
    assert "upload.client_cert): certificate required" in without.reason
    assert [peer["subject"] for peer in seen] == [((("commonName", "van-07"),),)]


def test_a_client_certificate_is_shown_to_a_server_that_asks_late(
    authority: Authority, served: Pair, van: Pair
) -> None:
    """Apache asks after it has read the path, if only some paths require a certificate."""
    seen: list[Any] = []

    def run(line: Line, request: Request) -> None:
        assert isinstance(line.sock, ssl.SSLSocket)
        line.sock.verify_client_post_handshake()
        line.sock.do_handshake()
        line.sock.setblocking(False)
        while not seen and select.select([line.sock], [], [], 60)[0]:
            with suppress(ssl.SSLWantReadError):
                line.sock.recv(1)
            seen.extend(filter(None, [line.sock.getpeercert()]))
        line.sock.setblocking(True)
        line.reply(200)

    context = authority.server_context(served, clients=True)
    context.post_handshake_auth = True
    with Server(then=Act(run), tls=context) as server:
        credentials = Credentials(
            ca_file=authority.pair.cert, client_cert=van.cert, client_key=van.key
        )
        with closing(Transport(server.url, credentials=credentials)) as transport:
            assert isinstance(transport.exchange(PAYLOAD, 60), Answer)
    assert [peer["subject"] for peer in seen] == [((("commonName", "van-07"),),)]


def test_a_renewed_certificate_is_shown_on_the_next_connection(
    authority: Authority, served: Pair, tmp_path: Path
) -> None:
    shown: list[str] = []

    def run(line: Line, request: Request) -> None:
        assert isinstance(line.sock, ssl.SSLSocket)
        peer: Any = line.sock.getpeercert()
        shown.append(peer["subject"][0][0][1])
        line.reply(200)

    file = tmp_path / "both.pem"

    def install(pair: Pair) -> None:
        new = tmp_path / "new"
        new.write_text(pair.cert.read_text() + pair.key.read_text())
        new.rename(file)

    install(authority.sign("old"))
    with Server(then=Act(run), tls=authority.server_context(served, clients=True)) as server:
        credentials = Credentials(ca_file=authority.pair.cert, client_cert=file)
        with closing(Transport(server.url, credentials=credentials)) as transport:
            transport.exchange(PAYLOAD, 5)
            install(authority.sign("new"))
            transport.exchange(PAYLOAD, 5)  # on the kept connection
            transport.drop_idle()
            transport.exchange(PAYLOAD, 5)
    assert shown == ["old", "old", "new"]


def test_a_renewed_token_is_sent_with_the_next_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "token"
    file.write_text("first-token\n")
    credentials = Credentials({"X-Fleet": "north"}, token=file)
    with Server() as server, closing(Transport(server.url, credentials=credentials)) as transport:
        transport.exchange(PAYLOAD, 5)
        file.write_text("")  # a program is writing it at this moment
        transport.exchange(PAYLOAD, 5)
        transport.exchange(PAYLOAD, 5)
        file.write_text("second-token")
        transport.exchange(PAYLOAD, 5)
        file.unlink()
        transport.exchange(PAYLOAD, 5)
        sent = [request.headers["authorization"] for request in server.requests]
        assert {request.headers["x-fleet"] for request in server.requests} == {"north"}
        assert server.connections == 1
    assert sent == [f"Bearer {word}-token" for word in ("first", "first", "first", *["second"] * 2)]
    serves = "still using the previous contents"
    empty, again = caplog.messages  # a repeated failure within a minute is not logged
    assert empty == f"upload.token_file: {file} is empty; {serves}"
    assert re.fullmatch(rf"read {file} again after \d+ s \(failures: 2\)", again)
    assert credentials.masked("first-token second-token") == "*** ***"


def test_a_token_that_vanishes_stays_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text("first-token\n")
    credentials = Credentials({"authorization": "Bearer another", "X-Fleet": "1"}, token=file)
    assert credentials.headers() == {"X-Fleet": "1", "Authorization": "Bearer first-token"}
    credentials = Credentials(token=file)
    credentials.prepare()
    file.unlink()
    for _ in range(2):
        assert credentials.headers() == {"Authorization": "Bearer first-token"}
    (said,) = caplog.messages
    assert said.startswith(f"upload.token_file: cannot read {file}: No such file or directory; ")
    assert said.endswith("still using the previous contents")


@pytest.mark.parametrize("key", ["token", "password", "ca_file", "client_cert"])
def test_what_is_no_file_is_said_and_hangs_nothing(tmp_path: Path, key: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (tmp_path / "large").open("wb") as large:
        large.truncate(1 << 30)
    for path, said in ((pipe, "Not a regular file"), (tmp_path / "large", "Larger than 1 MiB")):
        with pytest.raises(ConfigError, match=said):
            Credentials(username="van", **{key: path}).prepare()  # type: ignore[arg-type]


def test_basic_authentication(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("geheim: süß \n")
    credentials = Credentials(username="van", password=file)
    with Server() as server:
        exchange(server.url, credentials)
    scheme, _, packed = server.requests[0].headers["authorization"].partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(packed).decode() == "van:geheim: süß "
    assert credentials.masked(f"{packed} {file.read_text()}") == "*** ***\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read .*: No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"my secret", "must hold a token: ASCII without spaces"),
        (b"my\nsecret", "must contain one line of printable characters"),
        ("gehäim-secret".encode(), "must hold a token"),
        (b"secret\xff", "is not text"),
    ],
)
def test_a_token_that_cannot_be_sent_is_told(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    credentials = Credentials(token=file)
    with pytest.raises(ConfigError, match=f"upload.token_file: .*{says}") as caught:
        credentials.prepare()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"ca_file": "gone"}, "upload.ca_file: .*/gone: No such file"),
        ({"ca_file": "empty"}, "upload.ca_file: .*/empty: no certificate or crl found"),
        ({"client_cert": "gone"}, "upload.client_cert: .*/gone: No such file"),
        ({"client_cert": "own.pem"}, "upload.client_cert: .*/own.pem: .+"),
        (
            {"client_cert": "own.pem", "client_key": "other.key"},
            "with upload.client_key .*/other.key: key values mismatch",
        ),
        (
            {"client_cert": "own.pem", "client_key": "locked.key"},
            "locked.key: the key has a passphrase",
        ),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told(
    tmp_path: Path, named: dict[str, str], says: str
) -> None:
    authority = Authority(tmp_path)
    own = authority.sign("own")
    authority.sign("other")
    (tmp_path / "empty").write_text("")
    subprocess.run(
        f"openssl ec -aes256 -passout pass:pw -in {own.key} -out {tmp_path}/locked.key".split(),
        check=True,
        capture_output=True,
    )
    files: dict[str, Any] = {key: tmp_path / name for key, name in named.items()}
    credentials = Credentials(**files)
    with pytest.raises(ConfigError, match=says) as caught:
        credentials.prepare()
    assert "\n" not in str(caught.value)


# Through a proxy


@pytest.fixture
def no_other_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")


@pytest.mark.usefixtures("no_other_proxy")
def test_https_goes_through_a_tunnel_and_only_the_proxy_that_is_set_is_used(
    authority: Authority, served: Pair, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("our-token")
    credentials = Credentials(ca_file=authority.pair.cert, token=token)
    with Server(tls=authority.server_context(served)) as server, Server(then=tunnel()) as proxy:
        assert isinstance(exchange(server.url, credentials), Answer)  # no environment proxy
        by = f"http://127.0.0.1:{proxy.port}"
        with closing(Transport(server.url, credentials=credentials, proxy=by)) as transport:
            for _ in range(2):
                got = transport.exchange(PAYLOAD, 5)
                assert isinstance(got, Answer), got
                assert got.verified_tls
        assert len(server.requests) == 3
        (asked,) = proxy.requests
    assert (asked.method, asked.target) == ("CONNECT", f"127.0.0.1:{server.port}")
    assert "authorization" not in asked.headers


@pytest.mark.usefixtures("no_other_proxy")
@pytest.mark.parametrize("over_tls", [True, False])
def test_the_proxy_gets_the_password_of_the_day_and_the_endpoint_never_does(
    authority: Authority, served: Pair, tmp_path: Path, over_tls: bool
) -> None:
    password = tmp_path / "password"
    password.write_text("first")
    credentials = Credentials(
        ca_file=authority.pair.cert, proxy_username="jane", proxy_password=password
    )
    context = authority.server_context(served)
    act = tunnel() if over_tls else answer()
    with Server(tls=context) as server, Server(then=act) as proxy:
        by = f"http://jane@127.0.0.1:{proxy.port}"
        url = server.url if over_tls else "http://far.example/"
        for text in ("first", "second"):
            password.write_text(text)
            with closing(Transport(url, credentials=credentials, proxy=by)) as transport:
                assert isinstance(transport.exchange(PAYLOAD, 5), Answer)
        sent = [request.headers["proxy-authorization"] for request in proxy.requests]
        assert sent == ["Basic amFuZTpmaXJzdA==", "Basic amFuZTpzZWNvbmQ="]
        assert all("proxy-authorization" not in request.headers for request in server.requests)
    assert credentials.masked("first, second") == "***, ***"


@pytest.mark.usefixtures("no_other_proxy")
def test_a_new_password_for_the_proxy_is_sent_on_the_kept_connection(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("first")
    credentials = Credentials(proxy_username="jane", proxy_password=password)
    with Server() as proxy:
        by = f"http://127.0.0.1:{proxy.port}"
        url = "http://far.example/"
        with closing(Transport(url, credentials=credentials, proxy=by)) as transport:
            transport.exchange(PAYLOAD, 5)
            password.write_text("second")
            transport.exchange(PAYLOAD, 5)
        sent = [request.headers["proxy-authorization"] for request in proxy.requests]
        assert sent == ["Basic amFuZTpmaXJzdA==", "Basic amFuZTpzZWNvbmQ="]
        assert proxy.connections == 1


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://far.example/v1?a=1", "http://far.example/v1?a=1"),
        ("http://far.example:80/v1?a=1#part", "http://far.example/v1?a=1"),
        ("http://far.example", "http://far.example/"),
    ],
)
@pytest.mark.usefixtures("no_other_proxy")
def test_plain_http_tells_the_proxy_the_whole_url(url: str, target: str) -> None:
    with Server() as proxy:
        got = exchange(url, Credentials(), proxy=f"http://127.0.0.1:{proxy.port}")
        assert isinstance(got, Answer)
    (request,) = proxy.requests
    assert request.target == target
    assert request.headers["host"] == "far.example"


@pytest.mark.parametrize("url", ["http://far.example/v1", "https://far.example/v1"])
@pytest.mark.usefixtures("no_other_proxy")
def test_a_proxy_may_be_an_ipv6_address(url: str) -> None:
    got = exchange(url, Credentials(), proxy="http://[::1]:9")
    assert "[::1]:9" in reason(got)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (
            answer(407),
            "the proxy does not connect to the endpoint: 407 Proxy Authentication Required",
        ),
        (answer(502), "the proxy does not connect to the endpoint: 502 Bad Gateway"),
        (
            tunnel(says=b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            "the proxy sent more than one answer",
        ),
        (says(b"HTTP/1.1 200 OK\r\n\r\n"), "(TLS handshake with|connection to) 127.0.0.1:"),
    ],
)
def test_a_proxy_that_refuses_or_lies_delivers_nothing(
    authority: Authority, served: Pair, act: Act, why: str
) -> None:
    with Server(tls=authority.server_context(served)) as server, Server(act, act) as proxy:
        credentials = Credentials(ca_file=authority.pair.cert)
        said = reason(exchange(server.url, credentials, proxy=f"http://127.0.0.1:{proxy.port}"))
        assert server.requests == []
    assert re.match(why, said), said


# A wrong clock


@pytest.mark.parametrize(
    ("validity", "gnss_offset_ms", "says"),
    [
        ("past", None, "certificate has expired (or this machine's clock is wrong)"),
        ("past", 1000, "certificate has expired"),
        ("past", -86_400_000, "GNSS says"),
        ("future", None, "certificate is not yet valid (or this machine's clock is wrong)"),
        ("future", 1000, "certificate is not yet valid"),
        ("future", 86_400_000, "GNSS says"),
    ],
)
def test_a_certificate_of_another_time_is_told_from_a_wrong_clock(
    validity: Validity, gnss_offset_ms: int | None, says: str
) -> None:
    clock = Clock()

    def gnss_ms() -> int | None:
        return None if gnss_offset_ms is None else clock.wall_ms() + gnss_offset_ms

    with Server(tls=tls_server_context(validity)) as server:
        dialer = Dialer(clock, gnss_ms=gnss_ms)
        said = reason(exchange(server.url, trusting(validity), dialer=dialer))
    assert says in said
    assert ("set the clock" in said) == (says == "GNSS says")
    assert said.endswith(says) or says == "GNSS says"


@pytest.mark.parametrize(
    "quoted",
    [
        "aB3/x+y=Zq9",
        "aB3%2Fx%2By%3DZq9",
        "aB3%2fx%2by%3dZq9",
        "aB3/x%2By%3DZq9",
        r"aB3\/x+y=Zq9",  # PHP escapes JSON like this
    ],
)
def test_a_server_may_quote_a_secret_in_its_own_way(tmp_path: Path, quoted: str) -> None:
    token = tmp_path / "token"
    token.write_text("aB3/x+y=Zq9")
    credentials = Credentials(token=token)
    credentials.prepare()
    assert credentials.masked(f"who is {quoted}?") == "who is ***?"
    for cut in range(180, 201):  # a long answer is cut, perhaps in the middle of the secret
        said = credentials.masked(f"401: {words('x' * cut + quoted + 'y' * 100)}, it says")
        assert "aB3/" not in said
        assert "aB3%2" not in said
        assert said.endswith(", it says")
