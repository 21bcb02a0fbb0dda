"""Runs queries by name: each in one round trip, within a deadline, and again where that is safe."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import psycopg
import trio
from psycopg.adapt import Loader
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from trioqueue.clock import Clock
from trioqueue.errors import StoreBusy, StoreUnavailable
from trioqueue.store.postgres.connection import (
    TrioConnection,
    answer_within,
    in_plain_words,
    is_retryable,
    unavailable,
)
from trioqueue.store.postgres.pool import Pool
from trioqueue.store.postgres.rows import InstantLoader, Row
from trioqueue.store.sql import Queries

REQUEST_SECONDS = 1.5
"""For calls that a client waits for: an HTTP answer is due within two seconds, whatever the server does."""

LOOP_SECONDS = 5.0
"""For the calls of a node's own loops."""

TESTS_PATIENCE = 20
"""So many times as long when a test tells the time: a busy machine is no black hole."""

COLLISIONS = 5
"""So often a statement is repeated that the server rolled back because it met another one."""

Values = Mapping[str, Any]
"""The values of a query's parameters; what the driver can adapt."""


class Commit(Protocol):
    """Ends a transaction with one more query."""

    async def __call__(
        self, query: str, values: Values, *, or_else: Exception, **parts: str
    ) -> list[Row]: ...


class Database:
    """The queries of one schema, on the connections of a pool."""

    def __init__(self, pool: Pool, queries: Queries, clock: Clock | None) -> None:
        self._pool = pool
        self._queries = {name: sql.encode() for name, sql in queries.items()}
        self._clock = clock
        patience = 1 if clock is None else TESTS_PATIENCE
        self._loop_seconds = LOOP_SECONDS * patience
        self.request_seconds = REQUEST_SECONDS * patience
        """What a call may take that a client waits for."""

    async def rows(
        self,
        query: str,
        values: Values | None = None,
        *,
        within: float | None = None,
        repeatable: bool = False,
        **parts: str,
    ) -> list[Row]:
        """All rows of a query. `parts` are SQL that stands in for their names in braces.

        `within` seconds, for waiting and for the answer; by default those of a loop. A `repeatable`
        query is sent once more when its connection breaks: it comes to the same whether it was carried
        out once or twice. Raises `StoreUnavailable`; whether it was carried out is then not known.
        """
        sql = self._sql(query, parts)
        within = self._loop_seconds if within is None else within
        deadline = trio.current_time() + within
        try:
            return await self._try(sql, values, within)
        except StoreBusy:
            raise
        except StoreUnavailable as error:
            left = deadline - trio.current_time()
            if not repeatable or left < within / 4:
                raise
            first = error
        try:
            return await self._try(sql, values, left)
        except StoreUnavailable as error:
            raise first from error  # it knows whether the query may have been carried out

    async def _try(self, sql: bytes, values: Values | None, within: float) -> list[Row]:
        async with self._pool.connection(within) as connection:
            for attempt in range(COLLISIONS):
                try:
                    return await self._run(connection, sql, values)
                except psycopg.Error as error:
                    if not is_retryable(error) or attempt == COLLISIONS - 1:
                        raise
        raise AssertionError("the last collision was raised")

    async def _run(
        self,
        connection: TrioConnection,
        sql: bytes,
        values: Values | None,
        instants: type[Loader] | None = None,
    ) -> list[Row]:
        """Run SQL on a connection that is in hand. `instants`: how to read them, if it does not know."""
        if self._clock is not None:
            now = self._clock.now().isoformat()
            await connection.execute("SELECT set_config('virtual.now', %s, false)", [now])
        cursor = connection.cursor(binary=True, row_factory=tuple_row)
        if instants is not None:
            cursor.adapters.register_loader("timestamptz", instants)
        await cursor.execute(sql, values)
        return await cursor.fetchall() if cursor.description is not None else []

    def _sql(self, query: str, parts: Mapping[str, str]) -> bytes:
        sql = self._queries[query]
        for name, part in parts.items():
            sql = sql.replace(f"{{{name}}}".encode(), part.encode())
        return sql

    def sql(self, query: str) -> str:
        """The text of a query."""
        return self._queries[query].decode()

    @asynccontextmanager
    async def transaction(self, connection: TrioConnection) -> AsyncIterator[Commit]:
        """A transaction on a handler's connection. Call what this yields as the last thing in the block.

        It runs one more query and commits, or raises `or_else` when the query returns no row. Once
        that has begun it cannot be cancelled. Whatever is raised in the block rolls everything back;
        `StoreUnavailable` is raised for it when the connection was lost.
        """

        async def commit(query: str, values: Values, *, or_else: Exception, **parts: str) -> list[Row]:
            await trio.lowlevel.checkpoint_if_cancelled()
            if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                raise RuntimeError("the transaction was ended inside of its block; leave that to the block")
            rows: list[Row] = []
            with trio.CancelScope(shield=True), in_plain_words(), answer_within(self._loop_seconds):
                rows = await self._run(connection, self._sql(query, parts), values, InstantLoader)
                if not rows:
                    raise or_else
                await connection.execute("COMMIT")
            return rows

        try:
            with in_plain_words():
                await connection.execute("BEGIN")
            yield commit
        except BaseException as error:
            with connection.cleanup(), suppress(psycopg.Error):
                await connection.execute("ROLLBACK")  # noqa: ASYNC102 — shielded by cleanup()
            if connection.closed and isinstance(error, psycopg.Error) and (reason := unavailable(error)):
                raise reason from error  # noqa: ASYNC104 — in place of the driver's own error
            raise
