"""What an attempt came to, in words: for the job, for the ledger, and however odd the error is."""

from types import TracebackType

import pytest

from trioqueue.jobs.job import Json
from trioqueue.jobs.outcome import (
    DEEPEST_GROUP,
    ERROR_CHARACTERS,
    Cancelled,
    Completed,
    Failed,
    Lost,
    Outcome,
    Released,
    Snoozed,
    TimedOut,
    error_of,
    failed_from,
    first_line,
    storable,
)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    "error", [Unspeakable(), ValueError("nul \x00 and \ud800"), SystemExit(3), ValueError("x" * 100_000)]
)
def test_recording_a_failure_can_never_fail(error: BaseException) -> None:
    text = failed_from(error).error
    assert "\x00" not in text
    assert len(text.encode("utf-8")) < 40_000


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no water\nin the kettle"), "ValueError: no water"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        (Unspeakable(), "Unspeakable (its text could not be read)"),
        (ValueError("x" * 100_000), "ValueError: " + "x" * 488),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_a_reason_is_the_error_and_its_first_line(error: BaseException, reason: str) -> None:
    assert failed_from(error).reason == reason


def nested(depth: int) -> BaseException:
    error: BaseException = KeyError("x")
    for _ in range(depth):
        error = BaseExceptionGroup("nursery", [error])
    return error


def test_a_group_with_one_error_is_named_by_it() -> None:
    failed = failed_from(nested(2))
    assert failed.reason == "KeyError: 'x'"
    assert failed.error == "KeyError: 'x'\n"


def test_a_group_with_two_errors_is_named_as_a_group() -> None:
    group = ExceptionGroup("nursery", [KeyError("x"), ValueError("y")])
    assert failed_from(group).reason == "ExceptionGroup: nursery (2 sub-exceptions)"


def test_a_group_within_very_many_groups_is_not_followed_for_ever() -> None:
    assert failed_from(nested(DEEPEST_GROUP)).reason == "KeyError: 'x'"
    assert failed_from(nested(DEEPEST_GROUP + 1)).reason.startswith("ExceptionGroup: nursery")


OURS = "/site-packages/trioqueue/runtime/attempt.py"
THEIRS = "/home/ada/handlers.py"


def raised_through(*files: str) -> BaseException:
    """An error that was raised in the last of these files, which the others called."""
    source = "def call(rest): rest[0](rest[1:]) if rest else int('tea')"
    calls = []
    for file in files:
        names: dict[str, object] = {}
        exec(compile(source, file, "exec"), names)
        calls.append(names["call"])
    try:
        calls[0](calls[1:])  # type: ignore[operator]
    except ValueError as error:
        here: TracebackType | None = error.__traceback__
        assert here is not None
        return error.with_traceback(here.tb_next)  # without this function
    raise AssertionError


def test_a_traceback_begins_at_the_handler() -> None:
    text = failed_from(raised_through(OURS, OURS, THEIRS, OURS)).error
    assert text.startswith(f'Traceback (most recent call last):\n  File "{THEIRS}"')
    assert text.count(OURS) == 1  # what the handler called itself stays


def test_an_error_of_ours_alone_keeps_its_traceback() -> None:
    assert failed_from(raised_through(OURS, OURS)).error.count(OURS) == 2


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Completed(Json(b"1")), None),
        (Cancelled(), None),
        (Failed("Traceback …", summary="KeyError"), "Traceback …"),
        (TimedOut("timed out after 3 s"), "timed out after 3 s"),
        (Snoozed(5, "rate limit"), "rate limit"),
        (Snoozed(5), None),
        (Released("the node stopped"), "the node stopped"),
        (Lost("n1"), "node n1 went silent"),
    ],
)
def test_the_ledger_says_why(outcome: Outcome, error: str | None) -> None:
    assert error_of(outcome) == error


def test_a_failure_without_a_summary_is_named_by_its_first_line() -> None:
    assert Failed("\nthe payload does not fit:\n  tea is missing").reason == "the payload does not fit"


def test_a_first_line_can_be_stored() -> None:
    assert first_line("a\x00b") == "a\\x00b"


def test_a_long_error_loses_its_middle() -> None:
    assert storable("x" * ERROR_CHARACTERS) == "x" * ERROR_CHARACTERS
    head, said, tail = storable("a" * 4000 + "b" * 1001 + "c" * 4000).split("\n")
    assert (head, said, tail) == ("a" * 4000, "… 1001 characters left out …", "c" * 4000)


def test_what_no_store_can_keep_is_spelled_out() -> None:
    assert storable("a\x00b \ud800 é") == "a\\x00b \\ud800 é"
