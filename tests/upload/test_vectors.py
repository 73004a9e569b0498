"""``docs/protocol.md`` shows what the agent sends and how it reads answers."""

import base64
import gzip
import hashlib
import json

import pytest
from vectors import Exchange, answers, exchanges

from telemetry_agent.model import Answer, Batch, Delivered, Fix, Outcome, Record
from telemetry_agent.upload.formats import native
from telemetry_agent.upload.formats.answers import judge

STREAM = "9f0c2d6e11a7b354"
SPARE = Fix(
    time_ms=1795437319000,
    lat_e9=48_117300000,
    lon_e9=11_516667000,
    alt_mm=545400,
    speed_mm_s=11524,
    course_mdeg=84400,
    mode=3,
    hdop_e2=90,
    sats=8,
)
FULL = Fix(
    time_ms=1795437320250,
    lat_e9=-33_856784400,
    lon_e9=-151_215296700,
    alt_mm=-3200,
    geoid_sep_mm=22900,
    speed_mm_s=0,
    course_mdeg=359_900,
    mode=3,
    quality="rtk",
    hdop_e2=60,
    vdop_e2=110,
    pdop_e2=125,
    sats=17,
    err_h_mm=14,
    err_v_mm=25,
    odo_m=120453,
    flags=("jump", "time"),
)
LEAST = Fix(time_ms=1795437321000, lat_e9=48_117312345, lon_e9=11_516789012)
REPORT = {
    "version": "1.0.0",
    "uptime": 905,
    "receiver": "no-fix",
    "upload": "ok",
    "antenna": "OPEN",
    "pending": 0,
    "dead_letters": 0,
    "lost": {},
    "disk_free": 20000000000,
}


def batch(**fixes: Fix) -> Batch:
    records = tuple(Record(STREAM, int(name[1:]), "van-07", fix) for name, fix in fixes.items())
    return Batch(1, STREAM, "van-07", records, live=True)


SENT = [
    (batch(_17=SPARE, _18=FULL), None),
    (batch(_17=SPARE, _18=FULL), None),
    (batch(_18=FULL, _19=LEAST), None),
    (batch(), REPORT),
]


@pytest.mark.parametrize(("sent", "vector"), list(zip(SENT, exchanges()[:4], strict=True)))
def test_what_is_sent_is_what_the_document_shows(
    sent: tuple[Batch, dict[str, object] | None], vector: Exchange
) -> None:
    payload = native.encode(sent[0], compression="none", agent=sent[1])
    body = vector.body.encode()
    if vector.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(base64.b64decode(body))
        assert native.encode(sent[0], compression="gzip").compressed
    assert payload.body == body
    assert payload.headers["Idempotency-Key"] == vector.headers["Idempotency-Key"]


@pytest.mark.parametrize(
    "vector", [each for each in exchanges() if "Idempotency-Key" in each.headers]
)
def test_a_key_is_made_as_the_document_says(vector: Exchange) -> None:
    text = vector.body
    if "Content-Encoding" in vector.headers:
        text = gzip.decompress(base64.b64decode(text)).decode()
    said = json.loads(text)
    names = f"{said['stream']}:{','.join(str(fix['seq']) for fix in said['fixes'])}"
    report = text.partition('"agent":')[2].removesuffix("}")
    digest = hashlib.sha256((names + report).encode()).hexdigest()[:32]
    assert vector.headers["Idempotency-Key"] == f'"{digest}"'


def becomes(outcome: Outcome) -> dict[int, str]:
    if not isinstance(outcome, Delivered):
        return dict.fromkeys((17, 18), "stays")
    words = dict.fromkeys(outcome.retry, "stays") | dict.fromkeys(outcome.rejected, "dead letter")
    return {seq: words.get(seq, "delivered") for seq in (17, 18)}


@pytest.mark.parametrize(("status", "body", "means"), answers())
def test_an_answer_means_what_the_document_says(status: int, body: str, means: str) -> None:
    answer = Answer(status, {}, body.encode(), verified_tls=False)
    became = becomes(judge(answer, batch(_17=SPARE, _18=FULL)))
    if means.startswith("both"):
        says = dict.fromkeys((17, 18), "stays" if "stay" in means else "delivered")
    else:
        parts = (part.partition(" ") for part in means.split(", "))
        says = {int(seq): word.removeprefix("is a ") for seq, _, word in parts}
    assert became == says
