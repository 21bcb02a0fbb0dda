"""Enqueue inside your own PostgreSQL transaction: rolled back means no job, committed means kept.

For the database that the jobs are kept in. Takes connections of psycopg 3, and needs nothing else of
trioqueue to be running.
"""

from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypedDict, Unpack

from trioqueue.config import check_postgres_name, check_postgres_prefix
from trioqueue.errors import ConfigError
from trioqueue.jobs import codec
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import JobId
from trioqueue.wire.jobs import parse_job_request


class Connection(Protocol):
    """What is used of `psycopg.Connection`."""

    def execute(self, query: Any, params: Any) -> Any: ...


class AsyncConnection(Protocol):
    """What is used of `psycopg.AsyncConnection`, on any event loop."""

    def execute(self, query: Any, params: Any) -> Awaitable[Any]: ...


class Fields(TypedDict, total=False):
    """A job's optional fields, each as in `POST /jobs`."""

    queue: str
    priority: int
    run_at: datetime
    delay_seconds: float
    max_attempts: int
    timeout_seconds: float
    deadline_at: datetime
    unique_key: str
    tags: Sequence[str]
    parent_id: str
    traceparent: str


def enqueue(
    connection: Connection,
    type: str,
    payload: object = None,
    *,
    handlers: Handlers | None = None,
    schema: str = "trioqueue",
    table_prefix: str = "",
    **fields: Unpack[Fields],
) -> JobId:
    """Enqueue a job in the transaction that `connection` is in; returns its id.

    That is the id of the pending or processing job that has the `unique_key`, if there is one. The
    job becomes visible when you commit, and nodes find it when they next look: nobody is notified,
    since that would make your commit wait for others.

    With `handlers` the payload is checked and the handler's defaults are used, as `POST /jobs` does.
    Raises `InvalidInput` before anything is sent; what psycopg raises comes through.
    """
    query, values = _call(type, payload, fields, handlers, f"{schema}.{table_prefix}")
    return JobId(str(connection.execute(query, values).fetchone()[0]))


async def enqueue_async(
    connection: AsyncConnection,
    type: str,
    payload: object = None,
    *,
    handlers: Handlers | None = None,
    schema: str = "trioqueue",
    table_prefix: str = "",
    **fields: Unpack[Fields],
) -> JobId:
    """As `enqueue`, for `psycopg.AsyncConnection` and for the connection of `ctx.transaction()`."""
    query, values = _call(type, payload, fields, handlers, f"{schema}.{table_prefix}")
    cursor = await connection.execute(query, values)
    return JobId(str((await cursor.fetchone())[0]))


def _call(
    type: str, payload: object, fields: Fields, handlers: Handlers | None, names: str
) -> tuple[bytes, dict[str, object]]:
    """The call of the SQL function `enqueue`, checked as a request over HTTP is."""
    value = {} if payload is None else payload
    request = parse_job_request(codec.encode({"type": type, "payload": value, **fields}))
    values: dict[str, object] = {
        **fields,
        "type": type,
        "payload": codec.encode(request.payload).decode(),
        "tags": list(request.tags),
    }
    if handlers is not None:
        handler = handlers.find(type)
        handler.parse(request.payload)
        values.setdefault("max_attempts", handler.max_attempts)
        values.setdefault("timeout_seconds", handler.timeout_seconds)
    casts = {"payload": "::jsonb", "tags": "::text[]", "parent_id": "::uuid", "timeout_seconds": "::float8"}
    casts |= {"delay_seconds": "::float8"}
    arguments = ", ".join(f"{key} => %({key})s{casts.get(key, '')}" for key in values)
    return f"SELECT {_function(names)}({arguments})".encode(), values


def _function(names: str) -> str:
    schema, _, prefix = names.partition(".")
    try:
        return f'"{check_postgres_name(schema)}"."{check_postgres_prefix(prefix)}enqueue"'
    except ValueError as error:
        raise ConfigError([f"the names {names!r} cannot be used: {error}"]) from None
