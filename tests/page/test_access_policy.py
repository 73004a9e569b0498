"""Requests that the page accepts, and requests that it denies."""

import pytest

from telemetry_agent.page.access_policy import AccessPolicy, WrongTokens

TOKEN = "a-token-of-24-characters"
OURS = {"host": "127.0.0.1:8077"}
SAME = OURS | {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8077"}


def status(policy: AccessPolicy, method: str, path: str, headers: dict[str, str]) -> int:
    denied = policy.denial(method, path, headers)
    return 200 if denied is None else denied.status_code


def cookie_of(policy: AccessPolicy, token: str, headers: dict[str, str]) -> str | None:
    return policy.login(token, headers).headers.get("Set-Cookie")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:8077", 200),
        ("[::1]:8077", 200),
        ("192.0.2.7", 200),
        ("localhost:8077", 200),
        ("VAN-07:8077", 200),
        ("van-07.local.", 200),
        ("van-07.evil.example", 421),
        ("evil.example:8077", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil@127.0.0.1", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_only_names_of_this_device_are_answered(host: str, expected: int) -> None:
    policy = AccessPolicy({"Van-07", "van-07.local"}, None)
    assert status(policy, "GET", "/", {"host": host}) == expected


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        ("GET", "/events", {}, 200),
        ("GET", "/events", {"sec-fetch-site": "none"}, 200),
        ("GET", "/events", {"sec-fetch-site": "same-origin"}, 200),
        ("GET", "/events", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, 403),
        ("GET", "/events", {"sec-fetch-site": "same-site"}, 403),
        (
            "GET",
            "/",
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "document",
            },
            200,
        ),
        (
            "GET",
            "/",
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "iframe",
            },
            403,
        ),
        ("HEAD", "/", {}, 200),
        ("POST", "/retry", {}, 403),
        ("POST", "/retry", {"origin": "http://127.0.0.1:8077"}, 200),
        ("POST", "/retry", {"origin": "http://127.0.0.1:9999"}, 403),
        ("POST", "/retry", {"origin": "http://evil.example"}, 403),
        ("POST", "/retry", {"origin": "null"}, 403),
        (
            "POST",
            "/retry",
            {"origin": "http://127.0.0.1:8077", "sec-fetch-site": "cross-site"},
            403,
        ),
    ],
)
def test_other_sites_may_only_link_here(
    method: str, path: str, headers: dict[str, str], expected: int
) -> None:
    assert status(AccessPolicy(set(), None), method, path, OURS | headers) == expected


def test_where_there_is_a_token_it_is_needed() -> None:
    policy = AccessPolicy(set(), TOKEN)
    for path in ("/", "/events", "/trail", "/metrics", "/export/gpx", "/staticx", "/setup"):
        assert status(policy, "GET", path, OURS) == 401
    assert status(policy, "POST", "/retry", SAME) == 401
    for path in ("/static/base.css", "/login"):
        assert status(policy, "GET", path, OURS) == 200


def test_only_a_viewer_of_the_page_gets_the_form() -> None:
    policy = AccessPolicy(set(), TOKEN)
    form, refused = policy.denial("GET", "/", OURS), policy.denial("GET", "/state", OURS)
    assert form is not None
    assert refused is not None
    assert b"<form" in bytes(form.body)
    assert refused.body == b"The token of page.token_file is needed."


def test_a_script_shows_the_token_and_needs_no_origin() -> None:
    policy = AccessPolicy(set(), TOKEN)
    for word in ("Bearer", "bearer", "Bearer "):
        headers = OURS | {"authorization": f"{word} {TOKEN}"}
        assert status(policy, "GET", "/metrics", headers) == 200
        assert status(policy, "POST", "/retry", headers) == 200
    for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer ", "Bearer ünïcödé"):
        assert status(policy, "GET", "/metrics", OURS | {"authorization": wrong}) == 401
    assert (
        status(AccessPolicy(set(), None), "POST", "/retry", OURS | {"authorization": "Bearer "})
        == 403
    )


def test_a_script_may_show_a_token_that_is_not_ascii() -> None:
    token = "a-tökèn-of-24-characters"
    shown = f"Bearer {token}".encode().decode("latin-1")  # as the server decodes headers
    assert status(AccessPolicy(set(), token), "GET", "/", OURS | {"authorization": shown}) == 200


def test_a_browser_gets_a_cookie_that_does_not_tell_the_token() -> None:
    policy = AccessPolicy(set(), TOKEN)
    assert cookie_of(policy, "wrong", SAME) is None
    cookie = cookie_of(policy, TOKEN, SAME)
    assert cookie is not None
    assert "Secure" not in cookie
    assert "Path" not in cookie
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=lax"} < {*cookie.split("; ")}
    pair = cookie.partition(";")[0]
    assert status(policy, "GET", "/events", OURS | {"cookie": f"a=b; {pair}"}) == 200
    assert status(policy, "POST", "/retry", SAME | {"cookie": pair}) == 200
    assert status(policy, "POST", "/retry", OURS | {"cookie": pair}) == 403
    assert status(policy, "GET", "/events", OURS | {"cookie": f"{pair}0"}) == 401
    # With another token the cookie is not valid.
    assert (
        status(AccessPolicy(set(), TOKEN + "2"), "GET", "/events", OURS | {"cookie": pair}) == 401
    )


def test_two_devices_at_ports_of_one_host_keep_their_viewers() -> None:
    policies = [AccessPolicy(set(), token) for token in (TOKEN, f"{TOKEN}2")]
    pairs = [
        str(cookie_of(p, t, SAME)).partition(";")[0]
        for p, t in zip(policies, (TOKEN, f"{TOKEN}2"), strict=True)
    ]
    # The browser keeps the last cookie of each name.
    kept = {pair.partition("=")[0]: pair for pair in pairs}
    for policy in policies:
        assert status(policy, "GET", "/", OURS | {"cookie": "; ".join(kept.values())}) == 200


def test_the_password_that_a_proxy_asked_for_is_no_wrong_token() -> None:
    policy = AccessPolicy(set(), TOKEN)
    pair = str(cookie_of(policy, TOKEN, SAME)).partition(";")[0]
    headers = OURS | {"authorization": "Basic dmFuOnNlY3JldA=="}
    for _ in range(20):
        assert status(policy, "GET", "/events", headers) == 401
    assert status(policy, "GET", "/events", headers | {"cookie": pair}) == 200


def test_without_a_token_no_cookie_can_be_had() -> None:
    assert cookie_of(AccessPolicy(set(), None), "", SAME) is None


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("van.example.com", "https://van.example.com", 200),
        ("van.example.com:8443", "https://van.example.com:8443", 200),
        ("127.0.0.1:8077", "https://van.example.com", 200),  # nginx without proxy_set_header Host
        ("127.0.0.1:8077", "https://van.example.com:443", 200),
        ("127.0.0.1:8077", "https://van.example.com:8443", 403),
        ("127.0.0.1:8077", "https://fleet.example.com:9000", 200),
        ("127.0.0.1:8077", "https://fleet.example.com", 403),
        ("fleet.example.com", "https://fleet.example.com", 200),
        ("127.0.0.1:8077", "https://evil.example", 403),
        ("evil.example", "https://van.example.com", 421),
        ("127.0.0.1:8077", "ftp://van.example.com", 403),
    ],
)
def test_behind_a_proxy_the_names_of_the_config_are_its_own(
    host: str, origin: str, expected: int
) -> None:
    policy = AccessPolicy(set(), TOKEN, ("van.example.com", "fleet.example.com:9000"))
    headers = {"host": host, "origin": origin, "sec-fetch-site": "same-origin"}
    assert status(policy, "POST", "/login", headers) == expected
    if expected != 200:  # the proxy may belong to the user
        refused = policy.denial("POST", "/login", headers)
        assert refused is not None
        assert b"page.names" in bytes(refused.body)


def test_the_cookie_is_secure_where_the_browser_came_by_tls_and_not_where_a_header_says_so() -> (
    None
):
    policy = AccessPolicy(set(), TOKEN, ("van.example.com",))
    tls = {"host": "127.0.0.1:8077", "origin": "https://van.example.com"}
    assert (cookie_of(policy, TOKEN, tls) or "").endswith("; Secure")
    assert "Secure" not in (cookie_of(policy, TOKEN, SAME | {"x-forwarded-proto": "https"}) or "")


def test_ten_wrong_tokens_a_minute_from_one_peer() -> None:
    wrong = WrongTokens()
    for second in range(10):
        assert wrong.wait_s("192.0.2.7", second) == 0
        wrong.count("192.0.2.7", second)
    assert wrong.wait_s("192.0.2.7", 10) == 50
    assert wrong.wait_s("192.0.2.8", 10) == 0
    assert wrong.wait_s("192.0.2.7", 60) == 0
    wrong.count("192.0.2.7", 60)
    assert wrong.wait_s("192.0.2.7", 60) == 1  # the second wrong token is 59 s old


def test_a_network_of_one_viewer_counts_as_one_peer_and_the_memory_is_bounded() -> None:
    wrong = WrongTokens()
    for number in range(10):
        wrong.count(f"2001:db8::{number}", 0)
    assert wrong.wait_s("2001:db8::ffff", 0) == 60
    assert wrong.wait_s("2001:db8:0:1::1", 0) == 0
    for _ in range(10):  # an IPv4 address on a page that listens on [::]
        wrong.count("::ffff:192.0.2.7", 0)
    assert wrong.wait_s("::ffff:192.0.2.7", 0) == 60
    assert wrong.wait_s("::ffff:192.0.2.8", 0) == 0
    for number in range(2000):
        wrong.count(f"peer {number}", 0)
    assert len(wrong._peers) == 1000
