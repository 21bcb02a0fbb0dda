"""Jobs that belong to the transactions of an application: with PostgreSQL, in the same database.

CREATE TABLE orders (item text PRIMARY KEY, shipped boolean DEFAULT false);
"""

import psycopg

from trioqueue import Context, Handlers
from trioqueue.postgres import enqueue

handlers = Handlers()


def place_order(connection: psycopg.Connection, item: str) -> str:
    with connection.transaction():
        connection.execute("INSERT INTO orders (item) VALUES (%s)", [item])
        return enqueue(connection, "ship", {"item": item}, unique_key=f"ship {item}")


@handlers.handler("ship", timeout_seconds=60)
async def ship(ctx: Context, item: str) -> None:
    async with ctx.transaction() as connection:
        await connection.execute("UPDATE orders SET shipped = true WHERE item = %s", [item])
        ctx.set_result({"shipped": item})
    # Committed, and the job is completed.
