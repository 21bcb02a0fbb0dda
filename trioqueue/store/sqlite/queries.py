"""The `.sql` files beside this one, read once when a store is opened."""

from importlib.resources import files

from trioqueue.store.rows import ATTEMPT_COLUMNS, JOB_COLUMNS

Queries = dict[str, str]
"""SQL by the name of its file."""


def read_queries() -> Queries:
    """Every query, without its comments and with the columns of the records filled in."""
    directory = files(__package__) / "sql"
    return {
        file.name.removesuffix(".sql"): _fill_in(file.read_text("utf-8"))
        for file in directory.iterdir()
        if file.name.endswith(".sql")
    }


def _fill_in(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return (
        "\n".join(lines)
        .replace("{job_columns}", JOB_COLUMNS)
        .replace("{job_values}", _marks(JOB_COLUMNS))
        .replace("{attempt_columns}", ATTEMPT_COLUMNS)
        .replace("{attempt_values}", _marks(ATTEMPT_COLUMNS))
    )


def _marks(columns: str) -> str:
    return ", ".join("?" * len(columns.split(",")))
