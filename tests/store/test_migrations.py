"""A database is brought to the newest version once, whoever starts, and however often."""

from contextlib import closing
from importlib.resources import files
from pathlib import Path

import apsw
import pytest
import trio

import trioqueue.store.sqlite
from trioqueue.errors import ConfigError
from trioqueue.store.migrations import Migration, migrate, read_migrations
from trioqueue.store.sqlite.connection import prepare

FIRST = Migration(1, "001_first.sql", "CREATE TABLE a (x); INSERT INTO a VALUES (1);")
SECOND = Migration(2, "002_second.sql", "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = 2;")
BROKEN = Migration(2, "002_second.sql", "ALTER TABLE a ADD COLUMN y; UPDATE nowhere SET y = 2;")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def rows_after(path: Path, *migrations: Migration) -> list[tuple[object, ...]]:
    with closing(apsw.Connection(str(path))) as connection:
        migrate(connection, migrations)
        return list(connection.execute("SELECT * FROM a"))


def test_migrations_are_applied_in_order_and_once(path: Path) -> None:
    assert rows_after(path, FIRST) == [(1,)]
    assert rows_after(path, FIRST, SECOND) == [(1, 2)]
    assert rows_after(path, FIRST, SECOND) == [(1, 2)]


def test_an_interrupted_migration_has_not_happened(path: Path) -> None:
    with pytest.raises(apsw.SQLError):
        rows_after(path, FIRST, BROKEN)
    assert rows_after(path, FIRST) == [(1,)]
    assert rows_after(path, FIRST, SECOND) == [(1, 2)]


def test_a_newer_database_is_refused_and_left_alone(path: Path) -> None:
    rows_after(path, FIRST, SECOND)
    with pytest.raises(ConfigError, match=r"version 2.*up to 1.*newer trioqueue"):
        rows_after(path, FIRST)
    assert rows_after(path, FIRST, SECOND) == [(1, 2)]


async def test_many_may_start_at_the_same_time(path: Path) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(trio.to_thread.run_sync, prepare, path)
    with closing(apsw.Connection(str(path))) as connection:
        assert next(connection.execute("SELECT count(*) FROM meta")) == (1,)


def test_the_files_are_numbered_without_gaps() -> None:
    directory = files(trioqueue.store.sqlite) / "sql" / "migrations"
    assert [migration.number for migration in read_migrations(directory)] == [1]
