"""The state of the agent: the one tree that status, page, metrics and doctor share.

``daemon/app.py`` makes it, and the control socket carries it as JSON. Two versions of the
program may meet there, between an upgrade and the restart. So the JSON carries ``protocol``, every
field has a default, and ``read`` ignores what it does not know or cannot use: it never fails on the
JSON of another version.

Instants are given as seconds before now, because the system clock may be wrong by years. A value
that is not known is ``None`` here and absent in JSON. docs/operations.md has a table of all fields,
which a test compares with these classes.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from telemetry_agent.model import Quality, ReceiverState, Satellite, UploadState

PROTOCOL = 1
"""Version of the control socket's JSON: raised when an older reader would misunderstand it."""


def other_protocol(version: object) -> str | None:
    """What a command says when the agent's answer has this version; ``None`` if it is ours."""
    if version == PROTOCOL:
        return None
    return (
        f"this command understands protocol {PROTOCOL}, the agent speaks {version}: "
        "some of this may be missing; restart the service"
    )


_TOO_LARGE = 1 << 63
"""No number of a snapshot reaches it."""

NO_PERMISSION = "no-permission"
"""A reason of the receiver's: the system does not let the agent open it."""

Counts = Mapping[str, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReceiverView:
    """The receiver."""

    source: Annotated[str, "the source of its bytes: a device, an address, a file"] = ""
    state: Annotated[ReceiverState, "state of the receiver"] = "absent"
    state_s: Annotated[float, "seconds in this state"] = 0.0
    fixes: Annotated[int, "fixes since the start, before sampling"] = 0
    rate_hz: Annotated[float, "fixes per second, over the last minute"] = 0.0
    rejected: Annotated[Counts, "input that was dropped, by reason"] = field(default_factory=dict)
    not_recorded: Annotated[Counts, "fixes that sampling left out, by reason"] = field(
        default_factory=dict
    )
    satellites: Annotated[tuple[Satellite, ...], "in view"] = ()
    reason: Annotated[str | None, "why there is no position, in one word"] = None
    message: Annotated[str | None, "why there is no position"] = None
    remedy: Annotated[str | None, "what to do about it"] = None
    notice: Annotated[str | None, "a warning while positions come"] = None
    antenna: Annotated[str | None, "the receiver's own report of its antenna: OK, OPEN, SHORT"] = (
        None
    )
    fix_age_s: Annotated[float | None, "seconds since the last fix"] = None
    time: Annotated[str | None, "time of the last fix, UTC"] = None
    mode: Annotated[Literal[2, 3] | None, "mode of the last fix"] = None
    quality: Annotated[Quality | None, "quality of the last fix"] = None
    sats: Annotated[int | None, "number of satellites used in the last fix"] = None
    hdop: Annotated[float | None, "HDOP of the last fix"] = None

    @property
    def has_position(self) -> bool:
        """Whether the last complete epoch had a position."""
        return self.state in {"2d", "3d"}


@dataclass(frozen=True, slots=True)
class UploadView:
    """Uploads."""

    host: Annotated[str, "host of the endpoint; never the path or query of the URL"] = ""
    state: Annotated[UploadState, "state of uploads"] = "ok"
    state_s: Annotated[float, "seconds in this state"] = 0.0
    requests: Annotated[int, "requests since the start"] = 0
    failed_requests: Annotated[int, "requests that delivered nothing, since the start"] = 0
    delivered: Annotated[int, "fixes delivered since the start"] = 0
    unknown_names: Annotated[int, "names in answers that their request did not hold; ignored"] = 0
    rate_hz: Annotated[float, "fixes delivered per second, over the last minute"] = 0.0
    sent_bytes: Annotated[int, "bytes sent since the start"] = 0
    sent_bytes_24h: Annotated[int, "bytes sent in the last 24 hours of uptime"] = 0
    last_delivery_s: Annotated[float | None, "seconds since the last delivery"] = None
    complete_until: Annotated[str | None, "complete at the endpoint until the fix of this time"] = (
        None
    )
    last_error: Annotated[str | None, "the last failure"] = None
    last_error_s: Annotated[float | None, "seconds since the last failure"] = None
    next_attempt_s: Annotated[float | None, "seconds until the next attempt, while it waits"] = None
    backlog_error: Annotated[
        str | None, "why the endpoint refuses the backlog, while it may accept other fixes"
    ] = None


@dataclass(frozen=True, slots=True)
class QueueView:
    """The queue."""

    pending: Annotated[
        int, "fixes to be delivered, also of other queues that the agent delivers"
    ] = 0
    in_flight: Annotated[int, "pending fixes that a request carries now"] = 0
    uncommitted: Annotated[int, "pending fixes that are not on disk yet"] = 0
    delivered: Annotated[int, "delivered fixes that are still kept"] = 0
    dead_letters: Annotated[
        Counts, "dead letters, by reason (ten reasons, and `other reasons`)"
    ] = field(default_factory=dict)
    lost: Annotated[Counts, "fixes that were lost, by reason"] = field(default_factory=dict)
    file_bytes: Annotated[int, "size of the queue file and its log"] = 0
    disk_free_bytes: Annotated[int, "bytes that the agent may still write to this disk"] = 0
    full: Annotated[bool, "the queue is full: new fixes replace others, or are not recorded"] = (
        False
    )
    carrying_over: Annotated[bool, "fixes of a damaged file are being carried over"] = False
    disk_error: Annotated[
        str | None, "why the disk refuses to write, while it does: new fixes wait in memory"
    ] = None
    oldest_pending: Annotated[str | None, "time of the oldest pending fix"] = None
    oldest_pending_s: Annotated[
        float | None, "age of the oldest pending fix, measured from the newest fix"
    ] = None


@dataclass(frozen=True, slots=True)
class PageView:
    """The device page, where it is on."""

    state: Annotated[
        Literal["ok", "held"], "held: it waits until the cause in last_error is gone"
    ] = "ok"
    last_error: Annotated[str | None, "why it is held"] = None


@dataclass(frozen=True, slots=True)
class StorageView:
    """What is wrong with the storage of fixes."""

    state: Annotated[
        Literal["forgets", "runtime", "covered"],
        "forgets: a power cut loses everything; runtime: the state directory cannot be written, "
        "so fixes are in the runtime directory; covered: its disk is not mounted any more",
    ] = "forgets"
    last_error: Annotated[str, "the cause"] = ""
    remedy: Annotated[str, "what to do about it"] = ""

    def __str__(self) -> str:
        return f"{self.last_error}: {self.remedy}" if self.last_error else ""


@dataclass(frozen=True, slots=True)
class ConfigView:
    """Why the last good config is in effect."""

    state: Annotated[
        Literal["unreadable", "wrong"], "unreadable, or wrong: then uploads are held as well"
    ] = "unreadable"
    last_error: Annotated[str, "the fault of the config"] = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The agent at one moment."""

    protocol: Annotated[int, "version of this JSON"] = PROTOCOL
    running: Annotated[bool, "whether an agent answered"] = True
    version: Annotated[str, "version of the running program"] = ""
    device: Annotated[str, "name of the device"] = ""
    pid: Annotated[int, "process ID of the agent"] = 0
    uptime_s: Annotated[float, "seconds since the start of the agent"] = 0.0
    receiver: ReceiverView = ReceiverView()
    upload: UploadView = UploadView()
    queue: QueueView = QueueView()
    page: PageView | None = None
    config: ConfigView | None = None
    storage: StorageView | None = None


@dataclass(frozen=True, slots=True)
class AtRest:
    """The answer where no agent answers."""

    protocol: Annotated[int, "version of this JSON"] = PROTOCOL
    running: Annotated[bool, "whether an agent answered"] = False
    queue: QueueView | None = None
    note: Annotated[str | None, "why the queue cannot be read, or only in a copy"] = None
    busy: Annotated[bool, "whether a process holds the queue: an agent that starts or ends"] = False


def as_json(value: Any) -> Any:
    """A part of the tree as ``json.dumps`` takes it, without what is unknown."""
    if is_dataclass(value):
        named = ((each.name, getattr(value, each.name)) for each in fields(value))
        return {name: as_json(one) for name, one in named if one is not None}
    if isinstance(value, tuple):
        return [as_json(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


def read(kind: type[T], value: object) -> T:
    """From JSON. A value that is missing or has another type gets its default."""
    known: dict[str, Any] = {}
    types_by_name = get_type_hints(kind)
    if isinstance(value, Mapping):
        for name in types_by_name.keys() & value.keys():
            found = _fitting(types_by_name[name], value[name])
            if found is not None:
                known[name] = found
    return kind(**known)


def _fitting(hint: Any, value: object) -> object:  # noqa: PLR0911 - one for each kind of type
    """``value`` as a value of that type, or ``None``."""
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        return next((v for h in get_args(hint) if (v := _fitting(h, value)) is not None), None)
    if origin is Literal:
        return value if value in get_args(hint) else None
    if origin is tuple:
        listed = value if isinstance(value, list) else []
        return tuple(read(get_args(hint)[0], one) for one in listed)
    if is_dataclass(hint):
        return read(hint, value)  # type: ignore[arg-type]
    if hint in {int, float}:
        is_number = isinstance(value, int | hint) and not isinstance(value, bool)
        # Neither infinite nor NaN, which JSON of another program may carry.
        return hint(value) if is_number and abs(value) < _TOO_LARGE else None  # type: ignore[arg-type]
    if origin is not None:  # counts by reason
        mapping = value if isinstance(value, Mapping) else {}
        return {key: count for key, count in mapping.items() if _fitting(int, count) is not None}
    return value if type(value) is hint else None
