"""What stands in a request besides its body: parameters, each checked. Bad ones raise `InvalidFilter`."""

import re

from quart import request

from trioqueue.errors import InvalidFilter
from trioqueue.jobs.job import Status


def check_parameters(*known: str) -> None:
    """A misspelt or repeated parameter would be passed over in silence."""
    for name, values in request.args.lists():
        if name not in known:
            raise InvalidFilter(name, f"there is no such parameter; use {', '.join(known) or 'none'}")
        if len(values) > 1:
            raise InvalidFilter(name, "give it once; several values are not combined")


def status_filter() -> Status | None:
    text = request.args.get("status")
    if text is None:
        return None
    try:
        return Status(text)
    except ValueError:
        raise InvalidFilter("status", f"{text[:40]!r} is not one of {', '.join(Status)}") from None


def text(name: str) -> str | None:
    text = request.args.get(name)
    if text is not None and "\x00" in text:
        raise InvalidFilter(name, "nothing contains NUL")
    return text


def whole_number(name: str, default: int, *, lowest: int, highest: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not lowest <= int(text) <= highest:
        raise InvalidFilter(name, f"{text[:40]!r} is not a whole number from {lowest} to {highest}")
    return int(text)


def seconds(name: str, default: float, highest: float) -> float:
    text = request.args.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text, re.ASCII) or float(text) > highest:
        raise InvalidFilter(name, f"{text[:40]!r} is not a number of seconds from 0 to {highest:g}")
    return float(text)
