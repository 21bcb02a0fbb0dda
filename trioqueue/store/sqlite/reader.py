"""Short, indexed reads, right on the loop: a few microseconds each, beside any write."""

from pathlib import Path
from typing import cast

import apsw

from trioqueue.store.rows import Row
from trioqueue.store.sql import Queries
from trioqueue.store.sqlite.connection import STORE_ERRORS, close, connect_reader, unavailable
from trioqueue.store.sqlite.transaction import Values


class Reader:
    """Sees every commit that was made before the read began."""

    def __init__(self, path: Path, queries: Queries) -> None:
        self._path = path
        self._queries = queries
        self._connection: apsw.Connection | None = None

    def __repr__(self) -> str:
        return f"<Reader {self._path}>"

    def read(self, query: str, values: Values = (), *, filters: str = "") -> list[Row]:
        """All rows of a query; `filters` is SQL that stands in for its `{filters}`."""
        sql = self._queries[query]
        if "{filters}" in sql:
            sql = sql.replace("{filters}", filters)
        try:
            if self._connection is None:
                self._connection = connect_reader(self._path)
            return cast(list[Row], self._connection.execute(sql, values).fetchall())
        except STORE_ERRORS as error:
            self.close()  # the next read connects anew
            raise unavailable(error) from error

    def close(self) -> None:
        close(self._connection)
        self._connection = None
