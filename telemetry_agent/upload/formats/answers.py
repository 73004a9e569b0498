"""What an answer means before any format looks into it: the part that all formats share."""

from collections.abc import Callable
from dataclasses import replace

from telemetry_agent.model import Answer, Deferred, Delivered, Held, Outcome, Refused
from telemetry_agent.upload.retry import retry_after_s

_TAKEN = {200, 201, 202, 204}
_REFUSED = {400, 422}
_LATER = {408, 409, 423, 424, 425, 429}
_WORDS_MAX = 200


def judge(answer: Answer) -> Outcome | None:
    """The outcome by status and first byte; ``None``: taken, unless the body says otherwise."""
    match answer.status // 100:
        case 2:
            return _judge_taken(answer)
        case 3:
            return _judge_redirect(answer)
        case 1:
            return unclear(answer, f"{answer.status} is no answer to a POST")
        case _:
            return _judge_error(answer)


def unclear(answer: Answer, reason: str) -> Deferred:
    """The endpoint may or may not mean yes: nothing is acknowledged."""
    return Deferred(
        reason,
        retry_after_s=retry_after_s(answer.headers),
        status=answer.status,
        may_be_a_fix=True,
    )


def words(text: str) -> str:
    """What a server wrote, fit for a log line."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:_WORDS_MAX]


def reason_of(answer: Answer) -> str:
    """The status, and what the server wrote beside it."""
    body = words(answer.body[:1000].decode("utf-8", "replace"))
    return str(answer.status) if not body or body.startswith("<") else f"{answer.status}: {body}"


def with_words(outcome: Outcome, masked: Callable[[str], str]) -> Outcome:
    """The outcome with its words ``masked``: they are logged, shown and stored."""
    if isinstance(outcome, Delivered):
        rejected = {seq: masked(reason) for seq, reason in outcome.rejected.items()}
        return replace(outcome, rejected=rejected)
    return replace(outcome, reason=masked(outcome.reason))


def _judge_taken(answer: Answer) -> Outcome | None:
    status = answer.status
    coding = answer.headers.get("content-encoding", "identity")
    if answer.body and coding.strip().lower() not in {"", "identity"}:
        return unclear(answer, f"{status} with a body in {words(coding)}, which was not asked for")
    if answer.body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return _elsewhere(answer, f"{status} with a web page")
    if status not in _TAKEN:
        return unclear(answer, f"{status} does not say that the fixes were taken")
    return None


def _judge_redirect(answer: Answer) -> Outcome:
    # Without the query: it may hold the key of the request, sent back.
    target = words(answer.headers.get("location", "").partition("?")[0])
    return _elsewhere(answer, f"{answer.status}: redirected to {target or 'nowhere'}")


def _judge_error(answer: Answer) -> Outcome:
    status, reason = answer.status, reason_of(answer)
    if status in _REFUSED:
        return Refused(reason, status=status)
    if status == 413:
        return Refused(reason, too_large=True, status=status)
    if status in _LATER or status >= 500:
        # 511 is what a captive portal says of itself.
        return Deferred(
            reason,
            state="portal" if status == 511 else "waiting",
            retry_after_s=retry_after_s(answer.headers),
            status=status,
            may_be_a_fix=status == 500,
        )
    return Held(reason, status=status)


def _elsewhere(answer: Answer, reason: str) -> Deferred | Held:
    """Somebody else answers: on plain http a captive portal can, behind verified TLS it cannot."""
    if answer.verified_tls:
        return Held(f"{reason}: upload.url is wrong", status=answer.status)
    return Deferred(
        f"{reason}: a captive portal, or upload.url is wrong",
        state="portal",
        status=answer.status,
    )
