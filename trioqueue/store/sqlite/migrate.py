"""Brings a file to the version that this code knows.

Every migration is one transaction together with the note that it was applied, so that an interrupted
one has either happened or not. The database's write lock makes processes that start at the same
time wait for each other, and the later ones find the work done.
"""

from collections.abc import Sequence

import apsw

from trioqueue.errors import ConfigError
from trioqueue.store.migrations import Migrated, Migration, missing, oldest_after

APPLICATION_ID = 0x7472_6971
""""triq": marks a SQLite file as ours, so that another program's database is never touched."""

OLDEST_SINCE = 2
"""The version since which `meta` says what the oldest code is. Before, only the same version would do."""


def migrate(
    connection: apsw.Connection, migrations: Sequence[Migration], *, print_only: bool = False
) -> Migrated:
    """Apply those of `migrations` that the database does not have yet; with `print_only`, only say which.

    Raises `ConfigError`, and changes nothing, when the database belongs to another program, or to
    a newer version of this one that this code cannot work with.
    """
    _refuse_foreign(connection)
    version = _pragma(connection, "user_version")
    todo = missing(migrations, version=version, oldest=_oldest(connection, version))
    scripts = [_script(migration, oldest_after(migrations, migration.number)) for migration in todo]
    if not print_only:
        for migration, script in zip(todo, scripts, strict=True):
            _apply(connection, migration.number, script)
    return Migrated(
        before=version,
        after=max(version, len(migrations)),
        sql="\n".join(f"BEGIN IMMEDIATE;\n{script}COMMIT;\n" for script in scripts),
    )


def _script(migration: Migration, oldest: int) -> str:
    """A migration, and the note that it was applied."""
    note = f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {migration.number};\n"
    if migration.number >= OLDEST_SINCE:
        note += f"UPDATE meta SET oldest = {oldest};\n"
    return f"-- {migration.name}\n{migration.sql.rstrip()}\n{note}"


def _apply(connection: apsw.Connection, number: int, script: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: another process may have been faster.
        if _pragma(connection, "user_version") < number:
            for _ in connection.execute(script):
                pass
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _oldest(connection: apsw.Connection, version: int) -> int:
    if version < OLDEST_SINCE:
        return version
    oldest = next(connection.execute("SELECT oldest FROM meta"))[0]
    assert isinstance(oldest, int)
    return oldest


def _refuse_foreign(connection: apsw.Connection) -> None:
    tables = next(connection.execute("SELECT count(*) FROM sqlite_schema"))[0]
    if tables and _pragma(connection, "application_id") != APPLICATION_ID:
        raise ConfigError(["the file is the database of another program; choose another path"])


def _pragma(connection: apsw.Connection, name: str) -> int:
    value = connection.pragma(name)
    assert isinstance(value, int)
    return value
