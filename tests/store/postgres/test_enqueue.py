"""Enqueueing inside an application's own transaction, from SQL and from Python."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.errors import InvalidParameterValue

from tests.store.postgres.conftest import OpenStore
from trioqueue.errors import InvalidInput, UnknownType
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import Json, Status
from trioqueue.jobs.outcome import Completed
from trioqueue.postgres import enqueue, enqueue_async
from trioqueue.runtime.context import Context
from trioqueue.store.postgres.connection import connect
from trioqueue.store.protocol import JobFilter, Store
from trioqueue.testing.conformance import claim_one, everything, settle


@pytest.fixture
def application(postgres_database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_database) as connection:
        yield connection


@pytest.fixture
async def store(open_postgres: OpenStore) -> Any:
    async with open_postgres() as store:
        yield store


async def test_a_job_is_there_once_its_transaction_has_committed(
    store: Store, application: psycopg.Connection[Any]
) -> None:
    job_id = enqueue(application, "mail", {"to": "zoë"}, tags=("a", "b"), priority=-1, queue="slow")
    assert await everything(store) == []
    application.commit()
    (job,) = await everything(store)
    assert (job.id, job.type, job.payload) == (job_id, "mail", Json('{"to": "zoë"}'.encode()))
    assert (job.tags, job.priority, job.queue, job.status) == (("a", "b"), -1, "slow", Status.PENDING)
    assert (job.root_id, job.attempt, job.max_attempts, job.version) == (job_id, 0, 5, 1)
    assert [each.id for each in (await store.list(JobFilter(tag="b"), limit=9)).jobs] == [job_id]
    done = await settle(store, await claim_one(store), Completed())
    assert (done.id, done.status) == (job_id, Status.COMPLETED)
    assert [(count.status, count.jobs) for count in await store.counts()] == [(Status.COMPLETED, 1)]


async def test_rolled_back_means_no_job(store: Store, application: psycopg.Connection[Any]) -> None:
    application.execute("CREATE TABLE orders (id int)")
    application.execute("INSERT INTO orders VALUES (1)")
    enqueue(application, "mail", {"order": 1})
    application.rollback()
    assert await everything(store) == []
    assert await store.counts() == []
    assert await store.next_due_in(None) is None


async def test_an_async_connection_does_as_well(store: Store, postgres_database: str) -> None:
    connection = await connect(postgres_database, within=5)
    async with connection.transaction():
        job_id = await enqueue_async(connection, "mail")
    assert [job.id for job in await everything(store)] == [job_id]
    await connection.close()


async def test_a_unique_key_is_answered_with_the_job_that_has_it(
    store: Store, application: psycopg.Connection[Any]
) -> None:
    first = enqueue(application, "mail", unique_key="report")
    assert enqueue(application, "mail", unique_key="report") == first
    application.commit()
    await settle(store, await claim_one(store), Completed())
    assert enqueue(application, "mail", unique_key="report") != first


async def test_a_payload_may_be_nested_as_deep_as_over_http(
    store: Store, application: psycopg.Connection[Any]
) -> None:
    deepest = "[" * 64 + "1" + "]" * 64
    application.execute("SELECT trioqueue.enqueue('mail', %s::jsonb)", [deepest])
    application.commit()
    (job,) = await everything(store)
    assert job.payload == deepest.encode()


async def test_a_child_knows_its_root(store: Store, application: psycopg.Connection[Any]) -> None:
    root = enqueue(application, "mail")
    child = enqueue(application, "mail", parent_id=root)
    enqueue(application, "mail", parent_id=child)
    application.commit()
    assert {job.root_id for job in await everything(store)} == {root}


async def test_a_delayed_job_waits_by_the_servers_clock(
    store: Store, application: psycopg.Connection[Any]
) -> None:
    enqueue(application, "mail", delay_seconds=3600)
    enqueue(application, "mail", run_at=datetime(2199, 1, 1, tzinfo=UTC))
    application.commit()
    seconds = await store.next_due_in(frozenset({"mail"}))
    assert seconds is not None
    assert 3590 < seconds <= 3600


async def test_handlers_check_the_payload_and_give_their_defaults(
    store: Store, application: psycopg.Connection[Any]
) -> None:
    handlers = Handlers()

    @handlers.handler("mail", max_attempts=2, timeout_seconds=9)
    async def mail(ctx: Context, to: str) -> None: ...

    with pytest.raises(InvalidInput):
        enqueue(application, "mail", {"too": "zoë"}, handlers=handlers)
    with pytest.raises(UnknownType):
        enqueue(application, "male", {}, handlers=handlers)
    enqueue(application, "mail", {"to": "zoë"}, handlers=handlers)
    application.commit()
    (job,) = await everything(store)
    assert (job.max_attempts, job.timeout_seconds) == (2, 9.0)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("type", {"type": "a b"}),
    ("type", {"type": None}),
    ("queue", {"queue": "no spaces"}),
    ("payload", {"payload": None}),
    ("payload", {"payload": "[" * 65 + "]" * 65}),
    ("payload", {"payload": '{"a": [1e5000]}'}),
    ("priority", {"priority": 1_000_001}),
    ("max_attempts", {"max_attempts": 0}),
    ("timeout_seconds", {"timeout_seconds": 0.0}),
    ("timeout_seconds", {"timeout_seconds": float("nan")}),
    ("delay_seconds", {"delay_seconds": -1.0}),
    ("delay_seconds", {"delay_seconds": float("inf")}),
    ("delay_seconds", {"delay_seconds": 1.0, "run_at": datetime(2040, 1, 1, tzinfo=UTC)}),
    ("run_at", {"run_at": datetime(1999, 1, 1, tzinfo=UTC)}),
    ("deadline_at", {"deadline_at": datetime(2001, 1, 1, tzinfo=UTC)}),
    ("unique_key", {"unique_key": ""}),
    ("tags", {"tags": ["t"] * 1 + [str(number) for number in range(20)]}),
    ("tags", {"tags": [""]}),
    ("tags", {"tags": ["a", None]}),
    ("parent_id", {"parent_id": "00000000-0000-7000-8000-000000000000"}),
    ("traceparent", {"traceparent": "00-1-2-3"}),
]


@pytest.mark.parametrize(("field", "arguments"), BAD, ids=lambda value: str(value)[:40])
async def test_sql_refuses_what_http_refuses(
    store: Store, application: psycopg.Connection[Any], field: str, arguments: dict[str, Any]
) -> None:
    casts = {"parent_id": "::uuid", "tags": "::text[]", "payload": "::jsonb", "type": "::text"}
    given = {"type": "mail", **arguments}
    call = ", ".join(f"{name} => %({name})s{casts.get(name, '')}" for name in given)
    with pytest.raises(InvalidParameterValue, match=f"^{field}: "):
        application.execute(f"SELECT trioqueue.enqueue({call})", given)


@pytest.mark.parametrize("fields", [{"queue": "no spaces"}, {"max_attempts": 0}, {"tags": [""]}])
def test_python_refuses_before_anything_is_sent(fields: Any) -> None:
    class Untouchable:
        def execute(self, query: Any, params: Any) -> Any:
            raise AssertionError("sent")

    with pytest.raises(InvalidInput):
        enqueue(Untouchable(), "mail", {}, **fields)
