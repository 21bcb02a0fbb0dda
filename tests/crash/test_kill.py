"""No kill loses a job, settles one twice or leaves one stuck; see docs/crash-testing.md for longer runs."""

import time
from collections import Counter
from contextlib import AbstractAsyncContextManager, ExitStack
from datetime import datetime
from pathlib import Path
from random import Random, SystemRandom
from statistics import median
from typing import Any

import pytest
import trio

from tests.crash.audit import audit, read_runs
from tests.crash.kill import Ground, HostKind, ask, is_clean, is_drained, post, report, run, wait_ready
from tests.crash.ledger import read_ledger
from tests.web.hosts import Host, wait_until
from trioqueue.clock import WallClock
from trioqueue.jobs.job import Json, NewJob, NodeId, new_job_id
from trioqueue.store.open import open_store
from trioqueue.store.protocol import Hint, Store

BACKLOG = 100_000
READY_SECONDS = 2.0
WAKE_SECONDS = 0.05
TRIES = 21


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.mark.timeout(600)  # each cycle starts a service, which takes seconds on a busy machine
@pytest.mark.parametrize(("kind", "cycles"), [("asyncio", 30), ("asyncio-w2", 5)])
def test_kills_lose_nothing_and_settle_nothing_twice(kind: HostKind, cycles: int, tmp_path: Path) -> None:
    seed = SystemRandom().randrange(10**6)
    course, result = run(range(1, cycles + 1), seed, kind, tmp_path)
    table = "\n".join(report(course, result))
    assert is_clean(course, result), f"seed {seed}\n{table}"
    assert len(result.promises.acknowledged) > 100
    assert result.cut, "no kill hit a running job"


def test_it_is_ready_again_within_two_seconds_with_a_hundred_thousand_jobs_waiting(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(ground, BACKLOG + 5_000)
    with ground.start("asyncio") as host:
        assert wait_ready(host)
        host.kill()
    figures = [seconds_until_ready(ground) for _ in range(3)]
    with capsys.disabled():
        print(f"\nready again after {', '.join(f'{seconds:.2f}' for seconds in figures)} s")
    assert min(figures) < READY_SECONDS


def test_an_enqueue_in_one_process_wakes_the_other(ground: Ground) -> None:
    with ExitStack() as stack:
        accepting = stack.enter_context(ground.start("asyncio", WORKER_COUNT="0"))
        working = stack.enter_context(ground.start("asyncio"))
        assert wait_ready(accepting)
        assert wait_ready(working)
        jobs = [run_job(accepting, "quick", f"try-{number}") for number in range(TRIES)]
    assert median(seconds_to_start(job) for job in jobs) < WAKE_SECONDS


def test_an_enqueue_wakes_the_worker_processes_of_hypercorn(ground: Ground) -> None:
    with ground.start("asyncio-w2") as host:
        assert wait_ready(host)
        jobs = [run_job(host, "quick", f"try-{number}") for number in range(TRIES)]
    assert median(seconds_to_start(job) for job in jobs) < WAKE_SECONDS


async def test_an_enqueue_rings_the_other_node_on_the_same_file(ground: Ground) -> None:
    async with open_node(ground, "one") as one, open_node(ground, "other") as other:
        heard = [trio.Event() for _ in range(TRIES)]
        other.listen(lambda hint: heard[len(seconds)].set() if hint is Hint.WORK else None)
        seconds: list[float] = []
        for event in heard:
            await one.enqueue([new_job("quick", "a")])
            enqueued_at = trio.current_time()
            with trio.fail_after(5):
                await event.wait()
            seconds.append(trio.current_time() - enqueued_at)
    assert median(seconds) < WAKE_SECONDS


def test_a_surviving_process_runs_the_job_of_a_killed_one_again(ground: Ground) -> None:
    with ExitStack() as stack:
        doomed = stack.enter_context(ground.start("asyncio"))
        assert wait_ready(doomed)
        job_id = start_hanging_job(ground, doomed)
        surviving = stack.enter_context(ground.start("asyncio"))
        assert wait_ready(surviving)
        killed_at = time.monotonic()
        doomed.kill()
        job = wait_completed(surviving, job_id)
        seconds = time.monotonic() - killed_at
    assert seconds < 5, "its lease would have run for 30 s"
    assert_crashed_once(job)


def test_the_next_start_runs_the_job_of_a_killed_process_again(ground: Ground) -> None:
    with ground.start("asyncio") as doomed:
        assert wait_ready(doomed)
        job_id = start_hanging_job(ground, doomed)
        killed_at = time.monotonic()
        doomed.kill()
    with ground.start("asyncio") as next_one:
        assert wait_ready(next_one)
        job = wait_completed(next_one, job_id)
        seconds = time.monotonic() - killed_at
    assert seconds < 10, "its lease would have run for 30 s"
    assert_crashed_once(job)


@pytest.mark.parametrize("kinds", [["asyncio", "asyncio"], ["serve", "trio"], ["asyncio-w2"]], ids="+".join)
def test_two_healthy_processes_run_each_job_once(ground: Ground, kinds: list[HostKind]) -> None:
    with ExitStack() as stack:
        hosts = [stack.enter_context(ground.start(kind)) for kind in kinds]
        for host in hosts:
            assert wait_ready(host)
        wait_until(lambda: len(list(ground.nodes.iterdir())) == 2, 20)
        fill(ground, 2_000)
        wait_until(lambda: is_drained(hosts[0]), 60)
        for host in hosts:
            assert host.stop().code == 0
    started = Counter(read_runs(ground.handlers).started)
    nodes = {node for _, _, _, node in read_ledger(ground.handlers)}
    assert len(started) == 2_000
    assert {epoch for _, epoch in started} == {1}
    assert set(started.values()) == {1}
    assert len(nodes) == 2, "one process did all the work"
    kinds_of_trouble = {v.kind for v in audit(ground.clients, ground.handlers, ground.store, []).violations}
    assert kinds_of_trouble <= {"unexplained"}, "nobody asked for them over HTTP; all else must be well"


def fill(ground: Ground, jobs: int) -> None:
    """Put so many due jobs into the store, in big batches and without a client."""

    async def enqueue() -> None:
        async with open_node(ground, "filler") as store:
            for begin in range(0, jobs, 1000):
                numbers = range(begin, min(begin + 1000, jobs))
                await store.enqueue([new_job("quick", f"fill-{number}") for number in numbers])

    trio.run(enqueue)


def new_job(type: str, key: str) -> NewJob:
    id = new_job_id(WallClock().now(), SystemRandom())
    return NewJob(id=id, type=type, payload=Json(b'{"key": "%s"}' % key.encode()))


def open_node(ground: Ground, name: str) -> AbstractAsyncContextManager[Store]:
    return open_store(ground.store_url, clock=WallClock(), random=Random(1), node=NodeId(name))


def seconds_until_ready(ground: Ground) -> float:
    """From the start of the process to its first green answer; killed afterwards."""
    started = time.monotonic()
    with ground.start("asyncio") as host:
        assert wait_ready(host)
        seconds = time.monotonic() - started
        waiting = ask(host, "/health")[1]["jobs"]["pending"]
        host.kill()
    assert waiting >= BACKLOG
    return seconds


def run_job(host: Host, type: str, key: str) -> dict[str, Any]:
    """Post a job and wait until it is completed."""
    return wait_completed(host, post(host, type, key))


def wait_completed(host: Host, job_id: str) -> dict[str, Any]:
    def job() -> dict[str, Any]:
        found: dict[str, Any] = ask(host, f"/jobs/{job_id}")[1]
        return found

    wait_until(lambda: job()["status"] == "completed", 25, lambda: str(job()))
    return job()


def start_hanging_job(ground: Ground, host: Host) -> str:
    job_id = post(host, "hanging", "hanging")
    wait_until(lambda: (job_id, 1) in read_runs(ground.handlers).started, 10)
    return job_id


def seconds_to_start(job: dict[str, Any]) -> float:
    created_at, started_at = (datetime.fromisoformat(job[name]) for name in ("created_at", "started_at"))
    return (started_at - created_at).total_seconds()


def assert_crashed_once(job: dict[str, Any]) -> None:
    assert job["crash_count"] == 1
    assert job["attempt"] == 1, "the crash must not spend an attempt"
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["lost", "completed"]
