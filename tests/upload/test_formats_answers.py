"""The meaning of an answer, where all formats agree."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upload.upload_parts import STREAM, batch_of
from uploading import FIX

from telemetry_agent.model import Answer, Deferred, Delivered, Held, Outcome, Refused, ResendRange
from telemetry_agent.upload.formats.answers import judge as read
from telemetry_agent.upload.formats.answers import offers_gzip

NOTHING = batch_of()
BATCH = batch_of(FIX, FIX, FIX)  # seq 17, 18, 19


def answer(
    status: int,
    body: bytes | str = b"",
    *,
    verified: bool = False,
    **headers: str,
) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, body.encode() if isinstance(body, str) else body, verified)


JSON = "application/json; charset=utf-8"
REJECTED = "rejected by the endpoint"


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize(
    "body",
    [
        *("", " \r\n", "{}", '{"result":"ok"}', '{"error":null}', '{"errors":[],"status":200}'),
        *('{"success":true,"statusCode":201}', '{"ok":1,"result":0}', '{"status":"stored"}'),
    ],
)
@pytest.mark.parametrize("kind", ["text/html", JSON, ""])
def test_a_2xx_with_nothing_against_it_delivers(status: int, body: str, kind: str) -> None:
    assert read(answer(status, body, content_type=kind), BATCH) == Delivered(status=status)


@pytest.mark.parametrize(("body", "coding"), [("", "gzip"), ("{}", "identity")])
def test_a_body_that_is_not_compressed_delivers_whatever_the_coding(body: str, coding: str) -> None:
    assert read(answer(200, body, content_encoding=coding), BATCH) == Delivered(status=200)


@pytest.mark.parametrize("body", ["ok", "1", '"<"', "[fixes stored]"])
def test_a_text_delivers(body: str) -> None:
    assert read(answer(200, body, content_type="text/html"), BATCH) == Delivered(status=200)


@pytest.mark.parametrize(
    ("body", "delivers"),
    [
        ('{"received":3}', True),
        ('{"received":3,"error":"none","stored":0}', True),
        ('{"received":2}', False),
        ('{"received":0,"stored":3}', False),
        ('{"received":2,"rejected":[{"seq":17}]}', True),
        ('{"received":1,"rejected":[{"seq":17}],"retry":[18]}', True),
        ('{"received":1,"rejected":[{"seq":17}]}', False),
        ('{"received":4}', True),  # an invalid count is ignored
        ('{"received":true}', True),
        ('{"received":"3"}', True),
        ('{"received":"0"}', False),
        ('{"received":"all","success":false}', False),
        ('{"received":NaN}', True),
        ('{"received":"²"}', True),
        ('{"received":"%s"}' % ("9" * 5000), True),
    ],
)
def test_what_was_received_counts(body: str, delivers: bool) -> None:
    got = read(answer(200, body), BATCH)
    assert isinstance(got, Delivered) == delivers
    if isinstance(got, Delivered):
        assert got.counted == (body.replace('"', "")[:11] in {f"{{received:{n}" for n in (1, 2, 3)})


@pytest.mark.parametrize(
    ("wanted", "offers"),
    [
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("gzip;q=1.0", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("br", False),
        ("", False),
        ("gzip;q=nonsense", False),
    ],
)
def test_gzip_is_offered_by_accept_encoding(wanted: str, offers: bool) -> None:
    assert offers_gzip(answer(200, accept_encoding=wanted)) == offers


def test_an_answer_that_is_too_long_is_only_read_for_one_fix() -> None:
    long = Answer(200, {}, b"x" * 1000, False, too_long_bytes=4000)
    got = read(long, BATCH)
    assert isinstance(got, Refused)
    assert (got.too_large, got.fitting) == (True, 1)
    assert isinstance(read(long, batch_of(FIX)), Delivered)


@pytest.mark.parametrize(
    ("beginning", "says_no"),
    [
        ("Error: the disk is full", True),
        ('{"error": "the disk is full", "trace": "', True),
        ('{"errors":[{"row":1,', True),
        ('{"success" : false,"trace":"', True),
        ('{"status":"ERROR","trace":"', True),
        ('{"errorMessage":"no table","stackTrace":["', True),
        ('{"result":"failed","trace":"', True),
        ('{"ok":0,"trace":"', True),
        ("PHP Fatal error:  Allowed memory size of 134217728 bytes exhausted", True),
        ('{"errors":[],"stored":["', False),
        ('{"error":null,"stored":["', False),
        ('{"success":true,"stored":["', False),
        ('["', False),
    ],
)
def test_of_an_answer_that_is_too_long_the_beginning_counts(beginning: str, says_no: bool) -> None:
    long = Answer(200, {}, f"\n {beginning}".encode().ljust(1000, b"x"), False, too_long_bytes=4000)
    assert isinstance(read(long, batch_of(FIX)), Deferred if says_no else Delivered)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ('{"rejected":[{"seq":17,"reason":"no such lane"}]}', Delivered({17: "no such lane"})),
        ('{"rejected":[{"seq":17}]}', Delivered({17: REJECTED})),
        ('{"rejected":[{"seq":17,"reason":"a\\nb\\u0000"}]}', Delivered({17: "a b"})),
        ('{"retry":[18]}', Delivered(retry=frozenset({18}))),
        ('{"retry":[17,18,19]}', Delivered(retry=frozenset({17, 18, 19}))),
        ('{"rejected":[{"seq":17}],"retry":[17]}', Delivered(retry=frozenset({17}))),
        ('{"rejected":[{"seq":99}],"retry":[98]}', Delivered(unknown_names=2)),
        ('{"rejected":[17,{"seq":"18"}]}', Delivered(dict.fromkeys((17, 18), REJECTED))),
        ('{"retry":["18",{"seq":19},"47"]}', Delivered(retry=frozenset({18, 19}), unknown_names=1)),
        ('{"rejected":null,"retry":0}', Delivered()),
    ],
)
def test_a_json_object_may_name_single_fixes(body: str, outcome: Delivered) -> None:
    got = read(answer(200, body), BATCH)
    assert isinstance(got, Delivered)
    assert (got.rejected, got.retry, got.unknown_names) == (
        outcome.rejected,
        outcome.retry,
        outcome.unknown_names,
    )


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206])
@pytest.mark.parametrize("body", ["<html>", " \n\f<!DOCTYPE html>", b"\xef\xbb\xbf<html>"])
def test_a_web_page_is_a_portal_or_a_wrong_url(status: int, body: str | bytes) -> None:
    plain = read(answer(status, body, content_type=JSON), BATCH)
    assert isinstance(plain, Deferred)
    assert plain.state == "portal"
    assert isinstance(read(answer(status, body, verified=True), BATCH), Held)


@pytest.mark.parametrize(
    "unclear",
    [
        answer(200, "ok", content_type=JSON),
        answer(200, "{", content_type=JSON),
        answer(200, '{"rejected":[{"seq":1'),
        answer(200, "[" * 100_000, content_type=JSON),
        answer(200, b"\xff\xfe\xfd", content_type=JSON),
        answer(200, '{"rejected":3}'),
        answer(200, '{"rejected":[null]}'),
        answer(200, '{"rejected":[{"reason":"one of them"}]}'),
        answer(200, '{"rejected":[{"seq":true}]}'),
        answer(200, '{"retry":[18.5]}'),
        answer(200, '{"retry":["all"]}'),
        answer(200, '{"retry":["\u0661\u0668"]}'),
        answer(200, "[]"),
        answer(200, '["stored"]', content_type=JSON),
        answer(200, '"ok"', content_type=JSON),
        answer(200, "1", content_type=JSON),
        answer(200, "Error: no space left", content_type="text/html"),
        answer(200, '{"error":"no space"}'),
        answer(201, '{"errors":["no space"]}'),
        answer(200, '{"success":false}'),
        answer(202, '{"ok":false}'),
        answer(200, '{"status":"error"}'),
        # JSend, AWS Lambda, a wrong mapping of its integration, and variants of these
        answer(200, '{"status":"fail","data":null}'),
        answer(200, '{"errorMessage":"no table","errorType":"KeyError"}'),
        answer(200, '{"statusCode":500,"body":"{}"}'),
        answer(200, '{"status":503,"title":"Service Unavailable"}'),
        answer(200, '{"result":"error"}'),
        answer(200, '{"result":"Failed"}'),
        answer(200, '{"success":"false"}'),
        answer(200, '{"Success":0}'),
        answer(200, '{"ok":0}'),
        answer(200, "\nFatal error: Uncaught mysqli_sql_exception: Connection refused"),
        answer(200, "PHP Parse error:  syntax error, unexpected end of file"),
        answer(200, '{"retry":"all"}'),
        answer(200, b"\x1f\x8b\x08\x00", content_encoding="gzip"),
        answer(203, "{}"),
        answer(205),
        answer(207, "{}"),
        answer(101),
    ],
)
def test_what_is_unclear_acknowledges_nothing(unclear: Answer) -> None:
    got = read(unclear, BATCH)
    assert isinstance(got, Deferred)
    assert got.state == "waiting"
    assert got.answered


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_says_where_it_points_without_its_query(status: int) -> None:
    to = answer(status, location="https://login.example/start?key=secret")
    got = read(to, BATCH)
    assert isinstance(got, Deferred)
    assert got.state == "portal"
    assert "https://login.example/start" in got.reason
    assert "secret" not in got.reason
    held = read(answer(status, location="/v2", verified=True), BATCH)
    assert isinstance(held, Held)
    assert "/v2" in held.reason


CONTRACT: list[tuple[type[Outcome], list[int]]] = [
    (Refused, [400, 413, 422]),
    (Held, [401, 402, 403, 404, 405, 406, 407, 410, 411, 415, 417, 421, 426, 428, 431, 451, 499]),
    (Deferred, [408, 409, 423, 424, 425, 429, 500, 501, 502, 503, 504, 507, 511, 599]),
]


@pytest.mark.parametrize(
    ("status", "kind"), [(status, kind) for kind, statuses in CONTRACT for status in statuses]
)
@pytest.mark.parametrize("verified", [False, True])
def test_a_status_means_what_the_table_says(
    status: int, kind: type[Outcome], *, verified: bool
) -> None:
    got = read(answer(status, "why\x1b[31m not", verified=verified), BATCH)
    assert isinstance(got, kind)
    assert got.status == status
    assert not isinstance(got, Delivered)
    assert got.reason == f"{status}: why [31m not"
    assert isinstance(got, Refused) == (status in {400, 413, 422})
    if isinstance(got, Refused):
        assert got.too_large == (status == 413)
    if isinstance(got, Deferred):
        assert got.answered
        assert got.state == ("portal" if status == 511 else "waiting")


def test_later_may_say_when() -> None:
    got = read(answer(429, retry_after="120"), BATCH)
    assert isinstance(got, Deferred)
    assert got.retry_after_s == 120


def test_an_error_page_is_not_quoted() -> None:
    got = read(answer(404, "<html>" + "x" * 9999), BATCH)
    assert isinstance(got, Held)
    assert got.reason == "404 Not Found"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("http://other.test/a?token=abc", "http://other.test/a"),
        ("ftp://van:secret@other.test/", "ftp://***@other.test/"),
        (f"//van:{'x' * 300}@other.test/", "//***@other.test/"),
        ("/in/0123456789abcdef0123456789/x", "/in/***/x"),
        ("", "nowhere"),
    ],
)
def test_a_redirect_shows_where_to_and_no_secret(location: str, target: str) -> None:
    got = read(answer(302, location=location), BATCH)
    assert isinstance(got, Deferred)
    assert got.reason.startswith(f"302: redirected to {target}: a captive portal")


@given(st.integers(100, 999), st.binary(max_size=300), st.sampled_from(["", JSON, "text/html"]))
def test_any_answer_has_an_outcome_that_names_only_fixes_of_the_batch(
    status: int, body: bytes, kind: str
) -> None:
    got = read(answer(status, body, content_type=kind), BATCH)
    if isinstance(got, Delivered):
        assert status in {200, 201, 202, 204}
        assert set(got.rejected) | got.retry <= {17, 18, 19}
        assert not set(got.rejected) & got.retry
    else:
        assert got.reason.isprintable()
        assert len(got.reason) < 300


def asked(items: object) -> tuple[ResendRange, ...]:
    body = json.dumps({"received": 0, "resend": items}).encode()
    outcome = read(Answer(200, {}, body, verified_tls=False), NOTHING)
    assert isinstance(outcome, Delivered)
    return outcome.resend


def test_an_answer_may_ask_for_fixes_again() -> None:
    ranges = [{"stream": STREAM, "from": 17, "to": 40}, {"stream": STREAM, "from": 50, "to": 50}]
    assert asked(ranges) == (ResendRange(STREAM, 17, 40), ResendRange(STREAM, 50, 50))


@pytest.mark.parametrize(
    "items",
    [
        None,
        {},
        "all",
        [17],
        [{"stream": STREAM}],
        [{"stream": STREAM, "from": 0, "to": 4}],
        [{"stream": STREAM, "from": 5, "to": 4}],
        [{"stream": STREAM, "from": True, "to": 4}],
        [{"stream": STREAM, "from": 1, "to": 1 << 70}],
        [{"stream": STREAM.upper(), "from": 1, "to": 4}],
        [{"stream": 17, "from": 1, "to": 4}],
    ],
)
def test_what_asks_for_nothing_that_can_be_is_ignored(items: object) -> None:
    assert asked(items) == ()
