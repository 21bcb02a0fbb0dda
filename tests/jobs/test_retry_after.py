"""What errors say about when to come back."""

from datetime import timedelta
from email.message import Message
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError

import pytest

from trioqueue.jobs.backoff import MOST_SECONDS
from trioqueue.jobs.retry_after import retry_after_seconds

NOW = "Wed, 21 Oct 2026 07:28:00 GMT"
LATER = "Wed, 21 Oct 2026 07:29:30 GMT"


class Told(Exception):
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def answer(**headers: str) -> SimpleNamespace:
    return SimpleNamespace(headers={name.replace("_", "-"): text for name, text in headers.items()})


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (ValueError("it says nothing"), 0),
        (Told(retry_after=12), 12),
        (Told(retry_after="1.5"), 1.5),
        (Told(retry_after=timedelta(minutes=2)), 120),
        (Told(response=answer(Retry_After=" 30 ")), 30),
        (Told(response=answer(Retry_After=LATER, Date=NOW)), 90),
        (Told(response=answer(Retry_After=NOW, Date=LATER)), 0),
        (Told(response=answer()), 0),
        (Told(response=None, headers={"Retry-After": "7"}), 7),
        (Told(retry_after=10**12), MOST_SECONDS),
    ],
)
def test_an_error_can_ask_for_a_later_retry(error: BaseException, seconds: float) -> None:
    assert retry_after_seconds(error) == seconds


def test_the_errors_of_urllib_have_the_headers_themselves() -> None:
    headers = Message()
    headers["Retry-After"] = "45"
    assert retry_after_seconds(HTTPError("http://example.org", 503, "later", headers, None)) == 45


class Hostile(Exception):
    @property
    def retry_after(self) -> float:
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    "error",
    [
        Hostile(),
        Told(retry_after="soon"),
        Told(retry_after=float("nan")),
        Told(retry_after=-5),
        Told(retry_after=[1]),
        Told(response=answer(Retry_After="tomorrow", Date=NOW)),
        Told(response=answer(Retry_After=LATER)),
        Told(response=answer(Retry_After="9" * 5000)),
        Told(headers=3),
    ],
    ids=repr,
)
def test_what_makes_no_sense_asks_for_nothing_that_lasts(error: BaseException) -> None:
    assert retry_after_seconds(error) in (0, MOST_SECONDS)
