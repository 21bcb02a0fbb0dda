"""Brings a database to the version that this code knows: numbered `.sql` files, in order, each once.

Every file is one transaction together with the note that it was applied, so that an interrupted
migration has either happened or not. The database's write lock makes processes that start at the
same time wait for each other, and the later ones find the work done.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable

import apsw

from trioqueue.errors import ConfigError

APPLICATION_ID = 0x7472_6971
""""triq": marks a SQLite file as ours, so that another program's database is never touched."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file: `number` is the database's version once it has been applied."""

    number: int
    name: str
    sql: str


def read_migrations(directory: Traversable) -> list[Migration]:
    """The files `NNN_*.sql` of `directory`, in order. Their numbers have no gaps: 1, 2, 3 …"""
    files = sorted((file for file in directory.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
    migrations = [Migration(int(file.name[:3]), file.name, file.read_text("utf-8")) for file in files]
    assert all(re.fullmatch(r"\d{3}_\w+\.sql", file.name) for file in files)
    assert [migration.number for migration in migrations] == list(range(1, len(files) + 1))
    return migrations


def migrate(connection: apsw.Connection, migrations: Sequence[Migration]) -> None:
    """Apply those of `migrations` that the database does not have yet.

    Raises `ConfigError`, and changes nothing, when the database belongs to another program or to
    a newer version of this one.
    """
    _refuse_foreign(connection)
    newest = len(migrations)
    version = _pragma(connection, "user_version")
    if version > newest:
        problem = (
            f"the database has version {version}, and this trioqueue knows versions up to {newest}: "
            "it was written by a newer trioqueue. Install that version again, or restore a backup"
        )
        raise ConfigError([problem])
    for migration in migrations[version:]:
        _apply(connection, migration)


def _apply(connection: apsw.Connection, migration: Migration) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: another process may have been faster.
        if _pragma(connection, "user_version") < migration.number:
            for _ in connection.execute(migration.sql):
                pass
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {migration.number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _refuse_foreign(connection: apsw.Connection) -> None:
    tables = next(connection.execute("SELECT count(*) FROM sqlite_schema"))[0]
    if tables and _pragma(connection, "application_id") != APPLICATION_ID:
        raise ConfigError(["the file is the database of another program; choose another path"])


def _pragma(connection: apsw.Connection, name: str) -> int:
    value = connection.pragma(name)
    assert isinstance(value, int)
    return value
