"""How long to wait before the next attempt."""

BASE_SECONDS = 2.0
CAP_SECONDS = 3600.0
SPREAD = 0.25


def backoff_seconds(attempt: int, jitter: float) -> float:
    """Seconds to wait after the `attempt`-th failure: 2, 4, 8 … at most an hour, plus up to a quarter.

    Exponential, so that a broken dependency is left in peace; the added `jitter` (a random
    number from 0 to 1, drawn by the caller) keeps jobs that failed together from coming back
    together. Never negative, and never more than 1.25 hours.
    """
    exponent = min(max(attempt - 1, 0), 30)
    return min(BASE_SECONDS * 2.0**exponent, CAP_SECONDS) * (1 + SPREAD * jitter)
