"""A small site with a fake node behind it, for the tests of the hosting layer: `fake_site:app`.

The environment says how the node behaves; see `FakeNode`.
"""

import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import trio
from quart import Response, request

from trioqueue.errors import ConfigError, StoreUnavailable
from trioqueue.health import Health
from trioqueue.metrics import Metrics
from trioqueue.service.service import Service
from trioqueue.web.limits import Limits
from trioqueue.web.site import Site

LIMITS = Limits(
    connections=40,
    idle_seconds=1.0,
    head_seconds=1.5,
    body_seconds=1.5,
    write_seconds=1.0,
    drain_seconds=0.5,
)


class FakeNode:
    """Runs one pretended job, which `FAKE_JOB` describes:

    idle      there is none
    short     ends by itself 0.5 seconds after `stop`
    uneven    as short, but in the second process that stops it takes 1.5 seconds
    long      never ends by itself, but can be cancelled
    stubborn  swallows every cancellation
    blocking  blocks the event loop for ever, soon after the start
    crash     breaks the node, soon after the start
    badconfig, nostore   it cannot start
    """

    def __init__(self) -> None:
        self.job = os.environ.get("FAKE_JOB", "idle")
        self.grace_seconds = float(os.environ.get("FAKE_GRACE", "1"))
        self.is_demo = False
        self.workers = 1
        self.health = Health.__new__(Health)
        self.metrics = Metrics.__new__(Metrics)
        self.service = Service.__new__(Service)
        self.draining = trio.Event()
        self.stopped = trio.Event()
        self.leases_left = 0
        self._stopping = trio.Event()
        self._cutting = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self.job == "badconfig":
            raise ConfigError(["WORKER_COUNT: too many", "STORE: unknown"])
        if self.job == "nostore":
            raise StoreUnavailable("no such directory")
        note("started")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._be_cancelled)
                with trio.CancelScope(shield=True) as scope:
                    async with trio.open_nursery() as workers:
                        workers.start_soon(self._work)
                        task_status.started()
                        await self._stopping.wait()
                        note("stopping")
                        scope.deadline = trio.current_time() + self.grace_seconds
                        if self._cutting.is_set():
                            scope.cancel()
                        workers.start_soon(self._cut, scope)
                        if self.job in ("idle", "short", "uneven"):
                            await trio.sleep(self._job_seconds())
                            workers.cancel_scope.cancel()
                nursery.cancel_scope.cancel()
            note("drained")
        finally:
            self.stopped.set()

    def close_intake(self) -> None:
        self.draining.set()

    def stop(self) -> None:
        self.close_intake()
        self._stopping.set()

    def cut(self) -> None:
        self._cutting.set()
        self.stop()

    def _job_seconds(self) -> float:
        match self.job:
            case "short":
                return 0.5
            case "uneven":
                return 0.5 + read_trace().count("stopping") - 1
            case _:
                return 0.0

    async def _be_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.stop()

    async def _cut(self, scope: trio.CancelScope) -> None:
        await self._cutting.wait()
        scope.cancel()

    async def _work(self) -> None:
        match self.job:
            case "crash":
                await trio.sleep(0.5)
                raise RuntimeError("the pretended bug")
            case "blocking":
                self.leases_left = 1
                await trio.sleep(0.5)
                note("busy")
                time.sleep(60)  # noqa: ASYNC251
            case "stubborn":
                self.leases_left = 1
                await trio.sleep(0.5)
                note("busy")
                while True:
                    try:
                        await trio.sleep_forever()
                    except trio.Cancelled:
                        with trio.CancelScope(shield=True):
                            await trio.sleep(0.05)
            case _:
                await trio.sleep_forever()


def note(word: str) -> None:
    """Leave a trace that outlives the process."""
    if path := os.environ.get("FAKE_TRACE"):
        with Path(path).open("a") as trace:
            trace.write(f"{os.getpid()} {word}\n")


def read_trace() -> list[str]:
    """The words that were noted so far, by all processes."""
    return [line.split()[1] for line in Path(os.environ["FAKE_TRACE"]).read_text().splitlines()]


def count_fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


app = Site(make_node=FakeNode, max_body_bytes=100_000, limits=LIMITS)
committed: list[str] = []


@app.get("/")
async def instant() -> Response:
    return Response(json.dumps({"pid": os.getpid(), "fds": count_fds()}))


@app.post("/echo")
async def echo() -> Response:
    return Response(await request.get_data())


@app.post("/early")
async def early() -> tuple[str, int]:
    return "answered without a look at the body", 422


@app.get("/large")
async def large() -> Response:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(400):
            yield b"x" * 65536

    return Response(stream())


@app.get("/forever")
async def forever() -> Response:
    async def stream() -> AsyncIterator[bytes]:
        while True:
            yield b"tick\n"
            await trio.sleep(0.1)

    return Response(stream())


@app.get("/slow/<float:seconds>")
async def slow(seconds: float) -> str:
    await trio.sleep(seconds)
    return "slow"


@app.post("/commit/<key>")
async def commit(key: str) -> str:
    with trio.CancelScope(shield=True):
        await trio.sleep(0.3)
        committed.append(key)
    return "committed"


@app.get("/committed")
async def list_committed() -> str:
    return json.dumps(committed)


@app.get("/broken")
async def broken() -> str:
    raise RuntimeError("a bug in a route")


@app.get("/children")
async def children() -> str:
    """A route with a nursery whose child runs for as long as the request does."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.cancel_scope.cancel()
    return "children"
