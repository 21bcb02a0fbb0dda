"""PostgreSQL stores for tests: a database of its own for each."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from random import Random
from typing import Any

import psycopg
import pytest
import trio

from trioqueue.clock import WallClock
from trioqueue.jobs.job import NodeId
from trioqueue.store.open import open_store
from trioqueue.store.options import PostgresOptions
from trioqueue.store.protocol import Store

OpenStore = Callable[..., AbstractAsyncContextManager[Store]]

RELAXED = PostgresOptions(relaxed_durability=True)
"""The tests' server does not flush."""


@pytest.fixture
def open_postgres(postgres_database: str) -> OpenStore:
    """Open a store in the test's database; the same jobs each time. In real time unless given a clock."""
    usual: dict[str, Any] = {"clock": WallClock(), "random": Random(0), "node": NodeId("node")}
    return partial(open_store, postgres_database, **usual, postgres=RELAXED)


def ask(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


async def until_somebody_waits(url: str) -> None:
    """Until a statement waits for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with trio.fail_after(5):
        while ask(url, waiting) == [(0,)]:
            await trio.lowlevel.checkpoint()
