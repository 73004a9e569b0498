"""Made-up fixes for exports, in the form that a queue returns."""

from collections.abc import Sequence
from typing import Any, get_args

from hypothesis import strategies as st

from telemetry_agent.ackqueue.row_states import State
from telemetry_agent.ackqueue.stats import Stored
from telemetry_agent.export import FORMATS
from telemetry_agent.export.track import Gaps
from telemetry_agent.model import Fix, Flag, Quality, Record

START_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z
HERE = Fix(START_MS, 48_117300000, 11_516667000, mode=3)
STREAM = "00000000000000aa"


def stored(fix: Fix, *, device: str = "van-07", stream: str = STREAM, seq: int = 1) -> Stored:
    return Stored(Record(stream, seq, device, fix), State.READY, None)


def drive(*fixes: Fix) -> list[Stored]:
    """Stored fixes of one run."""
    return [stored(fix, seq=seq) for seq, fix in enumerate(fixes, 1)]


def after(seconds: float, fix: Fix = HERE, **changed: Any) -> Fix:
    """The same fix, ``seconds`` later, with the given changes."""
    return fix._replace(time_ms=fix.time_ms + round(seconds * 1000), **changed)


def text_of(name: str, fixes: Sequence[Stored], sizes: Sequence[int] = (1000,)) -> str:
    """The whole export file, written in pieces of these sizes, in turn."""
    chunks: list[Sequence[Stored]] = []
    place = 0
    while place < len(fixes):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(fixes[place : place + size])
        place += size
    return "".join(FORMATS[name].pieces(chunks, Gaps()))


def _maybe(low: int, high: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(low, high)


_PLACES = st.sampled_from([0, 1, -1, 50, 180_000_000_000, -180_000_000_000, 179_999999999])

FIXES = st.builds(
    Fix,
    time_ms=st.integers(0, 4_000_000_000_000),
    lat_e9=st.integers(-90_000_000_000, 90_000_000_000),
    lon_e9=_PLACES | st.integers(-180_000_000_000, 180_000_000_000),
    alt_mm=_maybe(-500_000, 20_000_000),
    geoid_sep_mm=_maybe(-110_000, 90_000),
    speed_mm_s=_maybe(0, 400_000),
    course_mdeg=_maybe(0, 359_999),
    mode=st.sampled_from([2, 3]),
    quality=st.sampled_from(get_args(Quality)),
    hdop_e2=_maybe(1, 8999),
    vdop_e2=_maybe(1, 8999),
    pdop_e2=_maybe(1, 8999),
    sats=_maybe(0, 99),
    err_h_mm=_maybe(0, 10**7),
    err_v_mm=_maybe(0, 10**7),
    odo_m=_maybe(0, 10**9),
    flags=st.lists(st.sampled_from(get_args(Flag)), unique=True).map(tuple),
    extra=st.none() | st.sampled_from(['{"cpu_temp_C":48.3}', '{"door":"half, \\"open\\""}']),
)
_NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@st.composite
def runs(draw: st.DrawFn) -> list[Stored]:
    """Possible contents of a queue: several devices and streams, near and far places, any times."""
    told: list[Stored] = []
    for _ in range(draw(st.integers(0, 4))):
        device, stream = draw(_NAMES), draw(st.sampled_from([STREAM, "f" * 16]))
        fix = draw(FIXES)
        for _ in range(draw(st.integers(1, 6))):
            state = draw(st.sampled_from([s for s in State if s > 0]))
            told.append(Stored(Record(stream, len(told) + 1, device, fix), state, None))
            fix = draw(FIXES | st.just(after(1, fix)) | st.just(after(1, fix, lon_e9=-fix.lon_e9)))
    return told
