"""When the next attempt comes: how long a retry waits, and which errors are not worth one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

MOST_SECONDS = 30 * 86400.0
"""No retry waits longer, whatever it is made to ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How long a failed job waits, by the number of its failures, and what depends on the error.

    Exponential, so that a broken dependency is left in peace: `base_seconds` after the first failure,
    `factor` times as long after each further one, at most `longest_seconds`. To each wait up to
    `spread` of it is added at random, so that jobs that failed together do not come back together.

    `by_error` names classes of errors that are retried in another way, or, with None, not at all: the
    job is dead at once. The class that is nearest to the error's own in its bases counts. A policy
    found there is used as it is; its own `by_error` is not looked at.

    Raises ValueError for numbers that make no wait, TypeError for a key that is no exception class.
    """

    base_seconds: float = 2.0
    factor: float = 2.0
    longest_seconds: float = 3600.0
    spread: float = 0.25
    by_error: "Mapping[type[BaseException], Retry | None]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("base_seconds", self.base_seconds, 0, MOST_SECONDS)
        _check("factor", self.factor, 1, 1000)
        _check("longest_seconds", self.longest_seconds, self.base_seconds, MOST_SECONDS)
        _check("spread", self.spread, 0, 1)
        for kind, retry in self.by_error.items():
            if BaseException not in getattr(kind, "__mro__", ()):
                raise TypeError(f"by_error: {kind!r} is no class of exceptions")
            if not (retry is None or isinstance(retry, Retry)):
                raise TypeError(f"by_error: {kind.__name__} needs a Retry, or None for no retry at all")
        object.__setattr__(self, "by_error", MappingProxyType(dict(self.by_error)))

    def for_error(self, error: BaseException) -> "Retry | None":
        """The policy for an attempt that raised `error`; None when it is not to be retried."""
        for kind in type(error).__mro__:
            if kind in self.by_error:
                return self.by_error[kind]
        return self

    def wait_seconds(self, attempt: int, jitter: float) -> float:
        """Seconds to wait after the `attempt`-th failure. `jitter` is a random number from 0 to 1,
        drawn by the caller. Never less than without jitter, never more than 1 + `spread` times that.
        """
        try:
            wait = self.base_seconds * self.factor ** max(attempt - 1, 0)
        except OverflowError:
            wait = math.inf if self.base_seconds else 0.0
        return min(wait, self.longest_seconds) * (1 + self.spread * jitter)


def _check(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:  # NaN is nowhere
        raise ValueError(f"{name}={value!r} must be from {lowest:g} to {highest:g}")


DEFAULT_RETRY = Retry()
"""2, 4, 8 … seconds, at most an hour, plus up to a quarter."""
