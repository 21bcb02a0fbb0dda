"""The public conformance suite: one test for each promise of `trioqueue.store.protocol`.

For whoever writes a store. Subclass it in a test module and say how a fresh store is opened:

    class TestMyStore(StoreConformance):
        @pytest.fixture
        async def store(self, clock: HandClock) -> AsyncIterator[Store]:
            async with open_my_store(clock=clock) as store:
                yield store

Needs pytest and pytest-trio. No test sleeps: time passes when a test moves the clock by hand.
For readable failures call `pytest.register_assert_rewrite("trioqueue.testing.conformance")` in
a conftest.py before the import.
"""

from trioqueue.testing.conformance.claiming import ClaimConformance
from trioqueue.testing.conformance.enqueueing import EnqueueConformance
from trioqueue.testing.conformance.operating import OperateConformance
from trioqueue.testing.conformance.settling import SettleConformance
from trioqueue.testing.conformance.tools import (
    ALICE,
    BOB,
    SECOND,
    HandClock,
    claim,
    claim_one,
    enqueue,
    everything,
    new_job,
    run_once,
    settle,
)
from trioqueue.testing.conformance.transactions import TransactionPromises
from trioqueue.testing.conformance.watching import WatchConformance

__all__ = [
    "ALICE",
    "BOB",
    "SECOND",
    "HandClock",
    "StoreConformance",
    "TransactionConformance",
    "claim",
    "claim_one",
    "enqueue",
    "everything",
    "new_job",
    "run_once",
    "settle",
]


class StoreConformance(
    EnqueueConformance, ClaimConformance, SettleConformance, OperateConformance, WatchConformance
):
    """One test for each promise. `store` must be overridden; it must be empty and go by `clock`."""


class TransactionConformance(StoreConformance, TransactionPromises):
    """The promises of `transaction`, too: for a store that has it."""
