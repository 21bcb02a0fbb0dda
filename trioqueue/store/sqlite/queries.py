"""The `.sql` files beside this one, read once when a store is opened."""

from importlib.resources import files

from trioqueue.store import sql
from trioqueue.store.rows import ATTEMPT_COLUMNS, JOB_COLUMNS
from trioqueue.store.sql import Queries


def read_queries() -> Queries:
    """Every query, with the columns of the records filled in."""
    parts = {
        "{job_columns}": JOB_COLUMNS,
        "{job_values}": _marks(JOB_COLUMNS),
        "{attempt_columns}": ATTEMPT_COLUMNS,
        "{attempt_values}": _marks(ATTEMPT_COLUMNS),
    }
    return sql.read_queries(files(__package__) / "sql", parts)


def _marks(columns: str) -> str:
    return ", ".join("?" * len(columns.split(",")))
