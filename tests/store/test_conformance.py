"""Every store keeps every promise."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.store.postgres.conftest import RELAXED
from tests.transactional import TransactionalStore
from trioqueue.clock import run_in_thread, run_inline
from trioqueue.jobs.job import NodeId
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Store
from trioqueue.testing.conformance import HandClock, StoreConformance, TransactionConformance

NODE = NodeId("this node")


class TestMemory(StoreConformance):
    @pytest.fixture
    async def store(self, clock: HandClock) -> AsyncIterator[Store]:
        async with open_store("memory:", clock=clock, random=Random(0), node=NODE) as store:
            yield store


class TestMemoryWithTransactions(TransactionConformance):
    """The suite itself, before a server is asked to keep it."""

    @pytest.fixture
    def store(self, clock: HandClock) -> Store:
        return TransactionalStore(clock, Random(0))


class TestSqlite(StoreConformance):
    @pytest.fixture
    async def store(self, clock: HandClock, tmp_path: Path) -> AsyncIterator[Store]:
        async with open_store(
            f"sqlite:///{tmp_path}/jobs.db", clock=clock, random=Random(0), node=NODE, run_sync=run_inline
        ) as store:
            yield store


class TestSqliteInThread(StoreConformance):
    @pytest.fixture
    async def store(self, clock: HandClock, tmp_path: Path) -> AsyncIterator[Store]:
        async with open_store(
            f"sqlite:///{tmp_path}/jobs.db", clock=clock, random=Random(0), node=NODE, run_sync=run_in_thread
        ) as store:
            yield store


class TestPostgres(TransactionConformance):
    @pytest.fixture
    async def store(self, clock: HandClock, postgres_database: str) -> AsyncIterator[Store]:
        async with open_store(
            postgres_database, clock=clock, random=Random(0), node=NODE, postgres=RELAXED
        ) as store:
            yield store
