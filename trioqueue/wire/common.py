"""What the shapes have in common: ids, instants, bounds, and how an answer becomes text."""

import re
from datetime import UTC, datetime, timedelta

import msgspec

from trioqueue.errors import InvalidJob
from trioqueue.jobs.job import JobId, Json

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)

LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""Instants outside of these are mistakes, and some clients and databases cannot hold them."""

ID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

LONGEST_SECONDS = 10_000_000

NULL = msgspec.Raw(b"null")


def check_range(pointer: str, value: float | None, lowest: float, highest: float) -> None:
    if value is not None and not lowest <= value <= highest:
        raise InvalidJob(pointer, f"{value!r} is not from {lowest!r} to {highest!r}")


def check_instant(pointer: str, value: datetime | None) -> None:
    if value is None:
        return
    if value.tzinfo is None:
        raise InvalidJob(pointer, "a time zone is missing; send UTC, like 2030-01-31T12:00:00Z")
    if not EARLIEST + timedelta(days=1) <= value.replace(tzinfo=UTC) <= LATEST - timedelta(days=1):
        raise InvalidJob(pointer, "the year must be from 2000 to 2199")


def raw(text: Json | None) -> msgspec.Raw:
    return NULL if text is None else msgspec.Raw(text)


def parse_job_id(text: str) -> JobId | None:
    """A job id as it stands in a URL; None when no job can have it."""
    return JobId(text) if ID_PATTERN.fullmatch(text) else None


render = msgspec.json.Encoder().encode
"""Any answer as JSON. Instants are RFC 3339 in UTC."""
