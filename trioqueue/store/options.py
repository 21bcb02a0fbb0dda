"""What may be chosen about a PostgreSQL store besides its URL. Needs no driver."""

from dataclasses import dataclass

from trioqueue.config import check_postgres_name, check_postgres_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresOptions:
    """Names that keep two services in one database apart, and how careful and how many to be."""

    schema: str = "trioqueue"
    table_prefix: str = ""
    channel: str | None = None
    """For LISTEN and NOTIFY. None: made of `schema` and `table_prefix`."""
    connections: int = 5
    """At most so many for the calls of a node. One more listens; handlers' transactions have their own."""
    relaxed_durability: bool = False
    """Start although the server acknowledges commits that it has not flushed."""

    @property
    def channel_name(self) -> str:
        if self.channel is not None:
            return self.channel
        # With a dot, which none of them can have: so no two services make the same of different parts.
        return f"{self.schema}.{self.table_prefix}" if self.table_prefix else self.schema

    def problems(self) -> list[str]:
        """What is wrong with these names, for people. They go into SQL, so they are checked strictly."""
        problems = []
        for what, value, check in (
            ("schema", self.schema, check_postgres_name),
            ("table prefix", self.table_prefix, check_postgres_prefix),
            ("channel", self.channel, check_postgres_name),
        ):
            try:
                if value is not None:
                    check(value)
            except ValueError as error:
                problems.append(f"the PostgreSQL {what} {value!r} cannot be used; {error}")
        return problems
