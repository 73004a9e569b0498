"""What an answer means before any format looks into it: the part that all formats share."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from telemetry_agent.model import (
    Answer,
    Batch,
    Deferred,
    Delivered,
    Held,
    Outcome,
    Refused,
    ResendRange,
    is_stream,
)
from telemetry_agent.secrecy import masked_url
from telemetry_agent.upload.interfaces import PROXY_FAILURES
from telemetry_agent.upload.quoting import coding, quoted, reason_of, words
from telemetry_agent.upload.retry import retry_after_s

_TAKEN = {200, 201, 202, 204}
_REFUSED = {400, 422}
_LATER = {408, 409, 423, 424, 425, 429}
# A conflict may pass, as while an earlier request is stored; or the server has the fix already.
_MAY_BE_A_FIX = {409, 500, *PROXY_FAILURES}
_SAYS_NO = re.compile(rb"(?:php )?(?:fatal |parse )?error", re.IGNORECASE)
"""The beginning of a text; PHP answers 200 to a request at which its script fails."""
_BEGINS_WITH_NO = re.compile(
    _SAYS_NO.pattern
    + rb'|\{\s*"(?:error(?:s|message)?"\s*:\s*(?:true|[1-9]|"[^"]|\[\s*[^]\s]|\{\s*[^}\s])'
    rb'|(?:success|ok)"\s*:\s*"?(?:false|0)|(?:status|result)"\s*:\s*"(?:error|fail))',
    re.IGNORECASE,
)
"""Of a body that was not read to its end."""
_FAILED = {"error", "fail", "failed", "failure"}


def judge(answer: Answer, batch: Batch, *, array_is_yes: bool = False) -> Outcome:
    """The outcome by status and body. ``array_is_yes``: a JSON array means yes."""
    match answer.status // 100:
        case 2:
            return _judge_taken(answer, batch, array_is_yes=array_is_yes)
        case 3:
            # Without the query: it may hold the key of the request, sent back.
            target = words(masked_url(answer.headers.get("location", "").partition("?")[0]))
            return _elsewhere(answer, f"{answer.status}: redirected to {target or 'nowhere'}")
        case 1:
            return unclear(answer, f"{answer.status} is not an answer to a POST")
        case _:
            return _judge_error(answer)


def offers_gzip(answer: Answer) -> bool:
    """Whether the endpoint names gzip in ``Accept-Encoding`` (RFC 9110, 12.5.3)."""
    for offered in answer.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = offered.partition(";")
        q = weight.strip().removeprefix("q=").strip()
        if name.strip() in {"gzip", "x-gzip"}:
            return not q or (q.replace(".", "", 1).isdecimal() and float(q) > 0)
    return False


def later(answer: Answer, reason: str, **more: Any) -> Deferred:
    """Not now; the endpoint may say until when."""
    wait_s = retry_after_s(answer.headers)
    return Deferred(reason, retry_after_s=wait_s, status=answer.status, **more)


def unclear(answer: Answer, reason: str) -> Deferred:
    """The endpoint may or may not mean yes: nothing is acknowledged."""
    return later(answer, reason, may_be_a_fix=True)


def masked_outcome(outcome: Outcome, masked: Callable[[str], str]) -> Outcome:
    """The outcome with its texts ``masked``: they are logged, shown and stored."""
    if isinstance(outcome, Delivered):
        rejected = {seq: masked(reason) for seq, reason in outcome.rejected.items()}
        return replace(outcome, rejected=rejected)
    return replace(outcome, reason=masked(outcome.reason))


def _judge_taken(answer: Answer, batch: Batch, *, array_is_yes: bool) -> Outcome:
    status = answer.status
    if answer.body and (packed := coding(answer)):
        return unclear(answer, f"{status} with a body in {packed}, which was not asked for")
    text = answer.body
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = text.decode("utf-16", "replace").encode()
    text = text.lstrip(b"\xef\xbb\xbf \t\r\n\f")
    if text.startswith(b"<"):
        return _elsewhere(answer, f"{status} with a web page")
    if status not in _TAKEN:
        return unclear(answer, f"{status} does not say that the fixes were taken")
    if answer.too_long_bytes is None:
        return _judge_body(answer, text, batch, array_is_yes=array_is_yes)
    if len(batch.records) <= 1:
        no = unclear(answer, f"{status}, but it says: {quoted(text)}")
        return no if _BEGINS_WITH_NO.match(text) else Delivered(status=status)
    # The part that was not read may refuse one of the fixes.
    fitting = max(1, len(batch.records) * len(answer.body) // (2 * answer.too_long_bytes))
    reason = f"{status} with a body larger than {len(answer.body)} bytes"
    return Refused(reason, too_large=True, status=status, fitting=fitting)


def _judge_body(answer: Answer, text: bytes, batch: Batch, *, array_is_yes: bool) -> Outcome:
    status = answer.status
    if _SAYS_NO.match(text):
        return unclear(answer, f"{status}, but it says: {quoted(text)}")
    declared = "json" in answer.headers.get("content-type", "").lower()
    if not text or not (declared or text.startswith((b"{", b"["))):
        return Delivered(status=status)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        wrong = declared or text.startswith(b"{")
        no = unclear(answer, f"{status} with JSON that does not parse")
        return no if wrong else Delivered(status=status)
    if isinstance(value, dict):
        return _judge_object(answer, value, text, batch)
    if isinstance(value, list) and array_is_yes:
        return Delivered(status=status)
    return unclear(answer, f"{status}, but {quoted(text)} does not say that the fixes were taken")


def _judge_object(answer: Answer, value: dict[str, Any], text: bytes, batch: Batch) -> Outcome:
    rejected_items, retry_items = value.get("rejected") or [], value.get("retry") or []
    if not isinstance(rejected_items, list) or not isinstance(retry_items, list):
        return unclear(answer, f"{answer.status} rejects fixes without naming them")
    retry = [_seq(item) for item in retry_items]
    rejected = [
        (_seq(item), item.get("reason") if isinstance(item, dict) else None)
        for item in rejected_items
    ]
    named = [*retry, *(seq for seq, _ in rejected)]
    if None in named:
        return unclear(answer, f"{answer.status} names fixes, but not by their numbers")
    names = {record.seq for record in batch.records}
    stay = frozenset(seq for seq in retry if seq in names)
    delivered = Delivered(
        rejected={
            seq: words(str(reason or "")) or "rejected by the endpoint"
            for seq, reason in rejected
            if seq in names and seq not in stay  # named twice: keeping it loses nothing
        },
        retry=stay,
        unknown_names=sum(seq not in names for seq in named),
        status=answer.status,
        resend=_asked(value.get("resend")),
    )
    received, count = _whole(value.get("received")), len(names)
    if received is not None and 0 <= received <= count:
        taken = count - len(delivered.rejected) - len(stay)
        if received < taken:
            return unclear(answer, f"{answer.status}, but only {received} of {count} were received")
        return replace(delivered, counted=True)
    if _denies({name.lower(): item for name, item in value.items()}):
        return unclear(answer, f"{answer.status}, but it says: {quoted(text)}")
    return delivered


def _denies(said: dict[str, Any]) -> bool:
    """Whether a JSON object says that the request failed, in one of the usual ways."""
    code = said.get("statuscode", said.get("status"))
    return (
        any(said.get(name) for name in ("error", "errors", "errormessage"))  # AWS Lambda: the last
        or any(str(said.get(name)).lower() in {"false", "0"} for name in ("success", "ok"))
        or any(str(said.get(name)).lower() in _FAILED for name in ("status", "result"))
        or (type(code) is int and 400 <= code < 600)
    )


def _asked(items: object) -> tuple[ResendRange, ...]:
    """What is asked for again; anything else in its place is ignored."""
    found = []
    for item in items if isinstance(items, list) else ():
        asked = item if isinstance(item, dict) else {}
        stream, first, last = asked.get("stream"), asked.get("from"), asked.get("to")
        first, last = _whole(first) or 0, _whole(last) or 0
        if is_stream(stream) and 0 < first <= last < 1 << 62:
            found.append(ResendRange(stream, first, last))
    return tuple(found)


def _seq(item: object) -> int | None:
    """The seq that an item of ``rejected`` or ``retry`` names, alone or in an object."""
    return _whole(item.get("seq") if isinstance(item, dict) else item)


def _whole(value: object) -> int | None:
    """A whole number; also as 3.0, and as text, which is what many drivers of databases give."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value if type(value) is int else None


def _judge_error(answer: Answer) -> Outcome:
    """What a 4xx or 5xx means. ``Bisection`` halves after a 413; ``Sizing`` limits what follows."""
    status, reason = answer.status, reason_of(answer)
    if status in _REFUSED:
        return Refused(reason, status=status)
    if status == 413:
        return Refused(reason, too_large=True, status=status)
    if status in _LATER or status >= 500:
        # 511 is the status of a captive portal.
        state = "portal" if status == 511 else "waiting"
        return later(answer, reason, state=state, may_be_a_fix=status in _MAY_BE_A_FIX)
    return Held(reason, status=status)


def _elsewhere(answer: Answer, reason: str) -> Deferred | Held:
    """Another server answers. On plain http that can be a portal, behind verified TLS it cannot."""
    if answer.verified_tls:
        return Held(f"{reason}: upload.url is wrong", status=answer.status)
    return Deferred(
        f"{reason}: a captive portal, or upload.url is wrong",
        state="portal",
        status=answer.status,
    )
