"""How long a retry waits, and which errors are worth one."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioqueue.jobs.backoff import DEFAULT_RETRY, MOST_SECONDS, Retry


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [(1, 2), (2, 4), (3, 8), (11, 2048), (12, 3600), (10_000, 3600)],
)
def test_the_wait_doubles_up_to_an_hour_and_jitter_adds_a_quarter_at_most(attempt: int, seconds: int) -> None:
    waits = [DEFAULT_RETRY.wait_seconds(attempt, jitter) for jitter in (0, 1)]
    assert waits == [seconds, seconds * 1.25]


def test_base_factor_longest_and_spread_can_be_chosen() -> None:
    retry = Retry(base_seconds=10, factor=3, longest_seconds=100, spread=0.5)
    assert [retry.wait_seconds(attempt, 0) for attempt in (0, 1, 2, 3, 4)] == [10, 10, 30, 90, 100]
    assert retry.wait_seconds(1, 1) == 15


@given(
    base=st.floats(0, 3600),
    factor=st.floats(1, 1000),
    longest=st.floats(3600, MOST_SECONDS),
    spread=st.floats(0, 1),
    attempt=st.integers(1, 1000),
    jitter=st.floats(0, 1),
)
def test_backoff_grows_and_stays_within_its_bounds(
    base: float, factor: float, longest: float, spread: float, attempt: int, jitter: float
) -> None:
    retry = Retry(base_seconds=base, factor=factor, longest_seconds=longest, spread=spread)
    wait = retry.wait_seconds(attempt, jitter)
    assert base <= wait <= longest * (1 + spread)
    assert retry.wait_seconds(attempt + 1, jitter) >= wait


def test_no_wait_stays_no_wait_after_any_number_of_failures() -> None:
    assert Retry(base_seconds=0.0, factor=1000.0).wait_seconds(1000, 1) == 0


def test_the_nearest_class_of_an_error_decides() -> None:
    patient, hasty = Retry(base_seconds=60), Retry(base_seconds=0.1)
    retry = Retry(by_error={OSError: patient, ConnectionResetError: hasty, LookupError: None})
    assert retry.for_error(ConnectionResetError()) is hasty
    assert retry.for_error(ConnectionRefusedError()) is patient
    assert retry.for_error(KeyError()) is None
    assert retry.for_error(ZeroDivisionError()) is retry


@pytest.mark.parametrize(
    "fields",
    [
        {"base_seconds": -1},
        {"base_seconds": math.nan},
        {"factor": 0.5},
        {"factor": math.inf},
        {"base_seconds": 10, "longest_seconds": 9},
        {"longest_seconds": MOST_SECONDS + 1},
        {"spread": 1.1},
    ],
)
def test_numbers_that_make_no_wait_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{list(fields)[-1]}=.* must be from"):
        Retry(**fields)


@pytest.mark.parametrize("by_error", [{int: None}, {"ValueError": None}, {ValueError: 5}])
def test_what_is_no_policy_for_errors_is_refused(by_error: dict[type[BaseException], Retry | None]) -> None:
    with pytest.raises(TypeError, match="by_error: "):
        Retry(by_error=by_error)


def test_a_policy_cannot_be_changed_from_outside() -> None:
    by_error: dict[type[BaseException], Retry | None] = {ValueError: None}
    retry = Retry(by_error=by_error)
    by_error.clear()
    assert retry.for_error(ValueError()) is None
