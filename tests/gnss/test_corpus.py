"""Recordings of real receivers: the decoder finds the same fixes as gpsd, and no others."""

import os
import re

import corpus
import pytest

from telemetry_agent.gnss.decoder import Decoder
from telemetry_agent.model import Fix

_RECORDINGS = {recording.name: recording for recording in corpus.recordings()}
_LINE_BYTES_S = 960.0
_TIMED = re.compile(rb"\$..(?:(?:RMC|GGA|GNS|ZDA|GBS),|GLL,(?:[^,]*,){4})(?P<time>[0-9.]+)")


def test_the_recordings_are_there() -> None:
    if not _RECORDINGS and "CI" not in os.environ:
        pytest.skip(f"no recordings in {corpus.FOLDER}: set TELEMETRY_AGENT_CORPUS to their folder")
    assert len(_RECORDINGS) == 72


def _assert_as_gpsd(name: str, fixes: list[Fix]) -> None:
    recording = _RECORDINGS[name]
    result = corpus.compare(recording, fixes)
    if recording.ambiguous is None:
        assert (result.missing, result.wrong, result.phantom) == ([], [], [])
    else:
        assert (result.missing, result.phantom) == ([], [])


@pytest.mark.parametrize("name", _RECORDINGS)
def test_every_fix_of_gpsd_is_found(name: str) -> None:
    _assert_as_gpsd(name, corpus.decode(_RECORDINGS[name].data))


@pytest.mark.parametrize("name", _RECORDINGS)
@pytest.mark.parametrize("size", [1, 61])
def test_the_cut_into_chunks_never_matters(name: str, size: int) -> None:
    data = _RECORDINGS[name].data[:100_000]
    expected = Decoder(fix_rollover=False, eager=False)
    fixes = expected.feed(data, 0.0) + expected.finish()
    decoder = Decoder(fix_rollover=False, eager=False)
    found: list[Fix] = []
    for start in range(0, len(data), size):
        found += decoder.feed(data[start : start + size], 0.0)
    assert (found + decoder.finish(), decoder.counts) == (fixes, expected.counts)


@pytest.mark.parametrize("name", _RECORDINGS)
def test_a_live_line_gives_what_the_recording_gives(name: str) -> None:
    """The pace is that of a line at 9600 baud with a pause before each change of time."""
    decoder = Decoder(fix_rollover=False)
    now_s = 0.0
    last_time = 0.0
    fixes: list[Fix] = []
    for sentence in _RECORDINGS[name].data.splitlines(keepends=True):
        if timed := _TIMED.search(sentence):
            time = float(timed["time"])
            due_s = decoder.due_s()
            if abs(time - last_time) > 0.0101 and due_s is not None:
                now_s = max(now_s, due_s)
                fixes += decoder.tick(now_s)
            last_time = time
        fixes += decoder.feed(sentence, now_s)
        now_s += len(sentence) / _LINE_BYTES_S
    _assert_as_gpsd(name, fixes + decoder.finish())
