"""What the endpoint answered to a batch without positions, as findings."""

from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.model import Answer, Deferred, Delivered, Held, Outcome, Refused

_CREDENTIALS = {
    401: "the endpoint asks who we are",
    403: "the endpoint does not let us in",
    407: "a proxy asks who we are",
}
_LATER = {408, 409, 423, 425, 429}
_NO_ENDPOINT = "correct upload.url: what answers there is no endpoint of the native format"


def authentication(answer: Answer, outcome: Outcome) -> Finding:
    """Whether the endpoint knows us: ``authentication``."""
    name = "authentication"
    if who := _CREDENTIALS.get(answer.status):
        return failed(
            name,
            f"{answer.status}: {who}",
            "correct the credentials under [upload], such as upload.token_file (those of systemd "
            "are seen while the service runs, and with sudo)",
        )
    if isinstance(outcome, Delivered):
        return passed(name, "accepted")
    return skipped(name, f"the answer {answer.status} does not tell")


def judged(answer: Answer, outcome: Outcome) -> Finding:
    """What it would do with positions: ``answer``."""
    name, status = "answer", answer.status
    match outcome:
        case Delivered():
            return passed(name, f"{status}: taken")
        case Refused(reason):
            return warned(
                name,
                f"a batch without positions is refused ({reason})",
                "only the first position shows whether this endpoint takes them: see status then",
            )
        case Held(reason):
            if status in _CREDENTIALS:
                return skipped(name, "needs authentication")
            return failed(name, reason, _NO_ENDPOINT)
        case Deferred():
            return _deferred(outcome)


def _deferred(outcome: Deferred) -> Finding:
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
    return failed(name, outcome.reason, _NO_ENDPOINT)
