"""Fills a store's tables with many jobs at once, and asks the server how it would run our queries."""

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import psycopg

from trioqueue.store.options import PostgresOptions
from trioqueue.store.postgres.queries import named, queries_of
from trioqueue.store.sql import Queries

Connection = psycopg.Connection[Any]

NODE = "volume"

FILL = """
WITH new AS (
    SELECT nextval('trioqueue.seq') AS seq, 'type-' || n %% %(types)s AS type, n
    FROM generate_series(1, %(jobs)s) AS n
), kept AS (
    INSERT INTO trioqueue.bodies (seq, id, type, queue, max_attempts, root_id, created_at, payload, tags)
    SELECT
        seq, gen_random_uuid(), type, 'default', 5, gen_random_uuid(), trioqueue.now(), '{}',
        CASE WHEN n %% 20 = 0 THEN '{t}'::text[] END
    FROM new
), tagged AS (
    INSERT INTO trioqueue.job_tags (tag, seq) SELECT 't', seq FROM new WHERE n %% 20 = 0
), counted AS (
    INSERT INTO trioqueue.counter_changes (status, queue, type, change)
    SELECT %(status)s, 'default', type, count(*) FROM new GROUP BY type
)
"""

LIVE = """
INSERT INTO trioqueue.live (
    seq, queue, type, priority, status, due, run_at, node, epoch, attempt, lease_until, started_at,
    deadline_at
)
SELECT
    seq, 'default', type, 0, %(status)s, %(due)s,
    trioqueue.now() + make_interval(secs => %(delay)s + 0.001 * (n %% 1000)),
    CASE WHEN %(status)s = 'processing' THEN 'volume' END, 1, 1,
    CASE WHEN %(status)s = 'processing' THEN trioqueue.now() + interval '1 minute' END,
    CASE WHEN %(status)s = 'processing' THEN trioqueue.now() END,
    CASE WHEN n %% 10 = 0 THEN trioqueue.now() + interval '1 day' END
FROM new
"""

ENDED = """
, ledger AS (
    INSERT INTO trioqueue.attempts (seq, epoch, number, node, started_at, ended_at, outcome)
    SELECT seq, 1, 1, 'volume', trioqueue.now(), trioqueue.now(), 'completed' FROM new
)
INSERT INTO trioqueue.ended (
    seq, status, priority, run_at, attempt, epoch, version, crash_count, finished_at
)
SELECT seq, %(status)s, 0, trioqueue.now(), 1, 1, 3, 0, trioqueue.now() - make_interval(secs => n) FROM new
"""


class Volume:
    """The tables of one schema, filled and asked from outside."""

    def __init__(self, connection: Connection, options: PostgresOptions, *, types: int = 3) -> None:
        self._connection = connection
        self._options = options
        self._types = types
        self.queries: Queries = queries_of(options)

    def pending(self, jobs: int) -> None:
        self._fill(FILL + LIVE, jobs=jobs, status="pending", due=True, delay=-3600.0)

    def delayed(self, jobs: int) -> None:
        self._fill(FILL + LIVE, jobs=jobs, status="pending", due=False, delay=3600.0)

    def processing(self, jobs: int) -> None:
        self._fill(FILL + LIVE, jobs=jobs, status="processing", due=False, delay=-3600.0)

    def finished(self, jobs: int) -> None:
        self._fill(FILL + ENDED, jobs=jobs, status="completed")

    def analyze(self) -> None:
        """As autovacuum does in its own time."""
        for table in ("bodies", "live", "ended", "attempts", "job_tags", "counters", "counter_changes"):
            self._connection.execute(named(f"VACUUM ANALYZE trioqueue.{table}", self._options).encode())

    def explain(self, query: str, values: Mapping[str, Any], *, run: bool = False) -> dict[str, Any]:
        """The plan of a query. With `run` it is carried out, and undone."""
        options = "ANALYZE, BUFFERS, FORMAT JSON" if run else "FORMAT JSON"
        with self._connection.transaction(force_rollback=True):
            text = f"EXPLAIN ({options}) {query}".encode()
            row = self._connection.execute(text, values).fetchone()
        assert row is not None
        plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
        found: dict[str, Any] = plan[0]
        return found

    def held(self, jobs: int) -> dict[str, Any]:
        """Some processing jobs, as parameters of the queries that are fenced."""
        rows = self._connection.execute(
            named(
                "SELECT bodies.id, live.epoch FROM trioqueue.live AS live JOIN trioqueue.bodies AS bodies"
                " USING (seq) WHERE status = 'processing' LIMIT %s",
                self._options,
            ).encode(),
            [jobs],
        ).fetchall()
        return {
            "n": list(range(len(rows))),
            "id": [id for id, _ in rows],
            "epoch": [epoch for _, epoch in rows],
        }

    def _fill(self, sql: str, **values: Any) -> None:
        self._connection.execute(named(sql, self._options).encode(), {**values, "types": self._types})


def nodes_of(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every node of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes_of(child)


def scanned_whole(plan: Mapping[str, Any]) -> set[str]:
    """The tables that a plan reads from end to end."""
    return {node["Relation Name"] for node in nodes_of(plan["Plan"]) if node["Node Type"] == "Seq Scan"}


def buffers(plan: Mapping[str, Any]) -> int:
    """Pages that a query touched: its cost, whatever else the machine does."""
    top = plan["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


def calls(volume: Volume, *, jobs: int = 10) -> dict[str, tuple[str, dict[str, Any]]]:
    """The queries whose cost must not grow, each with parameters as a node sends them."""
    held = volume.held(jobs)
    count = len(held["n"])
    types = ["type-0", "type-1", "other"]
    claim = {"node": NODE, "limit": jobs, "promoted": 1000, "lease_seconds": 30.0, "token": 1}
    settle: dict[str, Any] = {
        **held,
        "asked": [None] * count,
        "status": ["completed"] * count,
        "attempt": [1] * count,
        "crash_count": [0] * count,
        "wait_seconds": [None] * count,
        "reason": [None] * count,
        "result": [None] * count,
        "outcome": ["completed"] * count,
        "error": [None] * count,
        "worker": [1] * count,
        "expired": False,
    }
    failed = {key: value * 2 if isinstance(value, list) else value for key, value in settle.items()}
    failed["asked"] = [False] * count + [True] * count
    failed["status"] = ["pending"] * count + ["cancelled"] * count
    page = {
        "before": 2**62,
        "limit": 101,
        "status": "pending",
        "type": "type-0",
        "queue": "default",
        "tag": "t",
    }
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "claim": ("claim", {**claim, "types": types}),
        "claim of any type": ("claim", {**claim, "types": None}),
        "next due": ("next_due", {"types": types}),
        "next upkeep": ("next_upkeep", {}),
        "renew": ("renew", {**held, "lease_seconds": 30.0}),
        "rescue: look": ("expired", {"limit": 500}),
        "rescue: settle": ("settle", {**settle, "expired": True}),
        "expire: look": ("late", {"limit": 500}),
        "settle": ("settle", settle),
        "settle what has failed": ("settle", failed),
        "release": ("release", {"id": held["id"], "epoch": held["epoch"], "node": NODE, "tokens": []}),
        "get": ("job", {"id": held["id"][0]}),
        "attempts": ("attempts", {"id": held["id"][0]}),
        "cancel": ("cancel", {"id": held["id"][0]}),
        "redrive": ("redrive", {"n": held["n"], "id": held["id"]}),
        "prune": ("prune", {"status": "completed", "kept_for": timedelta(seconds=1), "limit": 1000}),
    }
    sql: dict[str, tuple[str, dict[str, Any]]] = {
        name: (volume.queries[query].replace("{skip_locked}", ""), dict(values))
        for name, (query, values) in found.items()
    }
    for name, table, filters, status in (
        ("list", "page_of_bodies", "", "pending"),
        ("list by type", "page_of_bodies", "AND type = %(type)s", "pending"),
        ("list by queue", "page_of_bodies", "AND queue = %(queue)s", "pending"),
        ("list pending", "page_of_live", "", "pending"),
        ("list completed", "page_of_ended", "", "completed"),
        ("list dead, of which there are none", "page_of_ended", "", "dead"),
        ("list by tag", "page_of_tag", "", "pending"),
    ):
        query = volume.queries["jobs"].replace("{page}", volume.queries[table].replace("{filters}", filters))
        sql[name] = (query, {**page, "status": status})
    return sql
