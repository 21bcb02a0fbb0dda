"""Costs do not grow: what the server does for each of our queries, however many jobs there are."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import trio

from tests.postgres.server import Server
from tests.postgres.volume import Volume, buffers, calls, scanned_whole
from trioqueue.store.options import PostgresOptions
from trioqueue.store.postgres.migrate import migrate_postgres

PENDING = DELAYED = 100_000
FINISHED = 1_000_000

PREFIXED = PostgresOptions(schema="volume", table_prefix="p_", relaxed_durability=True)
"""With a prefix, so that a query that forgets to name its table by an alias is found here."""

GROWTH = 1.25
"""A claim touches at most so many more pages: the indexes are one level deeper."""

PAGES_FOR_A_ROW = 12
"""Three tables, each found through an index of three levels."""


class Costs:
    """Plans of every query, and the pages that it touched: with few jobs, and with many."""

    def __init__(self) -> None:
        self.few: dict[str, int] = {}
        self.many: dict[str, int] = {}
        self.scanned: dict[str, set[str]] = {}


@pytest.fixture(scope="module")
def costs(postgres_server: Server) -> Iterator[Costs]:
    url = postgres_server.create_database("volume")
    trio.run(migrate_postgres, url, PREFIXED)
    costs = Costs()
    with psycopg.connect(url, autocommit=True) as connection:
        volume = Volume(connection, PREFIXED)
        fill(volume, pending=10_000, delayed=10_000, finished=10_000)
        costs.few = touched(volume)
        fill(volume, pending=PENDING - 10_000, delayed=DELAYED - 10_000, finished=FINISHED - 10_000)
        costs.many = touched(volume)
        costs.scanned = {
            name: scanned_whole(volume.explain(sql, values)) - {"p_meta"}  # it has one row
            for name, (sql, values) in calls(volume).items()
        }
    yield costs
    postgres_server.drop_database("volume")


def fill(volume: Volume, *, pending: int, delayed: int, finished: int) -> None:
    volume.pending(pending)
    volume.delayed(delayed)
    volume.processing(100)
    volume.finished(finished)
    volume.analyze()


def touched(volume: Volume) -> dict[str, int]:
    return {
        name: buffers(volume.explain(sql, values, run=True)) for name, (sql, values) in calls(volume).items()
    }


@pytest.mark.timeout(600)
def test_no_query_reads_a_table_from_end_to_end(costs: Costs) -> None:
    assert costs.scanned
    assert {name: tables for name, tables in costs.scanned.items() if tables} == {}


@pytest.mark.timeout(600)
def test_no_query_costs_more_when_there_are_more_jobs(costs: Costs) -> None:
    grown = {
        name: (costs.few[name], many)
        for name, many in costs.many.items()
        if many > GROWTH * costs.few[name] + 20 and not name.startswith("list")
    }
    assert grown == {}


@pytest.mark.timeout(600)
def test_a_list_costs_what_its_own_rows_cost(costs: Costs) -> None:
    lists = {name: pages for name, pages in costs.many.items() if name.startswith("list")}
    assert len(lists) == 7
    assert all(pages <= PAGES_FOR_A_ROW * 101 for pages in lists.values()), lists


@pytest.mark.timeout(600)
def test_a_database_that_was_never_analyzed_is_served_as_well(postgres_database: str) -> None:
    """The first minute of a busy service: the planner knows nothing yet."""
    options: Any = PostgresOptions(relaxed_durability=True)
    trio.run(migrate_postgres, postgres_database, options)
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        volume = Volume(connection, options)
        connection.execute("ALTER TABLE trioqueue.live SET (autovacuum_enabled = false)")
        connection.execute("ALTER TABLE trioqueue.bodies SET (autovacuum_enabled = false)")
        connection.execute("ALTER TABLE trioqueue.ended SET (autovacuum_enabled = false)")
        volume.processing(100)
        volume.pending(20_000)
        volume.delayed(20_000)
        volume.finished(20_000)
        scanned = {
            name: scanned_whole(volume.explain(sql, values)) & {"live", "bodies", "ended", "attempts"}
            for name, (sql, values) in calls(volume).items()
        }
    assert {name: tables for name, tables in scanned.items() if tables} == {}
