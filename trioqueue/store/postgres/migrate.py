"""Brings a schema to the version that this code knows, and makes sure that the server can keep promises.

All that is missing is applied in one transaction, under an advisory lock that ends with it: nodes
that start at the same time wait for each other, and the later ones find the work done. It works
through a pooler, and beside running nodes of the version before.
"""

from collections.abc import Sequence

import psycopg
from psycopg import errors

from trioqueue.errors import ConfigError
from trioqueue.store.migrations import Migrated, Migration, missing, oldest_after
from trioqueue.store.options import PostgresOptions
from trioqueue.store.postgres.connection import TrioConnection, answer_within, connect, in_plain_words
from trioqueue.store.postgres.queries import migrations_of, named

CONNECT_SECONDS = 10.0
MIGRATION_SECONDS = 600.0

OLDEST_SERVER = 14

LOCK = "SELECT pg_advisory_xact_lock(hashtext('trioqueue'), hashtext(%s))"
EXISTS = """
SELECT EXISTS (
    SELECT FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
    WHERE space.nspname = %s AND class.relname = %s
)
"""
"""to_regclass() would answer from a cache, in which a table that somebody has just made is still missing."""

PATIENCE = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0"

VIRTUAL_NOW = """
CREATE OR REPLACE FUNCTION trioqueue.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN current_setting('virtual.now')::timestamptz
"""
"""The clock of a schema for tests: each session is told what time it is before it asks."""


async def migrate_postgres(url: str, options: PostgresOptions, *, print_only: bool = False) -> Migrated:
    """Bring the schema at `url` to the newest version; with `print_only`, say what that would take.

    Raises `ConfigError` for a server or a schema that can never work, `StoreUnavailable` for one
    that does not work now.
    """
    connection = await connect(url, within=CONNECT_SECONDS)
    try:
        return await prepare(connection, options, virtual_time=False, print_only=print_only)
    finally:
        connection.discard()


async def prepare(
    connection: TrioConnection, options: PostgresOptions, *, virtual_time: bool, print_only: bool = False
) -> Migrated:
    """Check the server, and migrate the schema. `virtual_time`: it is for tests, and made for them."""
    if problems := options.problems():
        raise ConfigError(problems)
    with in_plain_words(), answer_within(CONNECT_SECONDS):
        await _check_server(connection, options)
    migrations = migrations_of(options)
    try:
        with in_plain_words(), answer_within(MIGRATION_SECONDS):
            before, wanted = await _look(connection, options, migrations)
            has_schema = await _has_schema(connection, options)
            if wanted and not print_only:
                await _apply(connection, options, migrations, virtual_time=virtual_time)
            if not print_only:
                await _check_time(connection, options, virtual_time=virtual_time)
    except errors.InsufficientPrivilege as error:
        problem = (
            f"the role may not use or change the schema {options.schema!r} ({_first_line(error)}); "
            "run `trioqueue migrate` as a role that may (for the first time it needs CREATE on the database, "
            "or a schema of its own), and grant this role the use of the tables"
        )
        raise ConfigError([problem]) from error
    except (errors.DuplicateTable, errors.DuplicateFunction, errors.UndefinedColumn) as error:
        problem = (
            f"the schema {options.schema!r} is in use by another program ({_first_line(error)}); "
            "choose TRIOQUEUE_POSTGRES_SCHEMA or TRIOQUEUE_POSTGRES_TABLE_PREFIX"
        )
        raise ConfigError([problem]) from error
    script = _script(options, migrations, wanted, has_schema=has_schema) if wanted else ""
    return Migrated(before, max(before, len(migrations)), script and f"BEGIN;\n\n{script}\nCOMMIT;\n")


async def _look(
    connection: TrioConnection, options: PostgresOptions, migrations: Sequence[Migration]
) -> tuple[int, Sequence[Migration]]:
    """The schema's version, and the migrations that it lacks."""
    meta = named("trioqueue.meta", options)
    names = [options.schema, f"{options.table_prefix}meta"]
    [(exists,)] = await (await connection.execute(EXISTS, names)).fetchall()
    if not exists:
        return 0, migrations
    rows = await (await connection.execute(f"SELECT version, oldest FROM {meta}".encode())).fetchall()
    [(version, oldest)] = rows
    return version, missing(migrations, version=version, oldest=oldest)


async def _apply(
    connection: TrioConnection,
    options: PostgresOptions,
    migrations: Sequence[Migration],
    *,
    virtual_time: bool,
) -> None:
    async with connection.transaction():
        await connection.execute(PATIENCE)
        await connection.execute(LOCK, [options.schema])
        # Asked again under the lock: another node may have been faster.
        before, wanted = await _look(connection, options, migrations)
        has_schema = await _has_schema(connection, options)
        await connection.execute(_script(options, migrations, wanted, has_schema=has_schema).encode())
        if before == 0 and virtual_time:
            await connection.execute(named(VIRTUAL_NOW, options).encode())
            await connection.execute(named("UPDATE trioqueue.meta SET virtual_time = true", options).encode())


def _script(
    options: PostgresOptions,
    migrations: Sequence[Migration],
    wanted: Sequence[Migration],
    *,
    has_schema: bool,
) -> str:
    """All that is to be done, as one text; to be run in a transaction."""
    # Not IF NOT EXISTS: that asks for the right to create schemas even where there is nothing to create.
    parts = [] if has_schema else [f'CREATE SCHEMA "{options.schema}";\n']
    for migration in wanted:
        oldest = oldest_after(migrations, migration.number)
        note = f"UPDATE trioqueue.meta SET version = {migration.number}, oldest = {oldest};\n"
        parts += [migration.sql, named(note, options)]
    return "\n".join(parts)


async def _has_schema(connection: TrioConnection, options: PostgresOptions) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)"
    [(exists,)] = await (await connection.execute(query, [options.schema])).fetchall()
    return bool(exists)


async def _check_time(connection: TrioConnection, options: PostgresOptions, *, virtual_time: bool) -> None:
    query = named("SELECT virtual_time FROM trioqueue.meta", options).encode()
    [(is_virtual,)] = await (await connection.execute(query)).fetchall()
    if is_virtual != virtual_time:
        kind = "virtual time, for tests" if is_virtual else "real time"
        problem = f"the schema {options.schema!r} was made for {kind}; set another TRIOQUEUE_POSTGRES_SCHEMA"
        raise ConfigError([problem])


async def _check_server(connection: TrioConnection, options: PostgresOptions) -> None:
    """Refuse a server that would break a promise."""
    names = ("server_version_num", "server_encoding", "synchronous_commit", "fsync", "transaction_read_only")
    row = await (
        await connection.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
    ).fetchone()
    assert row is not None
    version, encoding, synchronous_commit, fsync, read_only = row
    problems = []
    if int(version) < OLDEST_SERVER * 10_000:
        problems.append(
            f"the server is PostgreSQL {int(version) // 10_000}; {OLDEST_SERVER} or newer is needed"
        )
    if encoding != "UTF8":
        problems.append(f"the database's encoding is {encoding}; create one with ENCODING 'UTF8'")
    if read_only == "on":
        problems.append("the server is read-only, perhaps a replica; connect to the primary")
    for name, value in (("synchronous_commit", synchronous_commit), ("fsync", fsync)):
        if value == "off" and not options.relaxed_durability:
            problems.append(
                f"the server has {name}=off: it says that a job is committed before it is on the disk, and "
                f"a crash would lose jobs that were accepted. Set {name}=on, or "
                "TRIOQUEUE_RELAXED_DURABILITY=true if you can bear that"
            )
    if problems:
        raise ConfigError(problems)


def _first_line(error: psycopg.Error) -> str:
    return str(error).partition("\n")[0]
