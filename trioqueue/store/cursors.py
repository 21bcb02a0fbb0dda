"""Where a page of a list ends, as the opaque text that clients send back for the next one."""

import re

from trioqueue.errors import InvalidFilter

LAST_PLACE = 2**63 - 1
"""No job comes after it: a list without a cursor begins here."""

_CURSOR = re.compile(r"[1-9][0-9]{0,17}")


def cursor_of(place: int) -> str:
    """`place` is the last listed job's place in the order of acceptance: 1, 2, 3 …"""
    return str(place)


def place_of(cursor: str) -> int:
    if not _CURSOR.fullmatch(cursor):
        raise InvalidFilter("cursor", "no page ends there; send the next_cursor of a page, unchanged")
    return int(cursor)
