"""The PostgreSQL store, measured beside the server alone: rates, drain, latency between nodes, growth.

    python -m tests.bench.postgres [rates] [drain] [cost] [latency] [growth]

Starts a server of its own, which flushes. Everything is on this machine and bounded. Absolute figures
depend on it; quote the ratios.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psycopg
import trio

from tests.bench.foundation import drained_in, new_jobs, noop_handlers, report
from tests.postgres.server import Server, start_server
from tests.postgres.volume import Volume, buffers, calls
from trioqueue.clock import WallClock
from trioqueue.config import load_settings
from trioqueue.jobs.job import NewJob, NodeId
from trioqueue.jobs.outcome import Completed
from trioqueue.node import Node
from trioqueue.store.open import migrate_store, open_store
from trioqueue.store.options import PostgresOptions
from trioqueue.store.protocol import Settlement, Store
from trioqueue.wire.jobs import JobRequest

JOBS = 40_000
SINGLE = 4_000
CLIENTS = 16
BATCH = 100
PINGS = 300
TURNS = 3
CLAIMS = 200

RAW = """
CREATE TABLE raw_jobs (
    id bigint PRIMARY KEY, status text NOT NULL, epoch bigint NOT NULL, lease timestamptz, payload text
);
CREATE INDEX raw_due ON raw_jobs (id) WHERE status = 'pending';
CREATE TABLE raw_attempts (id bigint, epoch bigint, outcome text, PRIMARY KEY (id, epoch));
"""
RAW_CLAIM = """
UPDATE raw_jobs SET status = 'processing', epoch = epoch + 1, lease = now() + interval '30 s'
WHERE id IN (
    SELECT id FROM raw_jobs WHERE status = 'pending' ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING id, epoch, payload
"""
RAW_SETTLE = """
WITH settled AS (
    UPDATE raw_jobs SET status = 'completed', lease = NULL
    FROM unnest(%s::bigint[], %s::bigint[]) AS input (id, epoch)
    WHERE raw_jobs.id = input.id AND raw_jobs.epoch = input.epoch AND raw_jobs.status = 'processing'
    RETURNING raw_jobs.id, raw_jobs.epoch
)
INSERT INTO raw_attempts SELECT id, epoch, 'completed' FROM settled
"""

numbers = itertools.count(1)


def fresh(server: Server) -> str:
    return server.create_database(f"bench_{next(numbers)}")


async def fill(url: str, count: int) -> None:
    random = Random(1)
    async with open_store(url, clock=WallClock(), random=random, node=NodeId("filler")) as store:
        for start in range(0, count, 1_000):
            await store.enqueue(new_jobs(min(1_000, count - start), random))


async def fill_singly(url: str, count: int) -> None:
    """Each job in a call of its own, as POST /jobs does, sixteen at a time."""
    random = Random(2)
    jobs = new_jobs(count, random)

    async def client(store: Store, mine: Sequence[NewJob]) -> None:
        for job in mine:
            await store.enqueue([job])

    async with (
        open_store(url, clock=WallClock(), random=random, node=NodeId("filler")) as store,
        trio.open_nursery() as nursery,
    ):
        for number in range(CLIENTS):
            nursery.start_soon(client, store, jobs[number::CLIENTS])


async def store_rates(url: str) -> tuple[float, float]:
    """Jobs claimed and jobs settled per second, a batch at a time, one caller."""
    await fill(url, JOBS // 2)
    claiming = settling = 0.0
    async with open_store(url, clock=WallClock(), random=Random(1), node=NodeId("bench")) as store:
        for _ in range(JOBS // 2 // BATCH):
            began = time.perf_counter()
            claims = await store.claim(
                node=NodeId("bench"), types=frozenset({"noop"}), limit=BATCH, lease_seconds=30
            )
            claimed = time.perf_counter()
            await store.settle([Settlement(claim, Completed(), 1) for claim in claims])
            claiming += claimed - began
            settling += time.perf_counter() - claimed
    return JOBS / 2 / claiming, JOBS / 2 / settling


def raw_rates(url: str) -> tuple[float, float]:
    """The same with two tables, one index and no queue around them."""
    claiming = settling = 0.0
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(RAW.encode())
        insert = b"INSERT INTO raw_jobs SELECT n, 'pending', 0, NULL, '{}' FROM generate_series(1, %s) AS n"
        connection.execute(insert, [JOBS // 2])
        for _ in range(JOBS // 2 // BATCH):
            began = time.perf_counter()
            rows = connection.execute(RAW_CLAIM.encode(), [BATCH]).fetchall()
            claimed = time.perf_counter()
            connection.execute(RAW_SETTLE.encode(), [[row[0] for row in rows], [row[1] for row in rows]])
            claiming += claimed - began
            settling += time.perf_counter() - claimed
    return JOBS / 2 / claiming, JOBS / 2 / settling


def rates(server: Server) -> None:
    ours, raw = [], []
    for _ in range(TURNS):
        raw.append(raw_rates(fresh(server)))
        ours.append(trio.run(store_rates, fresh(server)))
    for number, what in enumerate(("claim", "settle")):
        report(
            f"{what}, batches of {BATCH}",
            [pair[number] for pair in ours],
            "raw SQL of the same shape",
            [pair[number] for pair in raw],
            "jobs/s",
        )


def drain(server: Server) -> None:
    """No-op jobs, ten workers a process, from the first start to the last settled job."""
    one, raw, two = [], [], []
    for _ in range(TURNS):
        claimed, settled = raw_rates(fresh(server))
        raw.append(1 / (1 / claimed + 1 / settled))
        url = fresh(server)
        trio.run(fill, url, JOBS)
        one.append(JOBS / trio.run(drained_in, url, JOBS))
        two.append(drained_by_two(server))
    report("drain, one process, 10 workers", one, "raw claim and settle in turns", raw, "jobs/s")
    report("drain, two processes", two, "one process", one, "jobs/s")


def drained_by_two(server: Server) -> float:
    url = fresh(server)
    trio.run(fill, url, JOBS)
    return drained_by_workers(2, url)


def drained_by_workers(count: int, url: str) -> float:
    """Jobs per second of worker processes, by the ledger: first start to last end."""
    environment = {"TRIOQUEUE_STORE": url, "TRIOQUEUE_HANDLERS": "tests.bench.postgres:handlers"}
    with processes(count, environment), psycopg.connect(url, autocommit=True) as connection:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            row = connection.execute("SELECT count(*) FROM trioqueue.live").fetchone()
            if row == (0,):
                break
            time.sleep(0.1)
        spans = connection.execute(
            "SELECT count(*), extract(epoch FROM max(ended_at) - min(started_at)) FROM trioqueue.attempts"
        ).fetchone()
    assert spans is not None
    return float(spans[0]) / float(spans[1])


@contextmanager
def processes(count: int, environment: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "trioqueue", "worker"]
    root = Path(__file__).parent.parent.parent
    started = [
        subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, **environment, "TRIOQUEUE_LOG_LEVEL": "error"},
            stderr=subprocess.DEVNULL,
        )
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


def cost(server: Server) -> None:
    """What one job takes of the server and of a node: processor time, log and disk. For sizing."""
    url = fresh(server)
    before = usage(server)
    trio.run(fill, url, JOBS)
    enqueued = usage(server)
    drained_by_workers(1, url)
    drained = usage(server)
    trio.run(fill_singly, url, SINGLE)
    singly = usage(server)
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'trioqueue'::regnamespace"
        ).fetchone()
    assert row is not None
    for what, jobs, start, end in (
        ("enqueue, batches of 1,000", JOBS, before, enqueued),
        ("enqueue, one at a time", SINGLE, drained, singly),
        ("claim, run, settle", JOBS, enqueued, drained),
    ):
        print(
            f"{what}: server {(end.cpu - start.cpu) / jobs * 1e6:.0f} µs of CPU, "
            f"log {(end.log - start.log) / jobs:,.0f} bytes a job",
            flush=True,
        )
    print(f"a finished job takes {float(row[0]) / JOBS:,.0f} bytes of disk", flush=True)


class Usage(NamedTuple):
    """What a server has used so far: seconds of processor time, bytes of write-ahead log."""

    cpu: float
    log: float


def usage(server: Server) -> Usage:
    time.sleep(1)  # backends that have just ended are counted with their parent
    postmaster = int((server.directory / "data" / "postmaster.pid").read_text().split()[0])
    ticks = 0
    for entry in Path("/proc").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(entry.name) == postmaster:
                    ticks += sum(map(int, fields[11:15]))
                elif int(fields[1]) == postmaster:
                    ticks += sum(map(int, fields[11:13]))
    [(log,)] = server.psql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), float(log))


def latency(server: Server) -> None:
    """From the handing-over on one node to the start of the handler on another, both idle."""
    url = fresh(server)
    seconds = sorted(trio.run(latencies, url))
    print(
        f"enqueue on one node to start on another, {len(seconds)} jobs: "
        f"p50 {seconds[len(seconds) // 2] * 1000:.2f} ms, "
        f"p99 {seconds[int(len(seconds) * 0.99)] * 1000:.2f} ms",
        flush=True,
    )


async def latencies(url: str) -> list[float]:
    started = trio.Event()
    began = 0.0
    seconds: list[float] = []

    def done() -> None:
        seconds.append(time.perf_counter() - began)
        started.set()

    async with trio.open_nursery() as nursery:
        common: dict[str, Any] = {"store": url, "log_level": "error"}
        asking = Node(load_settings(**common, worker_count=0), noop_handlers(done))
        working = Node(load_settings(**common), noop_handlers(done))
        await nursery.start(asking.run)
        await nursery.start(working.run)
        await trio.sleep(0.5)
        for _ in range(PINGS):
            started = trio.Event()
            began = time.perf_counter()
            await asking.service.enqueue(JobRequest(type="noop", payload={}))
            await started.wait()
            await trio.sleep(0.06)  # longer than the pause between two notifications
        for node in (asking, working):
            node.stop()
            await node.stopped.wait()
    return seconds


def growth(server: Server) -> None:
    """A claim of ten with 10,000 and with 1,000,000 pending jobs, and every query's cost beside many jobs."""
    options = PostgresOptions(schema="volume")
    url = fresh(server)
    trio.run(lambda: migrate_store(url, postgres=options))
    with psycopg.connect(url, autocommit=True) as connection:
        volume = Volume(connection, options)
        volume.processing(100)
        volume.pending(10_000)
        volume.analyze()
        few, pages_few = claim_cost(volume)
        volume.pending(990_000)
        volume.analyze()
        many, pages_many = claim_cost(volume)
    print(
        f"claim of 10 beside 10,000 pending: {few:.3f} ms, {pages_few} pages; "
        f"beside 1,000,000: {many:.3f} ms, {pages_many} pages; "
        f"ratio {many / few:.2f} in time, {pages_many / pages_few:.2f} in pages (medians of {CLAIMS})",
        flush=True,
    )


def claim_cost(volume: Volume) -> tuple[float, int]:
    sql, values = calls(volume)["claim"]
    plans = [volume.explain(sql, values, run=True) for _ in range(CLAIMS)]
    times = [plan["Execution Time"] + plan["Planning Time"] for plan in plans]
    return statistics.median(times), buffers(plans[-1])


handlers = noop_handlers(lambda: None)
"""For the worker processes."""

ALL: dict[str, Callable[[Server], None]] = {
    "rates": rates,
    "drain": drain,
    "cost": cost,
    "latency": latency,
    "growth": growth,
}


def main() -> None:
    with start_server(settings={"shared_buffers": "512MB", "max_wal_size": "4GB"}) as server:
        for name in sys.argv[1:] or ALL:
            ALL[name](server)


if __name__ == "__main__":
    main()
