import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from telemetry_agent.fields import fix_fields
from telemetry_agent.model import Batch, Fix, Record
from telemetry_agent.upload.formats.native import encode

STREAM = "9f0c2d0000000000"
FIX = Fix(1764426119000, 48_117300000, 11_516667000, alt_mm=545400, mode=3, sats=8)


def batch_of(*seqs: int, stream: str = STREAM) -> Batch:
    records = tuple(Record(stream, seq, "van-07", FIX) for seq in seqs)
    return Batch(1, stream, "van-07", records, live=False)


BATCH = batch_of(17, 18, 19)


def test_the_body_is_that_of_the_contract() -> None:
    payload = encode(batch_of(17), compression="none")
    assert (
        payload.body
        == json.dumps(
            {
                "format": "native/1",
                "device": "van-07",
                "stream": STREAM,
                "fixes": [{"seq": 17, **fix_fields(FIX)}],
            },
            separators=(",", ":"),
        ).encode()
    )
    assert payload.headers.keys() == {"Content-Type", "Idempotency-Key"}
    assert payload.headers["Content-Type"] == "application/json"
    assert not payload.compressed


def test_a_device_that_is_no_unicode_does_not_stop_the_upload() -> None:
    payload = encode(Batch(1, STREAM, "v\udcff", BATCH.records, live=False), compression="none")
    assert json.loads(payload.body)["device"] == "v\udcff"


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(1, 50), min_size=1, max_size=6, unique=True),
    st.sampled_from(["none", "gzip"]),
)
def test_the_key_is_the_same_exactly_for_the_same_names(
    one: list[int], other: list[int], how: Any
) -> None:
    def key(batch: Batch) -> str:
        return encode(batch, compression=how).headers["Idempotency-Key"]

    assert key(batch_of(*one)).startswith('"')
    assert key(batch_of(*one)).endswith('"')
    assert (key(batch_of(*one)) == key(batch_of(*other))) == (one == other)
    assert key(batch_of(*one)) != key(batch_of(*one, stream="0" * 16))


# Reports about the agent


def test_a_report_travels_with_fixes_or_alone() -> None:
    report = {"receiver": "3d", "lost": {}}
    with_fixes = json.loads(encode(BATCH, compression="none", agent=report).body)
    assert with_fixes == json.loads(encode(BATCH, compression="none").body) | {"agent": report}
    alone = json.loads(encode(batch_of(), compression="none", agent=report).body)
    assert (alone["fixes"], alone["agent"]) == ([], report)


def test_a_report_is_part_of_the_key() -> None:
    batches, agents = (batch_of(), BATCH), (None, {"pending": 1}, {"pending": 2})
    keys = {
        encode(batch, compression="none", agent=agent).headers["Idempotency-Key"]
        for batch in batches
        for agent in agents
    }
    assert len(keys) == 6
    again = encode(batch_of(), compression="gzip", agent={"pending": 1})
    assert again.headers["Idempotency-Key"] in keys
