"""How long a retry waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioqueue.jobs.backoff import CAP_SECONDS, backoff_seconds


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [(1, 2), (2, 4), (3, 8), (11, 2048), (12, 3600), (10_000, 3600)],
)
def test_the_wait_doubles_up_to_an_hour_and_jitter_adds_a_quarter_at_most(attempt: int, seconds: int) -> None:
    assert [backoff_seconds(attempt, jitter) for jitter in (0, 1)] == [seconds, seconds * 1.25]


@given(attempt=st.integers(1, 10_000), jitter=st.floats(0, 1))
def test_backoff_grows_and_stays_within_its_bounds(attempt: int, jitter: float) -> None:
    wait = backoff_seconds(attempt, jitter)
    assert 2 <= wait <= CAP_SECONDS * 1.25
    assert backoff_seconds(attempt + 1, jitter) >= wait
