"""Where the jobs of one test are kept: a fresh file, a fresh schema, or nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom

POSTGRES = ("postgresql://", "postgres://")


@dataclass(frozen=True, slots=True)
class Place:
    """A store's URL and, on PostgreSQL, the schema in it."""

    url: str
    schema: str | None = None

    @property
    def settings(self) -> dict[str, str]:
        """For `Settings`."""
        return {"store": self.url} | ({} if self.schema is None else {"postgres_schema": self.schema})

    @property
    def aside(self) -> "Place":
        """Another place of the same kind, for what shall not be seen in this one."""
        return Place("memory:") if self.schema is None else replace(self, schema=f"{self.schema}_aside")


@contextmanager
def open_place(store: str, directory: Path) -> Iterator[Place]:
    """A place for one test; `store` is `sqlite`, `memory` or the URL of a PostgreSQL database.

    A schema is dropped when the block ends. Raises ValueError for anything else.
    """
    if store in ("memory", "memory:"):
        yield Place("memory:")
    elif store in ("sqlite", "sqlite:"):
        yield Place(f"sqlite:///{directory}/trioqueue.db")
    elif store.startswith(POSTGRES):
        place = Place(store, schema=f"tq_{SystemRandom().getrandbits(48):012x}")
        try:
            yield place
        finally:
            _drop(place)
    else:
        raise ValueError(
            f"{store!r} is no store for tests; use sqlite, memory or postgresql://user@host/database"
        )


def _drop(place: Place) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(place.url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        for schema in (place.schema, place.aside.schema):
            name = sql.Identifier(str(schema))
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
