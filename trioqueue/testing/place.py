"""Where the jobs of one test are kept: a fresh file, a fresh schema, or nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom

MEMORY = ("memory", "memory:")
SQLITE = ("sqlite", "sqlite:")
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
    def scratch(self) -> "Place":
        """Another place of the same kind, for what shall not be seen in this one."""
        return Place("memory:") if self.schema is None else replace(self, schema=f"{self.schema}_scratch")


@contextmanager
def open_place(store: str, directory: Path) -> Iterator[Place]:
    """A place for one test; `store` is `sqlite`, `memory` or the URL of a PostgreSQL database.

    A schema is dropped when the block ends. Raises `NoPostgres` when the database cannot be reached,
    ValueError for anything else.
    """
    check_store(store)
    if store in MEMORY:
        yield Place("memory:")
    elif store in SQLITE:
        yield Place(f"sqlite:///{directory}/trioqueue.db")
    else:
        place = Place(store, schema=f"tq_{SystemRandom().getrandbits(48):012x}")
        _try(place.url)
        try:
            yield place
        finally:
            _drop(place)


def check_store(store: str) -> None:
    """Raise ValueError for what is no store for tests."""
    if store not in (*MEMORY, *SQLITE) and not store.startswith(POSTGRES):
        raise ValueError(
            f"{store!r} is no store for tests; use sqlite, memory or postgresql://user@host/database"
        )


def _try(url: str) -> None:
    """Whether there is a database, asked before anything else: one error says more than two of their ends."""
    from trioqueue.config import without_secrets
    from trioqueue.testing.errors import NoPostgres

    try:
        import psycopg

        psycopg.connect(url).close()
    except ImportError as error:
        what = f"psycopg is missing ({error}): pip install 'trioqueue[postgres]'"
        raise NoPostgres(without_secrets(url), what) from None
    except psycopg.Error as error:
        raise NoPostgres(without_secrets(url), str(error).strip()) from None


def _drop(place: Place) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(place.url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        for schema in (place.schema, place.scratch.schema):
            name = sql.Identifier(str(schema))
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
