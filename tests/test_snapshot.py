import json
import types
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from telemetry_agent.model import Satellite
from telemetry_agent.snapshot import (
    PROTOCOL,
    QueueView,
    ReceiverView,
    Snapshot,
    UploadView,
    as_json,
    read,
)

FULL = Snapshot(
    version="1.0.0",
    device="van-07",
    pid=17,
    uptime_s=12.5,
    receiver=ReceiverView(
        source="/dev/ttyACM0",
        state="3d",
        fixes=12,
        rejected={"checksum": 2},
        satellites=(Satellite("Galileo", 7, 40, 210, 44, used=True), Satellite()),
        antenna="OK",
        mode=3,
        quality="rtk",
        hdop=0.9,
    ),
    upload=UploadView(host="example.com", state="held", last_error="401", next_attempt_s=3.0),
    queue=QueueView(pending=3, lost={"thinned": 4}, oldest_pending="2026-11-23T12:35:19.000Z"),
)


def test_it_survives_the_socket() -> None:
    assert read(Snapshot, json.loads(json.dumps(as_json(FULL)))) == FULL
    assert read(Snapshot, as_json(Snapshot())) == Snapshot()


def test_the_unknown_is_absent_in_json() -> None:
    said = as_json(Snapshot())
    assert said["protocol"] == PROTOCOL
    assert "antenna" not in said["receiver"]
    assert said["queue"]["lost"] == {}


def test_what_another_version_says_is_read_as_far_as_it_is_understood() -> None:
    said = as_json(FULL)
    said["protocol"] = PROTOCOL + 7
    said["shoe_size"] = 43
    said["receiver"]["state"] = "asleep"  # a state of a later version
    said["receiver"]["fixes"] = "twelve"
    said["receiver"]["hdop"] = float("nan")
    said["receiver"]["rate_hz"] = float("inf")
    said["receiver"]["antenna"] = 1
    said["receiver"]["satellites"] = {"GPS": 7}
    said["upload"] = ["held"]
    said["queue"]["pending"] = True
    said["queue"]["dead_letters"] = 3
    del said["queue"]["full"]
    said["queue"]["lost"] = {"thinned": 4, "eaten": "some"}
    snapshot = read(Snapshot, said)
    assert snapshot.protocol == PROTOCOL + 7
    assert (snapshot.receiver.state, snapshot.receiver.fixes) == ("absent", 0)
    assert (snapshot.receiver.hdop, snapshot.receiver.rate_hz) == (None, 0.0)
    assert (snapshot.receiver.antenna, snapshot.receiver.satellites) == (None, ())
    assert snapshot.upload == UploadView()
    assert snapshot.queue.lost == {"thinned": 4}
    assert (snapshot.queue.pending, snapshot.queue.dead_letters) == (0, {})
    assert read(Snapshot, None) == Snapshot()


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


def test_every_field_is_described() -> None:
    meanings = dict(described())
    assert (
        meanings["receiver.satellites[].snr_db"]
        == "C/N0 of its best signal in dB-Hz; absent: not tracked"
    )
    assert meanings["queue.in_flight"] == "pending fixes that a request carries now"
    assert all(meanings.values())


def test_the_table_in_the_documentation_is_this_description() -> None:
    table = "".join(f"| `{path}` | {meaning} |\n" for path, meaning in described())
    assert table in (Path(__file__).parent.parent / "docs/operations.md").read_text()
