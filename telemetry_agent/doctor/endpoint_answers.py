"""What the endpoint answered to the doctor, as findings: each server has its own way to say no."""

from dataclasses import dataclass

from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.model import Answer, Deferred, Delivered, Held, Outcome, Refused
from telemetry_agent.upload.formats.clickhouse import exception_code
from telemetry_agent.upload.interfaces import FormatName

_CREDENTIALS = {
    401: "the endpoint asks who we are",
    403: "the endpoint does not let us in",
    407: "a proxy asks who we are",
}
_CLICKHOUSE_CREDENTIALS = {192, 193, 194, 195, 497, 516}
_CLICKHOUSE_TABLE = {16, 47, 60, 81, 117}
_LATER = {408, 409, 423, 425, 429}

_WHO = {
    "overland": "put Dawarich's API key into upload.token_file",
    "influx": "InfluxDB 2 and 3 want upload.token_file, InfluxDB 1 upload.username and "
    "upload.password_file",
    "clickhouse": "correct upload.username and upload.password_file, and grant it INSERT",
    "owntracks": "correct upload.username and upload.password_file",
}
_WHERE = {
    "overland": "correct upload.url: it ends in /api/v1/overland/batches for Dawarich, in "
    "/apps/phonetrack/log/overland/TOKEN/NAME for PhoneTrack",
    "owntracks": "correct upload.url: it ends in /pub for the Recorder",
    "influx": "create the database or bucket that upload.url names, or correct it",
    "clickhouse": "create the table as docs/servers.md has it, or correct upload.url",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answer is to."""

    format: FormatName
    device: str
    position: bool
    """A position was sent; else a request without any."""


def authentication(asked: Asked, answer: Answer, outcome: Outcome) -> Finding:
    """Whether the endpoint knows us: ``authentication``."""
    name = "authentication"
    if who := _stranger(asked, answer):
        return failed(
            name,
            f"{answer.status}: {who}",
            f"{_WHO.get(asked.format, 'correct the credentials under [upload]')} (those of "
            "systemd are seen while the service runs, and with sudo)",
        )
    if isinstance(outcome, Delivered):
        return passed(name, "accepted")
    return skipped(name, f"the answer {answer.status} does not tell")


def judged(asked: Asked, answer: Answer, outcome: Outcome) -> Finding:
    """What it does with positions: ``answer``."""
    name, status = "answer", answer.status
    if b"HTTPS port" in answer.body or answer.headers.get("location", "").startswith("https://"):
        return failed(
            name,
            f"{status}: the endpoint wants https",
            "write https:// in upload.url, with the port that the endpoint has for it",
        )
    match outcome:
        case Delivered():
            return passed(name, f"{status}: {'a position was ' if asked.position else ''}taken")
        case Refused(reason):
            return _refused(asked, reason)
        case Held(reason):
            if _stranger(asked, answer):
                return skipped(name, "needs authentication")
            return failed(name, reason, _where(asked))
        case Deferred():
            return _deferred(asked, outcome)


def _stranger(asked: Asked, answer: Answer) -> str | None:
    """In words, that it does not know us or does not let us in."""
    if asked.format == "clickhouse" and exception_code(answer) in _CLICKHOUSE_CREDENTIALS:
        return "ClickHouse does not let us in"
    return _CREDENTIALS.get(answer.status)


def _where(asked: Asked) -> str:
    return _WHERE.get(
        asked.format,
        f"correct upload.url: what answers there is no endpoint of the format {asked.format}",
    )


def _refused(asked: Asked, reason: str) -> Finding:
    name = "answer"
    ask = "`telemetry-agent doctor --send` sends one position"
    if asked.position and asked.format == "osmand":
        remedy = (
            f"add a device with the identifier {asked.device} in Traccar, or put that of yours "
            "into upload.url (?id=…)"
        )
        return failed(name, reason, remedy)
    if asked.position:
        return failed(name, f"a position is refused ({reason})", _where(asked))
    if asked.format == "osmand":
        said = "400 where no device is named, as Traccar does; whether it knows ours is not asked"
        return warned(name, said, ask)
    return warned(
        name,
        f"a batch without positions is refused ({reason})",
        f"only a position shows whether this endpoint takes them: {ask}",
    )


def _deferred(asked: Asked, outcome: Deferred) -> Finding:
    name, status = "answer", outcome.status or 0
    if outcome.state == "portal":
        return failed(
            name,
            outcome.reason,
            "log in to this network's portal with a browser, use another network, or correct "
            "upload.url",
        )
    if status in _LATER or status >= 500:
        return warned(
            name,
            outcome.reason,
            "nothing is lost, the agent tries again; if it stays so, look at the endpoint's log",
        )
    return failed(name, outcome.reason, _where(asked))
