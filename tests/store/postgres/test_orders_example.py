"""The example of docs/postgres.md: an order and its job in one transaction, and its end in another."""

import runpy
from typing import Any

import psycopg
import pytest
import trio

from tests.conftest import ROOT
from trioqueue.config import load_settings
from trioqueue.jobs.job import Status
from trioqueue.node import Node


@pytest.fixture
def example() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "examples" / "orders.py"))


async def test_an_order_is_shipped_once(
    example: dict[str, Any], postgres_database: str, nursery: trio.Nursery
) -> None:
    settings = load_settings(store=postgres_database, relaxed_durability=True, log_level="error")
    node = Node(settings, example["handlers"])
    await nursery.start(node.run)
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (item text PRIMARY KEY, shipped boolean DEFAULT false)")
        job_id = example["place_order"](connection, "teapot")
        with pytest.raises(psycopg.errors.UniqueViolation):
            example["place_order"](connection, "teapot")
        with trio.fail_after(10):
            job, _ = await node.service.get(job_id)
            while not job.is_final:
                await trio.sleep(0.02)
                job, _ = await node.service.get(job_id)
        orders = connection.execute("SELECT * FROM orders").fetchall()
    assert (job.status, job.result) == (Status.COMPLETED, b'{"shipped":"teapot"}')
    assert orders == [("teapot", True)]
    page = await node.service.list(limit=10)
    assert len(page.jobs) == 1
    node.stop()
