"""A database is brought to the newest version once, whoever starts, and however often."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from importlib.resources import files
from pathlib import Path
from random import Random

import apsw
import pytest
import trio

import trioqueue.store.sqlite
from trioqueue.clock import run_inline
from trioqueue.errors import ConfigError
from trioqueue.jobs.job import NodeId
from trioqueue.store.migrations import Migrated, Migration, read_migrations
from trioqueue.store.open import migrate_store, open_store
from trioqueue.store.protocol import NodeFacts, Store
from trioqueue.store.sqlite import connection as connections
from trioqueue.store.sqlite.connection import prepare
from trioqueue.store.sqlite.migrate import migrate
from trioqueue.testing.conformance import HandClock, claim_one, enqueue

OURS = files(trioqueue.store.sqlite) / "sql" / "migrations"

FIRST = Migration(1, "001_first.sql", "CREATE TABLE a (x); INSERT INTO a VALUES (1);", oldest=1)
SECOND = Migration(
    2,
    "002_second.sql",
    "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = 2;"
    "CREATE TABLE meta (oldest); INSERT INTO meta VALUES (NULL);",
    oldest=2,
)
BROKEN = Migration(2, "002_second.sql", "ALTER TABLE a ADD COLUMN y; UPDATE nowhere SET y = 2;", oldest=2)
ADDED = Migration(3, "003_added.sql", "ALTER TABLE a ADD COLUMN z;", oldest=2)
"""Whoever knows the second version does not notice."""
CHANGED = Migration(4, "004_changed.sql", "ALTER TABLE a DROP COLUMN y;", oldest=4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def is_there(path: Path) -> bool:
    return path.exists()


def write(path: Path, text: str) -> None:
    path.write_text(text)


def rows_after(path: Path, *migrations: Migration) -> list[tuple[object, ...]]:
    with closing(apsw.Connection(str(path))) as connection:
        migrate(connection, migrations)
        return list(connection.execute("SELECT * FROM a"))


def numbers(path: Path) -> tuple[object, object]:
    """The database's version, and the oldest code that works with it."""
    with closing(apsw.Connection(str(path))) as connection:
        return connection.pragma("user_version"), next(connection.execute("SELECT oldest FROM meta"))[0]


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


def test_an_older_trioqueue_works_with_a_newer_database_that_says_so(path: Path) -> None:
    rows_after(path, FIRST, SECOND, ADDED)
    assert numbers(path) == (3, 2)
    assert rows_after(path, FIRST, SECOND) == [(1, 2, None)]
    assert numbers(path) == (3, 2), "the older one has changed the numbers"
    with pytest.raises(ConfigError, match="version 3"):
        rows_after(path, FIRST)


def test_what_one_migration_breaks_a_later_one_does_not_mend(path: Path) -> None:
    harmless = Migration(5, "005_harmless.sql", "SELECT 1;", oldest=1)
    rows_after(path, FIRST, SECOND, ADDED, CHANGED, harmless)
    assert numbers(path) == (5, 4)
    with pytest.raises(ConfigError, match=r"version 5.*up to 3"):
        rows_after(path, FIRST, SECOND, ADDED)
    assert numbers(path) == (5, 4)


async def test_many_may_start_at_the_same_time(path: Path) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(trio.to_thread.run_sync, partial(prepare, path))
    with closing(apsw.Connection(str(path))) as connection:
        assert next(connection.execute("SELECT count(*) FROM meta")) == (1,)


def test_the_files_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in read_migrations(OURS)] == [1, 2]


def test_a_file_says_in_its_first_line_which_code_still_works_with_it(tmp_path: Path) -> None:
    (tmp_path / "001_first.sql").write_text("CREATE TABLE a (x);\n")
    (tmp_path / "002_second.sql").write_text("-- oldest: 1\nCREATE TABLE b (x);\n")
    (tmp_path / "003_third.sql").write_text("-- Not the first line:\n-- oldest: 1\nCREATE TABLE c (x);\n")
    assert [migration.oldest for migration in read_migrations(tmp_path)] == [1, 1, 3]


# The versions that there were


@pytest.fixture
def know(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Be the trioqueue whose newest migration had this number."""

    def be(version: int) -> None:
        ours = read_migrations(OURS)[:version]
        monkeypatch.setattr(connections, "read_migrations", lambda _: ours)

    return be


@asynccontextmanager
async def open_at(path: Path, clock: HandClock) -> AsyncIterator[Store]:
    node = NodeId("alice")
    async with open_store(
        f"sqlite:///{path}", clock=clock, random=Random(0), node=node, run_sync=run_inline
    ) as store:
        yield store


async def test_a_file_of_version_1_keeps_its_jobs_and_its_nodes(
    path: Path, know: Callable[[int], None]
) -> None:
    know(1)
    prepare(path)
    clock = HandClock()
    with closing(apsw.Connection(str(path))) as connection:
        beat_at = int(clock.now().timestamp() * 1_000_000)
        connection.execute("INSERT INTO nodes (node, beat_at, stopping) VALUES ('old', ?, 1)", (beat_at,))

    know(2)
    async with open_at(path, clock) as store:
        (old,) = await store.nodes()
        assert (old.node, old.stopping, old.workers, old.types) == ("old", True, 0, ())
        assert (old.started_at, old.seen_at) == (clock.now(), clock.now())
        await store.beat(NodeId("alice"), facts=NodeFacts(workers=1, types=None))
        await enqueue(store)
        await claim_one(store)
        assert [len(node.running) for node in await store.nodes()] == [1, 0]
    assert numbers(path) == (2, 2)


# trioqueue migrate


async def test_a_migration_tells_from_which_version_to_which(path: Path, know: Callable[[int], None]) -> None:
    url = f"sqlite:///{path}"
    know(1)
    assert versions(await migrate_store(url)) == (0, 1)
    know(2)
    migrated = await migrate_store(url)
    assert versions(migrated) == (1, 2)
    assert "-- 002_nodes.sql" in migrated.sql
    assert await migrate_store(url) == Migrated(before=2, after=2, sql="")
    assert versions(await migrate_store("memory:")) == (0, 0)


def versions(migrated: Migrated) -> tuple[int, int]:
    return migrated.before, migrated.after


@pytest.mark.parametrize("version", [0, 1])
async def test_what_is_only_printed_changes_nothing_and_does_the_same(
    path: Path, know: Callable[[int], None], version: int
) -> None:
    url = f"sqlite:///{path}"
    if version:
        know(version)
        await migrate_store(url)
    know(2)
    printed = await migrate_store(url, print_only=True)
    assert is_there(path) == bool(version)
    assert await migrate_store(url, print_only=True) == printed
    assert versions(printed) == (version, 2)

    with closing(apsw.Connection(str(path))) as connection:
        for _ in connection.execute(printed.sql):
            pass

    assert versions(await migrate_store(url)) == (2, 2)
    assert numbers(path) == (2, 2)


@pytest.mark.parametrize("print_only", [True, False])
async def test_what_cannot_be_migrated_is_told(path: Path, print_only: bool) -> None:
    write(path, "Dear diary, this is no database. " * 100)
    for url in (f"sqlite:///{path}", "mysql://alice:secret@localhost/jobs"):
        with pytest.raises(ConfigError) as caught:
            await migrate_store(url, print_only=print_only)
        assert "secret" not in str(caught.value)
