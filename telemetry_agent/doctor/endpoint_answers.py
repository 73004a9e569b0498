"""Findings from the endpoint's answers: each kind of server refuses in its own way."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from telemetry_agent.config.settings import UploadSettings
from telemetry_agent.doctor.findings import Finding, failed, passed, skipped, warned
from telemetry_agent.doctor.servers import SERVERS, usual
from telemetry_agent.model import Answer, Deferred, Delivered, Held, Outcome, Refused
from telemetry_agent.upload.formats.clickhouse import exception_code
from telemetry_agent.upload.interfaces import NoAnswer

_CREDENTIALS = {
    401: "the endpoint does not accept the credentials",
    403: "the endpoint does not allow this device",
    407: "a proxy requires credentials",
}
_CLICKHOUSE_CREDENTIALS = {192, 193, 194, 195, 497, 516}
_CLICKHOUSE_UNKNOWN_SETTING = 115
_WANTS_TLS = (b"HTTPS port", b"HTTP request to an HTTPS server")  # nginx, Go

_CREDENTIALS_REMEDIES = {
    "overland": "put Dawarich's API key into upload.token_file",
    "influx": "InfluxDB 2 and 3 need upload.token_file, InfluxDB 1 needs upload.username and "
    "upload.password_file",
    "clickhouse": "correct upload.username and upload.password_file, and grant it INSERT",
    "owntracks": "correct upload.username and upload.password_file",
}
_ADDRESS_REMEDIES = {
    "overland": "correct upload.url: it ends in /api/v1/overland/batches for Dawarich, in "
    "/apps/phonetrack/log/overland/TOKEN/NAME for PhoneTrack",
    "owntracks": "correct upload.url: it ends in /pub for the Recorder, in /api/webhook/ID for "
    "Home Assistant",
    "gpslogger": "set upload.url to the address that Home Assistant's integration GPSLogger shows",
    "influx": "create the database or bucket that upload.url names, or correct it",
    "clickhouse": "create the table as in docs/servers.md, or correct upload.url",
}
_USE_TLS = "write https:// in upload.url, with the endpoint's port for https"
_TRY_ONE = "`sudo telemetry-agent doctor --send` sends the newest recorded position"


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """The request that was answered."""

    upload: UploadSettings
    device: str
    position: bool
    """Whether it had a position."""
    anonymous: bool
    """Whether it had no credentials either."""
    server: str | None = None
    """Which of ``SERVERS`` answers, by its page at the root, or else by the URL."""
    is_sure: bool = False
    """Whether its page shows it."""

    @property
    def other_settings(self) -> str | None:
        """What to set instead if that server needs other settings; ``None``: nothing."""
        if self.server is None:
            return None
        upload, server, url = self.upload, SERVERS[self.server], usual(self.server, self.upload.url)
        if server.format != upload.format:
            return f'{self.server}: set upload.format = "{server.format}" and upload.url = "{url}"'
        path = server.path.rstrip("/")
        if self.is_sure and path and path != urlsplit(upload.url).path.rstrip("/"):
            return f'{self.server}: set upload.url = "{url}"'
        return None

    @property
    def proxy(self) -> str:
        """Host and port of the proxy; "" without one."""
        return urlsplit(self.upload.proxy).netloc.rpartition("@")[2]


def authentication(asked: TrialRequest, answer: Answer, outcome: Outcome) -> Finding:
    """``authentication``: are the credentials accepted."""
    status = answer.status
    if asked.proxy and status == 407:
        return _proxy_refuses(asked, status)
    if said := _rejected(asked, answer):
        remedy = "correct the credentials under [upload]"
        if asked.anonymous and status == 401:
            said = "the endpoint requires credentials, and none are set"
            remedy = "set upload.token_file, or upload.username and upload.password_file"
        remedy = _CREDENTIALS_REMEDIES.get(asked.upload.format, remedy)
        if not isinstance(outcome, Delivered) and (quote := outcome.reason.partition(": ")[2]):
            said += f" (it says: {quote})"
        if asked.proxy and status == 403 and asked.upload.url.startswith("http:"):
            # Without TLS the proxy reads the request, and its answer looks like the endpoint's.
            said += f", or the proxy {asked.proxy} does not let this device through to it"
        return failed(
            f"{status}: {said}",
            f"{remedy} (doctor sees those of systemd only with sudo, while the service runs)",
        )
    if isinstance(outcome, Delivered):
        return passed("accepted")
    return skipped(f"the answer {status} does not show whether they are accepted")


def judged(asked: TrialRequest, answer: Answer, outcome: Outcome) -> Finding:
    """``answer``: would it accept positions."""
    status = answer.status
    if answer.headers.get("location", "").startswith("https://") or any(
        words in answer.body for words in _WANTS_TLS
    ):
        return failed(f"{status}: the endpoint expects https", _USE_TLS)
    if isinstance(outcome, Delivered):
        return _accepted(asked, outcome, status)
    if _rejected(asked, answer):
        return skipped("needs authentication")
    if isinstance(outcome, Deferred) and status >= 400:
        return warned(outcome.reason, _look_there(answer))
    return _wrong_address(asked, answer, outcome.reason) or _refused(asked, answer, outcome)


def _look_there(answer: Answer) -> str:
    if answer.status not in {502, 504}:
        return "nothing is lost, the agent tries again; if it stays so, look at the endpoint's log"
    return (
        f"the endpoint behind {_web_server(answer) or 'the web server'} does not run, or listens "
        "elsewhere: start it, or correct proxy_pass"
    )


def _wrong_address(asked: TrialRequest, answer: Answer, reason: str) -> Finding | None:
    """The fault if another server answers than the config is for, or at another path."""
    status = answer.status
    if status == 413:
        what = "with one position" if asked.position else "without a position"
        limit = "raise the limit there (client_max_body_size in nginx)"
        return failed(f"413: a request {what} is too large", limit)
    if other_settings := asked.other_settings:
        looks = "the server there is" if asked.is_sure else "by its URL the server is"
        return failed(f"{reason}; {looks} {asked.server}", f"for {other_settings}")
    if web := _web_server(answer):
        return failed(
            f"{status}: {web} itself answers, and nothing is configured for this path",
            f"correct the path of upload.url, or add a location with proxy_pass to {web}",
        )
    return None


def unanswered(
    asked: TrialRequest, answer: NoAnswer, *, speaks_tls: bool
) -> tuple[Finding, Finding]:
    """``authentication``, ``answer``, if no answer came."""
    if answer.proxy_status in {403, 407}:
        return (
            _proxy_refuses(asked, answer.proxy_status),
            skipped("needs authentication"),
        )
    if speaks_tls:
        found = failed(f"this port speaks TLS ({answer.reason})", _USE_TLS)
    else:
        remedy = "check that the endpoint works: its own log shows more"
        if answer.proxy_status:
            remedy = "check upload.proxy, and whether that proxy lets this device through"
        found = failed(answer.reason, remedy)
    return skipped("no answer"), found


def _accepted(asked: TrialRequest, outcome: Delivered, status: int) -> Finding:
    upload = asked.upload
    paths = {"", *(server.path.rstrip("/") for server in SERVERS.values())}
    at_its_path = urlsplit(upload.url).path.rstrip("/") in paths
    # At its own address that server accepts what it does not understand, and stores nothing.
    if asked.is_sure and upload.format == "native" and not outcome.counted and at_its_path:
        return failed(
            f"{status}, but the server there is {asked.server}, which stores nothing in the format "
            "native",
            f"for {asked.other_settings}",
        )
    return passed(f"{status}: {'a position was ' if asked.position else ''}accepted")


def _proxy_refuses(asked: TrialRequest, status: int) -> Finding:
    if status == 403:
        return failed(
            f"403: the proxy {asked.proxy} does not let this device through to the endpoint",
            f"allow {urlsplit(asked.upload.url).netloc} in the proxy, or correct upload.proxy",
        )
    if asked.upload.proxy_password_file:
        remedy = "correct the user in upload.proxy, and upload.proxy_password_file"
    else:
        remedy = (
            f'set upload.proxy = "http://USER@{asked.proxy}" and upload.proxy_password_file to a '
            "file with the password"
        )
    return failed(f"407: the proxy {asked.proxy} requires credentials", remedy)


def _web_server(answer: Answer) -> str | None:
    """The web server that answered with its own page, instead of the endpoint behind it."""
    name = answer.headers.get("server", "").partition("/")[0].lower()
    own = answer.body.lstrip().startswith(b"<") or not answer.body
    return name if name in {"nginx", "openresty", "caddy", "apache"} and own else None


def _rejected(asked: TrialRequest, answer: Answer) -> str | None:
    """That the answer rejects the credentials or the device; ``None``: it does not."""
    if asked.upload.format == "clickhouse" and exception_code(answer) in _CLICKHOUSE_CREDENTIALS:
        return "ClickHouse does not accept the user"
    return _CREDENTIALS.get(answer.status)


def _address_remedy(asked: TrialRequest) -> str:
    format_ = asked.upload.format
    return _ADDRESS_REMEDIES.get(
        format_,
        f"correct upload.url: the server there is not an endpoint of the format {format_}",
    )


def _refused(asked: TrialRequest, answer: Answer, outcome: Refused | Held | Deferred) -> Finding:
    reason, format_ = outcome.reason, asked.upload.format
    if not isinstance(outcome, Refused):
        remedy = _address_remedy(asked)
        if exception_code(answer) == _CLICKHOUSE_UNKNOWN_SETTING:
            remedy = "the agent needs ClickHouse 22.2 or newer: upgrade it"
        if isinstance(outcome, Deferred) and outcome.state == "portal":
            remedy = (
                "log in to this network's portal with a browser, use another network, or correct "
                "upload.url"
            )
        return failed(reason, remedy)
    if asked.position and format_ == "osmand":
        remedy = (
            f"add a device with the identifier {asked.device} in Traccar, or put another "
            "device's identifier into upload.url (?id=…)"
        )
        return failed(reason, remedy)
    if asked.position:
        return failed(f"a position is refused ({reason})", _address_remedy(asked))
    if format_ == "osmand":
        said = (
            "400 to a request without a device, as Traccar answers; this does not show whether it "
            f"knows the device {asked.device}"
        )
        return warned(said, _TRY_ONE)
    return warned(
        f"a batch without positions is refused ({reason})",
        f"only a position shows whether this endpoint accepts them: {_TRY_ONE}",
    )
