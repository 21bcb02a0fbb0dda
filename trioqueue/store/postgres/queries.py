"""The `.sql` files beside this one, read once when a store is opened.

In the files every table, function and sequence stands as `trioqueue.name`, and the name of an index,
which has no schema, as `{prefix}name`. The configured schema and prefix are put there; they have been
checked to be plain identifiers.
"""

import re
from collections.abc import Sequence
from importlib.resources import files

from trioqueue.store.migrations import Migration, read_migrations
from trioqueue.store.options import PostgresOptions
from trioqueue.store.postgres.rows import CLAIMED_COLUMNS, JOB_COLUMNS
from trioqueue.store.sql import Queries, read_queries

_NAME = re.compile(r"\btrioqueue\.([a-z_]+)\b")


def named(sql: str, options: PostgresOptions) -> str:
    """`sql` with the names of this service's own schema and tables."""
    prefix = options.table_prefix
    return _NAME.sub(rf'"{options.schema}"."{prefix}\1"', sql).replace("{prefix}", prefix)


def queries_of(options: PostgresOptions) -> Queries:
    """Every query, without its comments and with the columns of a job filled in."""
    columns = {"{job_columns}": JOB_COLUMNS, "{claimed_columns}": CLAIMED_COLUMNS}
    read = read_queries(files(__package__) / "sql", columns)
    return {name: named(sql, options) for name, sql in read.items()}


def migrations_of(options: PostgresOptions) -> Sequence[Migration]:
    """The migrations, for this service's own names."""
    read = read_migrations(files(__package__) / "sql" / "migrations")
    return [Migration(each.number, each.name, named(each.sql, options), each.oldest) for each in read]
