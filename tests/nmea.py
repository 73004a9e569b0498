"""Sentences for tests, as a receiver sends them, with checksum."""

from functools import reduce
from operator import xor


def line(body: str) -> bytes:
    """Turn ``GPRMC,…`` into ``$GPRMC,…*hh`` with a line end."""
    return f"${body}*{reduce(xor, body.encode(), 0):02X}\r\n".encode()


def rmc(time: str, *, status: str = "A", date: str = "231126", talker: str = "GP") -> bytes:
    """An RMC sentence at a place in Bavaria."""
    return line(f"{talker}RMC,{time},{status},4807.038,N,01131.000,E,022.4,084.4,{date},,,A")


def gga(time: str, *, quality: str = "1", talker: str = "GP") -> bytes:
    """A GGA sentence at the same place, with altitude."""
    return line(f"{talker}GGA,{time},4807.038,N,01131.000,E,{quality},08,0.9,545.4,M,46.9,M,,")
