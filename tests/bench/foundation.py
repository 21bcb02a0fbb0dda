"""First figures: drain, durable POST, latency from enqueue to start, memory of a long backlog.

    python -m tests.bench.foundation [drain] [http] [latency] [memory]

Everything is on this machine and bounded. Absolute figures depend on it; quote the ratios.
"""

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import apsw
import trio

from trioqueue import Context, Handlers
from trioqueue.clock import WallClock
from trioqueue.config import load_settings
from trioqueue.jobs.job import Json, NewJob, NodeId, new_job_id
from trioqueue.node import Node
from trioqueue.store.open import open_store
from trioqueue.wire.jobs import JobRequest

JOBS = 60_000
POSTS = 4_000
CONNECTIONS = 16
PINGS = 300


def new_jobs(count: int, random: Random) -> list[NewJob]:
    now = WallClock().now()
    return [NewJob(id=new_job_id(now, random), type="noop", payload=Json(b"{}")) for _ in range(count)]


async def fill(url: str, count: int) -> None:
    random = Random(1)
    async with open_store(url, clock=WallClock(), random=random, node=NodeId("filler")) as store:
        for start in range(0, count, 5_000):
            await store.enqueue(new_jobs(min(5_000, count - start), random))


def noop_handlers(done: Callable[[], None]) -> Handlers:
    handlers = Handlers()

    @handlers.handler("noop")
    async def noop(ctx: Context) -> None:
        done()

    return handlers


async def drained_in(url: str, count: int) -> float:
    """Seconds that ten workers take for `count` no-op jobs, from the first claim to the last settle."""
    left = count
    finished = trio.Event()

    def done() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            finished.set()

    async with trio.open_nursery() as nursery:
        node = Node(load_settings(store=url, log_level="error"), noop_handlers(done))
        began = time.perf_counter()
        await nursery.start(node.run)
        await finished.wait()
        node.stop()
        await node.stopped.wait()
        return time.perf_counter() - began


def raw_loop(directory: Path, count: int) -> float:
    """The same writes without a queue around them: claim 100, settle 100 with a ledger row, commit each."""
    connection = apsw.Connection(str(directory / "raw.db"))
    connection.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
    connection.execute(
        "CREATE TABLE jobs (id INTEGER PRIMARY KEY, status TEXT, epoch INT, lease INT, payload BLOB);"
        "CREATE INDEX due ON jobs (id) WHERE status = 'pending';"
        "CREATE TABLE attempts (id INT, epoch INT, outcome TEXT, PRIMARY KEY (id, epoch)) WITHOUT ROWID"
    )
    with connection:
        connection.executemany(
            "INSERT INTO jobs VALUES (?, 'pending', 0, NULL, '{}')", ((n,) for n in range(count))
        )
    began = time.perf_counter()
    for _ in range(count // 100):
        with connection:
            claimed = connection.execute(
                "UPDATE jobs SET status = 'processing', epoch = epoch + 1, lease = 1 WHERE id IN"
                " (SELECT id FROM jobs WHERE status = 'pending' ORDER BY id LIMIT 100) RETURNING id, epoch"
            ).fetchall()
        with connection:
            for row in claimed:
                connection.execute(
                    "UPDATE jobs SET status = 'completed'"
                    " WHERE id = ? AND epoch = ? AND status = 'processing'",
                    row,
                )
                connection.execute("INSERT INTO attempts VALUES (?, ?, 'completed')", row)
    return time.perf_counter() - began


def drain(directory: Path) -> None:
    raw, ours = [], []
    for turn in range(3):
        sub = directory / f"drain{turn}"
        sub.mkdir()
        raw.append(JOBS / raw_loop(sub, JOBS))
        url = f"sqlite:///{sub}/jobs.db"
        trio.run(fill, url, JOBS)
        ours.append(JOBS / trio.run(drained_in, url, JOBS))
    report("drain, 10 workers, SQLite", ours, "raw claim+settle loop", raw, "jobs/s")


@contextmanager
def service(directory: Path, **environment: str) -> Iterator[int]:
    """The exact command on a free port, in demo mode without sleeping."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "hypercorn", "trioqueue.app:app", "--bind", f"127.0.0.1:{port}"],
        cwd=directory,
        env={**os.environ, "TRIOQUEUE_DEMO_SECONDS": "0", "TRIOQUEUE_LOG_LEVEL": "error", **environment},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        began = time.perf_counter()
        while True:
            try:
                request(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/livez")
                break
            except OSError:
                if time.perf_counter() - began > 20:
                    raise
                time.sleep(0.02)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> bytes:
    connection.request(method, path, body, {"Content-Type": "application/json"})
    return connection.getresponse().read()


BODY = b'{"type": "noop", "payload": {"path": "a.png", "width": 200}}'


def posts_per_second(port: int, connections: int, path: str = "/jobs", method: str = "POST") -> float:
    each = POSTS // connections

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(each):
            request(connection, method, path, BODY if method == "POST" else None)

    threads = [threading.Thread(target=client) for _ in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return each * connections / (time.perf_counter() - began)


def http_posts(directory: Path) -> None:
    sub = directory / "http"
    sub.mkdir()
    posts: list[float] = []
    probes: list[float] = []
    with service(sub, WORKER_COUNT="0") as port:
        for _ in range(3):
            probes.append(posts_per_second(port, CONNECTIONS, "/livez", "GET"))
            posts.append(posts_per_second(port, CONNECTIONS))
    report(
        f"durable POST /jobs, {CONNECTIONS} connections",
        posts,
        "GET /livez, same client",
        probes,
        "requests/s",
    )


def latency(directory: Path) -> None:
    """From the handing-over of a job to the start of its handler, one at a time, in one idle process."""
    url = f"sqlite:///{directory}/latency.db"

    async def measure() -> list[float]:
        started = trio.Event()
        began = 0.0
        seconds: list[float] = []

        def done() -> None:
            seconds.append(time.perf_counter() - began)
            started.set()

        async with trio.open_nursery() as nursery:
            node = Node(load_settings(store=url, log_level="error"), noop_handlers(done))
            await nursery.start(node.run)
            for _ in range(PINGS):
                started = trio.Event()
                began = time.perf_counter()
                await node.service.enqueue(JobRequest(type="noop", payload={}))
                await started.wait()
                await trio.sleep(0.01)
            node.stop()
            await node.stopped.wait()
        return seconds

    seconds = sorted(trio.run(measure))
    print(
        f"enqueue to start, idle, {PINGS} jobs: p50 {seconds[len(seconds) // 2] * 1000:.2f} ms, "
        f"p99 {seconds[int(len(seconds) * 0.99)] * 1000:.2f} ms"
    )


def memory(directory: Path) -> None:
    """Resident memory of the service beside 1,000 and beside 1,000,000 waiting jobs."""
    for count in (1_000, 1_000_000):
        sub = directory / f"memory{count}"
        sub.mkdir()
        trio.run(fill, f"sqlite:///{sub}/trioqueue.db", count)
        with service(sub, TRIOQUEUE_DEMO_SECONDS="0.2") as port:
            time.sleep(5)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            health = json.loads(request(connection, "GET", "/health"))
            rss = max(rss_of_children())
        print(f"memory with {count} jobs waiting: {rss / 1024:.0f} MiB; jobs now {health['jobs']}")


def rss_of_children() -> list[int]:
    """KiB of each descendant of this process (hypercorn's parent and its worker)."""
    table = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,rss="], capture_output=True, text=True, check=True
    ).stdout
    rows = [tuple(map(int, line.split())) for line in table.splitlines()]
    mine, found = {os.getpid()}, []
    for _ in range(4):
        for pid, parent, rss in rows:
            if parent in mine and pid not in mine:
                mine.add(pid)
                found.append(rss)
    return found


def report(name: str, ours: list[float], other_name: str, other: list[float], unit: str) -> None:
    ratio = statistics.median(one / two for one, two in zip(ours, other, strict=True))
    print(
        f"{name}: {statistics.median(ours):,.0f} {unit}; {other_name}: {statistics.median(other):,.0f}; "
        f"ratio {ratio:.2f} (median of {len(ours)} pairs)",
        flush=True,
    )


ALL: dict[str, Callable[[Path], None]] = {
    "drain": drain,
    "http": http_posts,
    "latency": latency,
    "memory": memory,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name in sys.argv[1:] or ALL:
            ALL[name](Path(directory))


if __name__ == "__main__":
    main()
