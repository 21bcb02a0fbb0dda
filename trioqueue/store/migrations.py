"""The versions of a database: numbered `.sql` files, applied in order, each once. Every store has its own.

A database carries two numbers: its version, which is the number of the newest file applied, and the
oldest version of the code that still works with it. So an older trioqueue may run on beside a
newer one, where the author of a migration has said that it may.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable

from trioqueue.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file: `number` is the database's version once it has been applied."""

    number: int
    name: str
    sql: str
    oldest: int
    """The oldest version of the code that works with the database afterwards.

    The file's first line may say so: `-- oldest: N`. Without it, only code that knows this
    migration does. A version of the code is the number of its newest migration.
    """


@dataclass(frozen=True, slots=True)
class Migrated:
    """What bringing a database to the newest version came to: from version `before` to version `after`."""

    before: int
    """0: there was no database."""
    after: int
    sql: str
    """What was applied, or would be; empty when the database was up to date."""


def read_migrations(directory: Traversable) -> list[Migration]:
    """The files `NNN_*.sql` of `directory`, in order. Their numbers have no gaps: 1, 2, 3 …"""
    files = sorted((file for file in directory.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
    assert all(re.fullmatch(r"\d{3}_\w+\.sql", file.name) for file in files)
    migrations = [_read(int(file.name[:3]), file.name, file.read_text("utf-8")) for file in files]
    assert [migration.number for migration in migrations] == list(range(1, len(files) + 1))
    return migrations


def _read(number: int, name: str, sql: str) -> Migration:
    said = re.match(r"-- oldest: (\d+)\n", sql)
    oldest = int(said[1]) if said else number
    assert 1 <= oldest <= number
    return Migration(number, name, sql, oldest)


def missing(migrations: Sequence[Migration], *, version: int, oldest: int) -> Sequence[Migration]:
    """Those of `migrations` that a database of this `version` lacks; none when it is newer than the code.

    Raises `ConfigError` when it is newer, and the code is older than the `oldest` that works with it.
    """
    newest = len(migrations)
    if version > newest and oldest > newest:
        problem = (
            f"the database has version {version}, and this trioqueue knows versions up to {newest}: "
            "it was written by a newer trioqueue. Install that version again, or restore a backup"
        )
        raise ConfigError([problem])
    return migrations[version:]


def oldest_after(migrations: Sequence[Migration], number: int) -> int:
    """The oldest version of the code that works with a database of version `number`."""
    return max(migration.oldest for migration in migrations[:number])
