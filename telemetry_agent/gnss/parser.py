"""Which sentences are read, and whose they are.

The talker is the first two letters of a tag. All talkers of satellite systems are one owner,
because one receiver uses them all: it sends GN, or GP for one system and GL for the next. Every
other talker (II is a plotter, AI an AIS transponder) is an owner of its own, so two such talkers
are two devices.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from telemetry_agent.gnss.framing import Sentence
from telemetry_agent.gnss.sentences import MISSING, SYSTEM_IDS, FieldReader, Message, gsa

GNSS = "GN"
"""The owner of all sentences of a satellite receiver; also its talker for all systems."""

_GNSS_TALKERS = {*SYSTEM_IDS, "IM"}  # indoor beacons


def owner_of(talker: str) -> str:
    """The owner of a talker's sentences."""
    return GNSS if talker in _GNSS_TALKERS else talker


class Kind(NamedTuple):
    """What a sentence with one tag is, and how it is read."""

    owner: str
    name: str = ""
    """The three letters of a type that is used."""
    read: Callable[[Sentence], Message | None] | None = None
    """Reads its fields, None if it is damaged. Types without it have nothing for a fix."""


IN_VIEW = Kind(GNSS, "GSV")
_UNUSED = Kind("")  # a bad tag, or `$P…`, whatever follows: a `PGRMC` is not an RMC

_TAG = re.compile("[A-Z0-9]{5}")
_KINDS_AT_MOST = 500
_NAMES_AT_MOST = 6


class Parser:
    """Reads the sentences that a fix is made of; ``rejected`` counts what is wrong with them.

    ``bad-tag``: the tag is not five capital letters or digits. ``short``: the sentence has fewer
    fields than its type needs. Both are dropped whole. See ``FieldReader`` for the rest.
    """

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()
        self.proprietary: set[str] = set()
        """The first few names of proprietary sentences."""
        self.only_proprietary = True
        self.kinds: dict[str, Kind] = {}
        """By the first six characters (the tag and its comma). ``kind`` finds what is missing."""
        types = FieldReader(self.rejected).types.items()
        self._read = {"GSA": self._gsa} | {name: self._reader(*type_) for name, type_ in types}

    def kind(self, sentence: Sentence) -> Kind:
        """What this sentence is, for any talker. A bad tag is counted."""
        tag = sentence.partition(",")[0]
        if tag[:1] == "P" and tag.isalnum():
            kind = _UNUSED
            if len(self.proprietary) < _NAMES_AT_MOST:
                self.proprietary.add(tag)
        elif not _TAG.fullmatch(tag):
            self.rejected["bad-tag"] += 1
            return _UNUSED
        else:
            kind = self._kind_of(owner_of(tag[:2]), tag[2:])
            self.only_proprietary = False
        if len(self.kinds) >= _KINDS_AT_MOST:
            self.kinds.clear()  # damaged tags, of which there are millions
        self.kinds[sentence[:6]] = kind
        return kind

    def _kind_of(self, owner: str, name: str) -> Kind:
        if name == "GSV" and owner == GNSS:
            return IN_VIEW
        if name == "TXT":
            return Kind(owner, name)
        return Kind(owner, name, self._read[name]) if name in self._read else Kind(owner)

    def _gsa(self, sentence: Sentence) -> Message | None:
        found = gsa(sentence)
        if found is None:
            self.rejected["short"] += 1
        return found

    def _reader(
        self, least: int, full: int, read: Callable[[list[str]], Message]
    ) -> Callable[[Sentence], Message | None]:
        """A function that reads the sentences of one type (see ``FieldReader.types``)."""

        def read_sentence(sentence: Sentence) -> Message | None:
            fields = sentence.split(",")
            if " " in sentence:
                fields = [field.strip() for field in fields]  # some pad their numbers
            if len(fields) < full:
                if len(fields) < least:
                    self.rejected["short"] += 1
                    return None
                fields += MISSING
            return read(fields)

        return read_sentence
