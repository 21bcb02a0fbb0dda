"""The clocks of the simulation: the store's, which is true, and those of the nodes, which are not."""

from datetime import datetime, timedelta

import trio

from trioqueue.clock import EPOCH_OF_TESTS
from trioqueue.store.rows import microseconds


def instant_at(seconds: float) -> datetime:
    """The true wall time so many seconds after the beginning."""
    return EPOCH_OF_TESTS + timedelta(seconds=seconds)


def microseconds_at(seconds: float) -> int:
    return microseconds(instant_at(seconds))


class TrueClock:
    """The store's."""

    def now(self) -> datetime:
        return instant_at(trio.current_time())


class WrongClock:
    """A node's: it started wrong, runs too fast or too slow, and somebody sets it now and then."""

    def __init__(self, offset: float, drift: float) -> None:
        self.offset = offset
        self.drift = drift

    def now(self) -> datetime:
        return instant_at(trio.current_time() * (1 + self.drift) + self.offset)

    def step(self, seconds: float) -> None:
        self.offset += seconds
