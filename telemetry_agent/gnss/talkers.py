"""Who talks: the first two letters of a tag.

The talkers of satellite systems are one owner, because one receiver uses them all and says GN, or
GP for one system and GL for the next. Every other talker (II a plotter, AI an AIS transponder) is
an owner of its own: two of them are two devices.
"""

GNSS = "GN"
"""The owner of everything that a satellite receiver says; also its talker for all systems."""

_GNSS_TALKERS = frozenset(
    {"GN", "GP", "GL", "GA", "GB", "BD", "GQ", "QZ", "QQ", "GI", "IM"}  # IM: indoor beacons
)


def owner_of(talker: str) -> str:
    """Whose a sentence of this talker is."""
    return GNSS if talker in _GNSS_TALKERS else talker
