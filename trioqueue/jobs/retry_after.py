"""What an error says about when to come back: HTTP's `Retry-After`, and errors that carry the like.

The law of this file: it never raises. Errors are other people's classes, and whatever is wrong with
what they say only means that they say nothing.
"""

import math
import re
from datetime import timedelta
from email.utils import parsedate_to_datetime

from trioqueue.jobs.backoff import MOST_SECONDS


def retry_after_seconds(error: BaseException) -> float:
    """In how many seconds `error` asks for another try at the earliest; 0 when it does not say.

    It says so with an attribute `retry_after` (seconds, or a timedelta), or with the header
    `Retry-After` (RFC 9110, section 10.2.3) of its `response` or of itself, as the errors of requests,
    httpx and urllib do. A date there is counted from the response's own `Date`, so that nobody
    need compare clocks.
    """
    try:
        return _bounded(_asked(error))
    except Exception:  # a property of somebody's error that raises, a header of some other type
        return 0.0


def _asked(error: BaseException) -> float:
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, timedelta):
        return asked.total_seconds()
    if asked is not None:
        return float(asked)
    for owner in (getattr(error, "response", None), error):
        headers = getattr(owner, "headers", None)
        if headers is not None:
            return _from_headers(headers.get("Retry-After"), headers.get("Date"))
    return 0.0


def _from_headers(retry_after: str | None, date: str | None) -> float:
    if retry_after is None:
        return 0.0
    if re.fullmatch(r"\s*[0-9]+\s*", retry_after, re.ASCII):
        return float(retry_after)
    until, now = parsedate_to_datetime(retry_after), parsedate_to_datetime(str(date))
    return (until - now).total_seconds()


def _bounded(seconds: float) -> float:
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), MOST_SECONDS)
