"""What the agent knows about itself: the one tree that status, page, metrics and doctor share.

``daemon/status.py`` makes it; over the control socket it travels as JSON. Two versions of the
program may meet there, after an upgrade and before the restart. So the JSON carries ``protocol``,
every field has a default, and what a reader does not know or cannot use is left out: ``read`` never
fails on what another version says.

Instants are told as seconds until now, because the system clock may be wrong by years. What is
unknown is ``None`` here and absent in JSON. docs/operations.md has the table that ``described``
makes of these classes.
"""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from telemetry_agent.model import Constellation, Quality, ReceiverState, UploadState

PROTOCOL = 1
"""Of the control socket: one more whenever a reader of before would misunderstand."""

Counts = Mapping[str, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SatelliteView:
    """One satellite in view."""

    system: Constellation = "GPS"
    number: Annotated[int, "in its system: 1 to 63, for SBAS 120 to 158"] = 0
    elevation_deg: Annotated[int | None, "above the horizon"] = None
    azimuth_deg: Annotated[int | None, "clockwise from north"] = None
    snr_db: Annotated[int | None, "of its best signal, dB-Hz; absent: not tracked"] = None
    used: Annotated[bool, "in the last fix"] = False


@dataclass(frozen=True, slots=True)
class ReceiverView:
    """How the receiver does."""

    source: Annotated[str, "where its bytes come from"] = ""
    state: Annotated[ReceiverState, "its state word"] = "absent"
    state_s: Annotated[float, "seconds in this state"] = 0.0
    fixes: Annotated[int, "handed on since the start"] = 0
    rate_hz: Annotated[float, "fixes a second over the last minute"] = 0.0
    rejected: Annotated[Counts, "input that was dropped, by reason"] = field(default_factory=dict)
    not_recorded: Annotated[Counts, "fixes left out by sampling, by reason"] = field(
        default_factory=dict
    )
    satellites: Annotated[tuple[SatelliteView, ...], "in view"] = ()
    reason: Annotated[str | None, "why it speaks and gives no positions, in a word"] = None
    message: Annotated[str | None, "why there is no position"] = None
    remedy: Annotated[str | None, "what to do about it"] = None
    notice: Annotated[str | None, "what to know although positions come"] = None
    antenna: Annotated[str | None, "as the receiver says: OK, OPEN, SHORT"] = None
    fix_age_s: Annotated[float | None, "seconds since the last fix"] = None
    time: Annotated[str | None, "of the last fix, UTC"] = None
    mode: Annotated[Literal[2, 3] | None, "of the last fix"] = None
    quality: Annotated[Quality | None, "of the last fix"] = None
    sats: Annotated[int | None, "satellites used in the last fix"] = None
    hdop: Annotated[float | None, "of the last fix"] = None


@dataclass(frozen=True, slots=True)
class UploadView:
    """How uploads do."""

    host: Annotated[str, "where fixes go; never the path or query of the URL"] = ""
    state: Annotated[UploadState, "the state word"] = "ok"
    state_s: Annotated[float, "seconds in this state"] = 0.0
    requests: Annotated[int, "since the start"] = 0
    failed_requests: Annotated[int, "those that delivered nothing"] = 0
    delivered: Annotated[int, "fixes since the start"] = 0
    rate_hz: Annotated[float, "fixes a second over the last minute"] = 0.0
    sent_bytes: Annotated[int, "since the start"] = 0
    sent_bytes_24h: Annotated[int, "in the last 24 hours of uptime"] = 0
    last_delivery_s: Annotated[float | None, "seconds since the last delivery"] = None
    complete_until: Annotated[
        str | None, "time of the newest fix up to which the endpoint accounts for everything"
    ] = None
    last_error: Annotated[str | None, "what went wrong last"] = None
    last_error_s: Annotated[float | None, "seconds since then"] = None
    next_attempt_s: Annotated[float | None, "seconds until the next attempt, while it waits"] = None


@dataclass(frozen=True, slots=True)
class QueueView:
    """What the queue holds."""

    pending: Annotated[int, "fixes to be delivered"] = 0
    in_flight: Annotated[int, "of those, in a request now"] = 0
    uncommitted: Annotated[int, "of those, not yet on disk"] = 0
    delivered: Annotated[int, "fixes still kept after delivery"] = 0
    dead_letters: Annotated[Counts, "refused fixes by reason (ten, and `other reasons`)"] = field(
        default_factory=dict
    )
    lost: Annotated[Counts, "fixes that were lost, by reason"] = field(default_factory=dict)
    file_bytes: Annotated[int, "of the queue file with its log"] = 0
    disk_free_bytes: Annotated[int, "that the agent may still write"] = 0
    full: Annotated[bool, "something is given up for what comes"] = False
    carrying_over: Annotated[bool, "a damaged file still holds more"] = False
    oldest_pending: Annotated[str | None, "time of the oldest pending fix"] = None
    oldest_pending_s: Annotated[float | None, "how much older it is than the newest fix"] = None


@dataclass(frozen=True, slots=True)
class PageView:
    """How the device page does, where it is on."""

    state: Annotated[Literal["ok", "held"], "held: it waits for what last_error says"] = "ok"
    last_error: Annotated[str | None, "why it is held"] = None


@dataclass(frozen=True, slots=True)
class StorageView:
    """Where fixes are kept, if a power cut loses them there."""

    state: Annotated[
        Literal["forgets", "runtime"],
        "runtime: in the runtime directory, because the state directory refuses",
    ] = "forgets"
    last_error: Annotated[str, "what is the matter"] = ""
    remedy: Annotated[str, "what to do about it"] = ""

    def __str__(self) -> str:
        return f"{self.last_error}: {self.remedy}" if self.last_error else ""


@dataclass(frozen=True, slots=True)
class ConfigView:
    """Why the last good config serves in place of the config."""

    state: Annotated[
        Literal["unreadable", "wrong"], "wrong: it can be read, so uploads are held as well"
    ] = "unreadable"
    last_error: Annotated[str, "what is the matter with it"] = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The agent at one moment."""

    protocol: Annotated[int, "version of this description"] = PROTOCOL
    running: Annotated[bool, "whether an agent answered"] = True
    version: Annotated[str, "of the program that runs"] = ""
    device: Annotated[str, "its name"] = ""
    pid: Annotated[int, "of the agent"] = 0
    uptime_s: Annotated[float, "seconds since its start"] = 0.0
    receiver: ReceiverView = ReceiverView()
    upload: UploadView = UploadView()
    queue: QueueView = QueueView()
    page: PageView | None = None
    config: ConfigView | None = None
    storage: StorageView | None = None


@dataclass(frozen=True, slots=True)
class AtRest:
    """What there is to say where no agent runs."""

    protocol: Annotated[int, "version of this description"] = PROTOCOL
    running: Annotated[bool, "whether an agent answered"] = False
    queue: QueueView | None = None
    note: Annotated[str | None, "why the queue cannot be looked at"] = None


def as_json(value: Any) -> Any:
    """A part of the tree as ``json.dumps`` takes it, without what is unknown."""
    if is_dataclass(value):
        named = ((each.name, getattr(value, each.name)) for each in fields(value))
        return {name: as_json(one) for name, one in named if one is not None}
    if isinstance(value, tuple):
        return [as_json(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


def read(kind: type[T], said: object) -> T:
    """The other way round. What is missing or of another type has its default."""
    known: dict[str, Any] = {}
    types_by_name = get_type_hints(kind)
    if isinstance(said, Mapping):
        for name in types_by_name.keys() & said.keys():
            found = _fitting(types_by_name[name], said[name])
            if found is not None:
                known[name] = found
    return kind(**known)


def described(kind: type = Snapshot, path: str = "") -> Iterator[tuple[str, str]]:
    """Each field of the tree with its meaning, for the documentation."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner = _element(hint)
        if is_dataclass(inner):
            listed = "[]" if get_origin(_bare(hint)) is tuple else ""
            yield from described(inner, f"{path}{name}{listed}.")  # type: ignore[arg-type]
        else:
            words = hint.__metadata__[0] if get_origin(hint) is Annotated else ""
            yield f"{path}{name}", words or "one of " + ", ".join(map(str, get_args(hint)))


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _element(hint: Any) -> Any:
    bare = _bare(hint)
    if get_origin(bare) is types.UnionType:
        return next((each for each in get_args(bare) if is_dataclass(each)), bare)
    return get_args(bare)[0] if get_origin(bare) is tuple else bare


def _fitting(hint: Any, said: object) -> object:  # noqa: PLR0911 - one for each kind of type
    """``said`` as a value of that type, or ``None``."""
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        return next((v for h in get_args(hint) if (v := _fitting(h, said)) is not None), None)
    if origin is Literal:
        return said if said in get_args(hint) else None
    if origin is tuple:
        listed = said if isinstance(said, list) else []
        return tuple(read(get_args(hint)[0], one) for one in listed)
    if is_dataclass(hint):
        return read(hint, said)  # type: ignore[arg-type]
    if hint is float:
        return float(said) if type(said) in {int, float} else None  # type: ignore[arg-type]
    if origin is not None:  # counts by reason
        mapping = said if isinstance(said, Mapping) else {}
        return {key: count for key, count in mapping.items() if type(count) is int}
    return said if type(said) is hint else None
