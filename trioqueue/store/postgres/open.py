"""Opens a PostgreSQL store. How its parts nest is the order in which they end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random

import trio

from trioqueue.clock import Clock
from trioqueue.config import without_secrets
from trioqueue.errors import StoreUnavailable
from trioqueue.jobs.job import NodeId
from trioqueue.store.options import PostgresOptions
from trioqueue.store.postgres.connection import NO_LIMITS, Server, TrioConnection
from trioqueue.store.postgres.database import LOOP_SECONDS, Database
from trioqueue.store.postgres.enqueue import Enqueuer
from trioqueue.store.postgres.hints import Hints
from trioqueue.store.postgres.migrate import CONNECT_SECONDS, prepare
from trioqueue.store.postgres.pool import Pool
from trioqueue.store.postgres.queries import queries_of
from trioqueue.store.postgres.rows import InstantLoader
from trioqueue.store.postgres.store import PostgresStore

FAREWELL_SECONDS = 1.0
"""For taking the node off the list, when it ends while the server is away."""


@asynccontextmanager
async def open_postgres(
    url: str, *, options: PostgresOptions, clock: Clock | None, random: Random, node: NodeId
) -> AsyncIterator[PostgresStore]:
    """The store in the schema that `options` names, which is created or migrated when that is needed.

    `clock` None: the server's own clock decides. A clock is for tests: it makes a schema of its own kind.
    """
    server = Server(url)
    first = await server.connect(within=CONNECT_SECONDS)
    try:
        await prepare(first, options, virtual_time=clock is not None)
    finally:
        first.discard()
    pool = Pool(partial(_connect, server), size=options.connections, random=random)
    for_handlers = Server(url, limits=NO_LIMITS)
    listen = partial(server.connect, within=CONNECT_SECONDS)
    hints = Hints(pool, listen, channel=options.channel_name, random=random)
    database = Database(pool, queries_of(options), clock)
    enqueuer = Enqueuer(database, hints, keyed=max(1, options.connections // 2))
    store = PostgresStore(
        url=without_secrets(url),
        database=database,
        enqueuer=enqueuer,
        hints=hints,
        connect=partial(for_handlers.connect, within=LOOP_SECONDS),
        random=random,
    )
    failure: Exception | None = None
    async with trio.open_nursery() as connecting:
        await connecting.start(pool.run)
        async with trio.open_nursery() as listening:
            if clock is None:  # in virtual time nothing may come from outside
                listening.start_soon(hints.run)
            async with trio.open_nursery() as enqueueing:
                enqueueing.start_soon(enqueuer.run)
                try:
                    yield store
                except Exception as error:
                    failure = error  # raised below: our nurseries would wrap it in groups
                finally:
                    enqueuer.close()
            # Whatever had been handed to the store has been committed or refused.
            listening.cancel_scope.cancel()
        # Nobody rings any more.
        with trio.CancelScope(shield=True), suppress(StoreUnavailable):
            await store.forget(node, within=FAREWELL_SECONDS)
        connecting.cancel_scope.cancel()
    # Every connection is closed.
    if failure is not None:
        raise failure


async def _connect(server: Server) -> TrioConnection:
    connection = await server.connect(within=CONNECT_SECONDS)
    connection.adapters.register_loader("timestamptz", InstantLoader)
    return connection
