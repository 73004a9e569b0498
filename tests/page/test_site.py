"""The server of the page with real sockets and a real queue."""

import contextlib
import gc
import http.client
import json
import logging
import re
import socket
import struct
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from peers import wait_until_answers
from polling import wait_until
from ports import free_port

from telemetry_agent.clock import Clock
from telemetry_agent.config.settings import (
    GpsSettings,
    PageSettings,
    QueueSettings,
    Settings,
    UploadSettings,
)
from telemetry_agent.daemon.app import Agent
from telemetry_agent.errors import StorageError
from telemetry_agent.model import Fix
from telemetry_agent.page import event_streams, history, libraries, server
from telemetry_agent.page.agent_view import Doctor
from telemetry_agent.page.history import History
from telemetry_agent.page.libraries import STATIC
from telemetry_agent.snapshot import Snapshot

START_MS = 1_795_435_200_000
TOKEN = "a-token-of-24-characters"


class Site:
    """An agent that runs only its page."""

    def __init__(
        self,
        folder: Path,
        upload: Mapping[str, Any] = {},
        doctor: Doctor | None = None,
        **page: Any,
    ) -> None:
        self.port = free_port()
        settings = Settings(
            device="van-07",
            gps=GpsSettings(source="/dev/none"),
            queue=QueueSettings(path=folder / "queue.db"),
            upload=UploadSettings(**{"url": "http://127.0.0.1:9/", **upload}),
            page=PageSettings(**{"listen": ("127.0.0.1", self.port), **page}),
        )
        self.agent = Agent(settings, Clock(), doctor=(lambda: doctor) if doctor else None)
        self.queue = self.agent.queue
        self.origin = f"http://127.0.0.1:{self.port}"

    def put(self, count: int) -> None:
        for number in range(count):
            self.queue.put(Fix(START_MS + 1000 * number, 48_117_300_000, 11_516_667_000), "van-07")
        self.queue.commit()

    def refuse(self, *seqs: int) -> None:
        batch = self.queue.lease(1000)
        assert batch
        self.queue.ack(batch, rejected=dict.fromkeys(seqs, "400: lat out of range"))

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(
        self, path: str, body: object = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        with contextlib.closing(self.connect()) as line:
            if body is None:
                line.request("GET", path, headers=headers)
            else:
                sent = body if isinstance(body, str) else json.dumps(body)
                line.request("POST", path, sent, {"Origin": self.origin, **headers})
            answer = line.getresponse()
            return answer, answer.read()

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        with contextlib.closing(self.connect()) as line:
            line.request("GET", "/events")
            answer = line.getresponse()
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/event-stream")

            def parsed() -> Iterator[tuple[str, dict[str, Any]]]:
                name = ""
                for raw in answer:
                    field, _, value = raw.decode().rstrip("\n").partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        yield name, json.loads(value)

            yield parsed()


@contextlib.contextmanager
def served(
    folder: Path, upload: Mapping[str, Any] = {}, doctor: Doctor | None = None, **page: Any
) -> Iterator[Site]:
    site = Site(folder, upload, doctor, **page)
    site.agent.page.start()
    try:
        wait_until_answers(site.port)
        yield site
    finally:
        site.agent.page.end(60)
        assert not site.agent.page.thread.is_alive()
        site.queue.close()


@contextlib.contextmanager
def running(site: Site) -> Iterator[None]:
    """Run one more step of the page, after a failed one."""
    page = site.agent.page.task
    step = threading.Thread(target=page.step, args=(0,))
    step.start()
    try:
        wait_until_answers(site.port)
        yield
    finally:
        page.close()
        step.join(60)
    assert not step.is_alive()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with served(tmp_path) as site:
        yield site


def test_every_answer_has_the_rules(site: Site) -> None:
    for path in ("/", "/static/base.css", "/trail", "/nothing", "/static/../site.py", "/retry"):
        answer, _ = site.ask(path)
        assert answer.headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "manifest-src 'self'; "
            "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        for policy in ("Opener", "Resource"):
            assert answer.headers[f"Cross-Origin-{policy}-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] in {"no-store", "no-cache"}
        assert "Server" not in answer.headers
    assert site.ask("/setup/")[0].status == 404  # not a redirect: a proxy does not know its URL
    for path in ("..%2fsite.py", f"{STATIC}/app.js", "%2f" + f"{STATIC}/app.js"[1:], "vendor", ""):
        assert site.ask(f"/static/{path}")[0].status == 404
    assert site.ask("/", Host="evil.example")[0].status == 421
    assert site.ask("/", Host="evil.example")[0].headers["Content-Security-Policy"]


def test_a_tile_server_is_the_only_stranger(tmp_path: Path) -> None:
    tiles = "https://tiles.example.com:8443/{z}/{x}/{y}.png"
    with served(tmp_path, tiles=tiles) as site:
        answer, _ = site.ask("/")
        assert (
            "img-src 'self' data: https://tiles.example.com:8443;"
            in (answer.headers["Content-Security-Policy"])
        )
        setup = json.loads(site.ask("/setup")[1])
        assert (setup["tiles"], setup["credit"], setup["map"]) == (tiles, "", None)


def test_the_browser_keeps_what_is_the_same(site: Site) -> None:
    answer, body = site.ask("/static/words.js")
    assert answer.status == 200
    assert b"headline" in body
    again, nothing = site.ask("/static/words.js", **{"If-None-Match": answer.headers["ETag"]})
    assert (again.status, nothing) == (304, b"")


@pytest.mark.parametrize("path", ["/static/words.js", "/metrics"])
def test_gzip_is_for_those_who_take_it(path: str, site: Site) -> None:
    for taken, coding in (
        ("br, GZIP;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.00, br", None),
    ):
        answer, _ = site.ask(path, **{"Accept-Encoding": taken})
        assert answer.headers["Content-Encoding"] == coding


def test_the_events_tell_what_is_new_and_where_everything_is(site: Site) -> None:
    site.put(3)
    with site.events() as events:
        name, hello = next(events)
        assert (name, hello["device"], hello["queue"]["pending"]) == ("hello", "van-07", 3)
        assert (hello["last"], hello["points"]) == (3, [])
        assert hello["places"] == [[1, 3, "stored"]]
        assert "pid" not in hello
        answer, packed = site.ask("/trail?after=1")
        assert (answer.headers["X-Last-Row"], len(packed)) == ("3", 48)
        site.put(2)
        site.refuse(2)
        site.agent.page.task.nudge()
        # An event may come between the changes; after a slow read, the next ones omit the places.
        news: list[dict[str, Any]] = []
        settled = [[1, 1, "delivered"], [2, 2, "dead-letter"], [3, 5, "delivered"]]
        while not news or news[-1].get("places") != settled:
            news.append(next(said for name, said in events if name == "news"))
        brought = [said for said in news if said["points"]]
        assert brought[0]["after"] == 3
        assert [point[0] for said in brought for point in said["points"]] == [4, 5]
        _, later = next(events)
        assert "places" not in later


def test_the_points_are_there_though_nobody_follows_and_their_bytes_in_planes(site: Site) -> None:
    site.put(3)
    answer, packed = site.ask("/track")
    assert (answer.headers["X-Last-Row"], len(packed)) == ("3", 72)
    planes = site.ask("/trail?planes=")[1]
    assert bytes(planes[3 * byte + i] for i in range(3) for byte in range(24)) == packed


def test_a_track_breaks_where_more_time_passed_than_sampling_explains(site: Site) -> None:
    for second in (0, 60, 200):  # the device moves
        site.queue.put(Fix(START_MS + 1000 * second, 48_117_300_000 + 10**8 * second, 0), "van-07")
    site.queue.commit()
    flags = [flags for *_, flags in struct.iter_unpack("<diiII", site.ask("/trail")[1])]
    assert flags == [0, 0, 1]


def test_what_was_discarded_is_gone_from_the_trail(site: Site) -> None:
    site.put(3)
    site.refuse(2)
    with site.events() as events:
        next(events)
        assert json.loads(site.ask("/discard", {"all": True})[1]) == {"discarded": 1}
        said = next(said for _, said in events if "gone" in said)
        assert (said["gone"], said["places"]) == ([[2, 2]], [[1, 3, "delivered"]])
        assert "gone" not in next(events)[1]
        assert len(site.ask("/trail")[1]) == 48


def test_dead_letters_are_listed_retried_and_discarded(site: Site) -> None:
    site.put(3)
    site.refuse(1, 2, 3)
    letters = json.loads(site.ask("/dead-letters")[1])
    assert [letter["reason"] for letter in letters] == ["400: lat out of range"] * 3
    name = [letters[0]["stream"], letters[0]["seq"]]
    assert json.loads(site.ask("/retry", {"names": [name]})[1]) == {"retried": 1}
    assert json.loads(site.ask("/discard", {"all": True})[1]) == {"discarded": 2}
    counts = site.queue.stats()
    assert (counts.ready, counts.ack_failed, counts.lost) == (1, 0, {"discarded": 2})


@pytest.mark.parametrize(
    ("body", "status"),
    [("", 400), ("[", 400), ("[]", 400), ("[" * 9999, 400), ("x" * 70_000, 400), ({}, 409)],
)
def test_what_cannot_be_asked_is_told(site: Site, body: object, status: int) -> None:
    answer, text = site.ask("/retry", body)
    assert answer.status == status
    assert text
    assert site.ask("/retry", {"all": True}, Origin="http://evil.example")[0].status == 403


def test_export_and_metrics(site: Site) -> None:
    site.put(2)
    answer, body = site.ask("/export/gpx")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="van-07-2026-11-23.gpx"'
    assert answer.headers["Content-Type"] == "application/gpx+xml"
    assert len(list(ET.fromstring(body).iter("{http://www.topografix.com/GPX/1/1}trkpt"))) == 2
    assert site.ask("/export/xml")[0].status == 404
    answer, body = site.ask("/metrics")
    assert b"\ntelemetry_agent_queue_pending_fixes 2.0\n" in body
    assert answer.headers["Content-Type"].startswith("text/plain; version=")


@pytest.mark.parametrize(
    "query", ["since=1e20", "since=-1e300", "until=inf&since=nan", "since=&until=1", "until=1e12"]
)
def test_an_export_of_an_impossible_time_is_refused_and_holds_up_no_other(
    site: Site, query: str
) -> None:
    site.put(2)
    for _ in range(3):
        assert site.ask(f"/export/gpx?{query}")[0].status == 400
    assert site.ask("/export/gpx")[0].status == 200


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "1e400", "1e99", "", "x"])
@pytest.mark.parametrize("name", ["since", "until", "across", "tolerance"])
def test_a_track_is_asked_for_in_numbers(site: Site, name: str, number: str) -> None:
    site.put(2)
    assert site.ask(f"/track?{name}={number}")[0].status == 400


def test_an_origin_that_is_no_url_is_a_stranger(site: Site) -> None:
    for origin in ("http://[", "http://[::1", "//[", "\u00e9", "null"):
        assert site.ask("/retry", {}, Origin=origin)[0].status == 403


def test_a_third_export_waits_for_one_of_two(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put(2)
    at_work, go_on = threading.Semaphore(0), threading.Event()
    stored = site.queue.stored

    def slow(state: Any = None) -> Iterator[Any]:
        at_work.release()
        assert go_on.wait(60)
        yield from stored(state)

    monkeypatch.setattr(site.queue, "stored", slow)
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                site.ask("/export/csv?since=0&until=1795435200")[0].status
            )
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert at_work.acquire(timeout=60)
    assert at_work.acquire(timeout=60)
    assert not at_work.acquire(timeout=0.3)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 3
    assert site.ask("/export/csv?since=x")[0].status == 400
    _, body = site.ask("/export/ndjson?since=1795435200&until=1795435200")
    assert len(body.splitlines()) == 1


def test_an_export_that_waits_for_the_disk_holds_up_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put(2)
    waits, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        waits.set()
        assert go_on.wait(60)

    monkeypatch.setattr(site.queue, "newest_ms", slow)
    with ThreadPoolExecutor(1) as askers:
        export = askers.submit(site.ask, "/export/csv")
        assert waits.wait(60)
        try:
            assert site.ask("/history")[0].status == 200
        finally:
            go_on.set()
        assert export.result(60)[0].status == 200


class SlowDoctor:
    """A doctor whose check ends when the test allows it."""

    def __init__(self) -> None:
        self.checks = 0
        self.began, self.may_end = threading.Event(), threading.Event()

    def findings(self, state: Snapshot, queue_path: Path) -> list[dict[str, Any]]:
        return []

    def check(self) -> dict[str, Any]:
        self.checks += 1
        self.began.set()
        assert self.may_end.wait(60)
        return {"verdict": "pass", "checks": []}


def test_whoever_asks_for_a_check_meanwhile_gets_the_result_of_the_one_that_runs(
    tmp_path: Path,
) -> None:
    doctor = SlowDoctor()
    with served(tmp_path, doctor=doctor) as site, ThreadPoolExecutor(3) as askers:
        answers = [askers.submit(site.ask, "/check", {}) for _ in range(3)]
        assert doctor.began.wait(60)
        running = site.agent.page.task._server
        assert running
        while len(running._state.tasks) < 3:
            assert not any(answer.done() for answer in answers)
            threading.Event().wait(0.01)  # a busy loop would block the page's thread
        assert site.ask("/history")[0].status == 200  # not blocked; the three wait by now
        doctor.may_end.set()
        for answer in answers:
            assert answer.result(60)[1] == b'{"verdict":"pass","checks":[]}'
    assert doctor.checks == 1


def test_a_page_that_ends_during_a_check_logs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    doctor = SlowDoctor()
    with ThreadPoolExecutor(1) as askers, caplog.at_level(logging.WARNING):
        with served(tmp_path, doctor=doctor) as site:
            asked = askers.submit(site.ask, "/check", {})
            assert doctor.began.wait(60)
        doctor.may_end.set()
        assert isinstance(asked.exception(), http.client.RemoteDisconnected | ConnectionResetError)
        gc.collect()  # asyncio reports leftovers when they are freed
    assert not caplog.records


@pytest.mark.parametrize(
    "path",
    [
        *("/track?since=NaN", "/track?since=-1", "/track?until=1e300", "/track?tolerance=inf"),
        *("/track?across=-5", "/track?box=1,2,3", "/trail?after=-1", "/trail?after=x"),
        *("/export/gpx?since=1e300", "/export/kml?until=99999999999999", "/export/csv?since=inf"),
        *("/history?hours=NaN", "/fix?row=", "/fix?row=9999999999999999999"),
    ],
)
def test_a_hostile_query_is_refused(
    site: Site, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    site.put(3)
    assert site.ask(path)[0].status == 400
    assert "Traceback" not in caplog.text


def raw(site: Site, request: str) -> bytes:
    """The complete answer to a request that a browser would not send."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as line:
        line.sendall(request.replace("\n", "\r\n").encode())
        return b"".join(iter(lambda: line.recv(4096), b""))


def test_what_no_browser_sends_is_refused_without_a_traceback(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    host = f"Host: 127.0.0.1:{site.port}"
    for head in ("Host: evil@127.0.0.1", "Host: 127.0.0.1/evil", "Host: 127.0.0.1#evil"):
        assert raw(site, f"GET / HTTP/1.1\n{head}\nConnection: close\n\n").startswith(
            b"HTTP/1.1 421 "
        )
    for origin in ("http://[", "http://[::1", "//", "null"):
        assert site.ask("/retry", {"all": True}, Origin=origin)[0].status == 403
    # Two lengths: the body for a proxy could be a request here. The server reads nothing after it.
    lengths = "Content-Length: 6\nTransfer-Encoding: chunked"
    answer = raw(
        site, f"POST /retry HTTP/1.1\n{host}\n{lengths}\n\n0\n\nGET / HTTP/1.1\n{host}\n\n"
    )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    body = f"POST /retry HTTP/1.1\n{host}\nOrigin: {site.origin}\nContent-Length: 12\n\n"
    with socket.create_connection(("127.0.0.1", site.port)) as line:
        line.sendall((body.replace("\n", "\r\n") + '{"all"').encode())
    assert site.ask("/history")[0].status == 200
    assert "Traceback" not in caplog.text


def test_an_export_that_fails_at_once_does_not_keep_others_from_exporting(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newest_ms() -> int:
        raise StorageError("the disk is gone")

    site.put(3)
    with monkeypatch.context() as failing:
        failing.setattr(site.queue, "newest_ms", newest_ms)
        assert [site.ask("/export/csv")[0].status for _ in range(3)] == [409] * 3
    assert site.ask("/export/csv")[0].status == 200


def test_a_disk_that_cannot_be_read_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stored(_state: object = None) -> Iterator[Any]:
        raise StorageError("cannot read the queue: it is damaged")
        yield

    monkeypatch.setattr(site.queue, "stored", stored)
    answer, text = site.ask("/dead-letters")
    assert (answer.status, text) == (409, b"cannot read the queue: it is damaged")
    with caplog.at_level(logging.WARNING), pytest.raises(http.client.IncompleteRead):
        site.ask("/export/gpx")
    assert "broke off an answer: cannot read the queue: it is damaged" in caplog.text
    assert len(caplog.records) == 1


def test_the_token_opens_and_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    with served(tmp_path, token_file=tmp_path / "token") as site:
        answer, body = site.ask("/")
        assert (answer.status, b"page.token_file" in body) == (401, True)
        protected = "events trail history metrics export/csv setup log config track trips fix state"
        for path in (f"/{name}" for name in f"{protected} map.pmtiles".split()):
            assert site.ask(path)[0].status == 401
        answer, _ = site.ask("/login", f"token={TOKEN}x")
        assert (answer.status, answer.headers["Set-Cookie"]) == (401, None)
        # After that the browser shows /login, also after a reload.
        answer, _ = site.ask("/login")
        assert (answer.status, answer.headers["Location"]) == (303, "./")
        answer, _ = site.ask("/login", f"token={TOKEN}")
        assert (answer.status, answer.headers["Location"]) == (303, "./")
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        for path in ("/", "/history", "/metrics", "/export/csv", "/dead-letters"):
            answer, body = site.ask(path, Cookie=cookie)
            assert answer.status == 200
            assert TOKEN.encode() not in body
        assert site.ask("/metrics", Authorization=f"Bearer {TOKEN}")[0].status == 200
        assert json.loads(site.ask("/setup", Cookie=cookie)[1])["login"] is True
        bearer = site.ask("/setup", Authorization=f"Bearer {TOKEN}")[1]
        assert json.loads(bearer)["login"] is False  # no cookie to remove
        assert site.ask("/logout", "{}")[0].status == 401
        assert site.ask("/logout", "{}", Origin="https://evil.example")[0].status == 403
        answer, body = site.ask("/logout", "{}", Cookie=f"a=b; {cookie}")
        assert (answer.status, body) == (200, b"{}")
        name = cookie.partition("=")[0]
        gone = f'{name}=""; HttpOnly; Max-Age=0; SameSite=lax'
        assert answer.headers.get_all("Set-Cookie") == [gone]


def test_no_secret_of_the_config_is_told(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("SECRET-token")
    upload = {
        "url": "http://127.0.0.1:9/?api_key=SECRET-key",
        "token_file": tmp_path / "token",
        "headers": {"X-Key": "SECRET-header"},
    }
    with served(tmp_path, upload) as site:
        site.put(3)
        site.refuse(2)
        with site.events() as events:
            told = json.dumps([next(events), next(events)]).encode()
        logging.getLogger("telemetry_agent.test").warning("the token SECRET-token is refused")
        for path in ("/", "/setup", "/history", "/dead-letters", "/metrics", "/export/ndjson"):
            told += site.ask(path)[1]
        assert b"upload.timeout" in site.ask("/config")[1]
        for path in ("/config", "/log", "/trips", "/state"):
            told += site.ask(path)[1]
        assert b"127.0.0.1:9" in told
        assert b"SECRET" not in told


@pytest.mark.parametrize(
    ("page", "token", "says"),
    [
        ({"listen": ("0.0.0.0", 8077)}, None, "listen on 127.0.0.1, or set page.token_file"),
        ({"listen": ("van-07.local", 8077)}, None, "listen on 127.0.0.1, or set page.token_file"),
        ({"listen": ("127.0.0.1", 8077)}, "short", "at least 16 characters"),
        ({"listen": ("127.0.0.1", 8077)}, "", "is empty"),
        ({"names": ("van.example.com",)}, None, "set page.token_file"),
    ],
)
def test_it_is_held_rather_than_opened_to_others_without_a_token(
    tmp_path: Path,
    page: dict[str, Any],
    token: str | None,
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if token is not None:
        (tmp_path / "token").write_text(token)
        page["token_file"] = tmp_path / "token"
    site = Site(tmp_path, **page)
    task = site.agent.page.task
    with caplog.at_level(logging.WARNING):
        assert task.step(0) == task.step(0) == 10
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    view = site.agent.snapshot().page
    assert view is not None
    assert (view.state, says in str(view.last_error)) == ("held", True)
    task.close()
    site.queue.close()


def test_a_page_that_was_held_goes_on_by_itself_when_the_token_is_there(tmp_path: Path) -> None:
    site = Site(tmp_path, token_file=tmp_path / "token", names=("van.example.com",))
    task = site.agent.page.task
    assert task.step(0) == 10
    assert "cannot read" in str(task.status())
    (tmp_path / "token").write_text(TOKEN)
    with running(site):
        wait_until(lambda: "held" not in str(task.status()))  # it listens a moment earlier
    site.queue.close()


def test_who_guesses_is_slowed_down_and_who_is_in_stays_in(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with served(tmp_path, token_file=tmp_path / "token") as site:
        answer, _ = site.ask("/login", f"token={TOKEN}")
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        for number in range(5):
            assert site.ask("/login", f"token={number}")[0].status == 401
            assert site.ask("/metrics", Authorization=f"Bearer {number}")[0].status == 401
        for asked in (
            site.ask("/login", f"token={TOKEN}"),
            site.ask("/metrics", Authorization=f"Bearer {TOKEN}"),
        ):
            answer, body = asked
            assert (answer.status, b"Too many wrong tokens" in body) == (429, True)
            assert 0 < int(answer.headers["Retry-After"]) <= 61
        # The browser shows the form again, with the reason.
        _, body = site.ask("/login", f"token={TOKEN}")
        assert re.search(rb'role="alert">Too many wrong tokens: wait \d+ s\.</p>', body)
        assert b'<input id="token"' in body
        assert site.ask("/history", Cookie=cookie)[0].status == 200


def test_a_credential_is_as_good_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page_token").write_text(TOKEN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with served(tmp_path) as site:
        assert site.ask("/history")[0].status == 401
        assert site.ask("/history", Authorization=f"Bearer {TOKEN}")[0].status == 200


def test_a_port_in_use_is_said_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    page = site.agent.page.task
    with socket.create_server(("127.0.0.1", site.port)), caplog.at_level(logging.INFO):
        assert page.step(0) == page.step(0) == 10
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"page.listen: 127.0.0.1:{site.port}: Address already in use; trying" in caplog.text
    with running(site):
        pass
    assert page.step(0) is None
    site.queue.close()


def test_too_many_viewers_are_told_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "VIEWERS", 2)
    with site.events() as one, site.events() as two:
        assert next(one)[0] == next(two)[0] == "hello"
        answer, text = site.ask("/events")
        assert (answer.status, text) == (503, b"Too many viewers (limit 2): close another window.")


def test_many_viewers_who_come_at_once_are_not_too_many(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "VIEWERS", 4)
    with contextlib.ExitStack() as stack:
        lines = [
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=60))
            for _ in range(40)
        ]
        for line in lines:
            line.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        statuses = [line.recv(12)[-3:] for line in lines]
    assert statuses.count(b"200") == 4
    assert statuses.count(b"503") == 36


def test_connections_are_bounded_and_idle_ones_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_IDLE_S", 1)
    with served(tmp_path) as site, contextlib.ExitStack() as stack:
        lines = [
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=60))
            for _ in range(server.CONNECTIONS + 20)
        ]
        lines[0].sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow:")  # and no more
        for line in lines:  # those over the limit at once, the others soon
            with contextlib.suppress(ConnectionResetError):
                assert line.recv(1) == b""
        assert site.ask("/history")[0].status == 200


def test_who_does_not_read_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_UNREAD_MS", 300)
    with served(tmp_path) as site:
        site.put(30_000)
        with site.events() as events, socket.socket() as line:
            next(events)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.settimeout(60)
            line.connect(("127.0.0.1", site.port))
            ask = b"GET /trail HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            line.sendall(ask * 12)  # more than the kernel buffers
            assert line.recv(1, socket.MSG_PEEK)
            running = site.agent.page.task._server
            assert running
            while len(running._state.connections) > 1:
                next(events)  # other viewers do not wait
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while data := line.recv(1 << 16):
                    received += len(data)
        assert received < 12 * 600_000


def test_a_page_that_is_closed_while_it_begins_frees_its_port_and_ends_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the next page could not listen."""
    site = Site(tmp_path)
    page = site.agent.page.task
    read_token = page._read_token

    def closed_meanwhile(host: str) -> str | None:
        page.close()
        return read_token(host)

    monkeypatch.setattr(page, "_read_token", closed_meanwhile)
    assert page.step(0) == 0
    assert page.step(0) is None
    socket.create_server(("127.0.0.1", site.port)).close()
    site.queue.close()
    gc.collect()
    assert "Task was destroyed" not in caplog.text


def test_a_page_that_crashes_is_built_again_at_the_same_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, crashes = event_streams.EventStreams.run, [RuntimeError("a bug")]

    async def crash_once(self: event_streams.EventStreams) -> None:
        if crashes:
            raise crashes.pop()
        await run(self)

    monkeypatch.setattr(event_streams.EventStreams, "run", crash_once)
    site = Site(tmp_path)
    site.agent.page.start()
    wait_until(lambda: site.agent.page.crashes == 1)
    wait_until_answers(site.port)
    assert site.ask("/history")[0].status == 200
    site.agent.page.end(60)
    site.queue.close()
    assert "page crashed (1 since the start): RuntimeError('a bug')" in caplog.text
    assert "Task was destroyed" not in caplog.text


def test_without_the_browsers_libraries_the_page_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_BROWSER", (tmp_path / "leaflet.js",))
    with served(tmp_path) as site:
        answer, body = site.ask("/")
        assert (answer.status, b"What needs attention" in body) == (200, True)
        assert "Install Node 20 with npm" in json.loads(site.ask("/setup")[1])["missing"]


def test_without_the_extra_the_page_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_PYTHON", ("nowhere_to_be_found",))
    site = Site(tmp_path)
    assert site.agent.page.task.step(0) == 10
    assert "telemetry-agent[page]" in str(site.agent.page.task.status())
    site.queue.close()


@pytest.fixture
def minutes_of_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SHORT_S", 1)
    monkeypatch.setattr(history, "MINUTE_S", 2)


@pytest.mark.usefixtures("minutes_of_two_seconds")
def test_minutes_that_were_not_saved_yet_are_saved_when_the_page_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_APPEND_AT", 10_000)  # even on a slow machine
    with served(tmp_path) as site:
        samples: dict[str, list[float]] = {"step_s": []}
        while 2 not in samples["step_s"]:
            samples = json.loads(site.ask("/history?hours=24")[1])
        assert not (tmp_path / "queue.history").exists()
    saved = history.read(tmp_path / "queue.history")
    assert {sample.time_s for sample in saved} >= set(samples["time"][: samples["step_s"].count(2)])


@pytest.mark.usefixtures("minutes_of_two_seconds")
def test_a_card_that_hangs_while_the_history_is_saved_stops_only_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, may_go_on = threading.Event(), threading.Event()

    def replace(_history: History, _file: Path) -> None:
        hangs.set()
        may_go_on.wait(200)

    monkeypatch.setattr(history, "_APPEND_AT", 1)
    monkeypatch.setattr(History, "_replace", replace)
    try:
        with served(tmp_path) as site:
            assert hangs.wait(60)
            with site.events() as events:
                assert [next(events)[0] for _ in range(3)] == ["hello", "news", "news"]
            answer, body = site.ask("/history?hours=1")
            assert answer.status == 200
            assert json.loads(body)["time"]
    finally:  # the page ended although the card still hangs
        may_go_on.set()
