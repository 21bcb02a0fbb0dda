"""A store that faults come through keeps every promise of a store while none comes."""

from random import Random

import pytest

from tests.transactional import TransactionalStore
from trioqueue.store.protocol import Store
from trioqueue.testing.conformance import ALICE, HandClock, TransactionConformance
from trioqueue.testing.faults import Faults, FaultyStore


class TestFaultyStore(TransactionConformance):
    @pytest.fixture
    def store(self, clock: HandClock) -> Store:
        return FaultyStore(TransactionalStore(clock, Random(0)), Faults(), ALICE)
