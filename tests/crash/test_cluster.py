"""Nodes that die or sleep lose no job, and settle none twice; see docs/outage-testing.md for longer runs."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import SystemRandom

import pytest

from tests.crash.audit import check_job, read_runs
from tests.crash.cluster import Plan, is_clean, report, run
from tests.crash.inquiry import Inquiry
from tests.crash.kill import Ground, post
from tests.crash.nodes import start_nodes
from tests.postgres.server import start_server
from tests.web.hosts import wait_until

LEASE_SECONDS = 2.0
STUBBORN_SECONDS = 8.0


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with start_server() as server:
        yield Ground(tmp_path, server.create_database("jobs"))


def test_kills_of_nodes_lose_nothing_and_settle_nothing_twice(ground: Ground) -> None:
    seed = SystemRandom().randrange(10**6)
    plan = Plan(jobs=500, kills=10, nodes=2, lease_seconds=LEASE_SECONDS, seed=seed)
    course, result = run(ground, plan)
    table = "\n".join(report(course, result))
    assert is_clean(course, result), f"{plan}\n{table}"
    assert len(course.kills) >= 10
    assert result.cut, "no kill hit a running job"


def test_a_node_that_slept_through_its_lease_can_settle_nothing(ground: Ground) -> None:
    with (
        start_nodes(ground, 1, TRIOQUEUE_LEASE_SECONDS=str(LEASE_SECONDS)) as [sleeper],
        start_nodes(ground, 1, TRIOQUEUE_LEASE_SECONDS=str(LEASE_SECONDS), WORKER_COUNT="0") as [witness],
    ):
        ids = [post(sleeper.host, "patient", "patient")]
        ids.append(post(sleeper.host, "stubborn", "stubborn", seconds=STUBBORN_SECONDS))
        wait_until(lambda: {(id, 1) for id in ids} <= set(read_runs(ground.handlers).started), 10)
        sleeper.pause()
        with (
            start_nodes(ground, 1, TRIOQUEUE_LEASE_SECONDS=str(LEASE_SECONDS)) as [other],
            closing(Inquiry([witness.host.port])) as inquiry,
        ):
            assert inquiry.wait_drained(LEASE_SECONDS + 6), inquiry.counts()
            jobs_before = {job.id: job for job in inquiry.jobs()}
            sleeper.resume()
            assert_taken_over(ground, ids)
            wait_until(lambda: "lease lost, outcome dropped" in sleeper.output, 10, lambda: sleeper.output)
            jobs = {job.id: job for job in inquiry.jobs()}
            assert jobs == jobs_before, "the sleeper has settled something"
            for job in jobs.values():
                assert [(attempt.outcome, attempt.pid) for attempt in job.attempts] == [
                    ("lost", sleeper.pid),
                    ("completed", other.pid),
                ]
                assert list(check_job(job)) == []
            assert other.stop() == 0
            post(witness.host, "quick", "afterwards")
            assert inquiry.wait_drained(10), "the sleeper works no more"
        assert sleeper.stop() == 0


def assert_taken_over(ground: Ground, ids: list[str]) -> None:
    """The other node has finished both. The sleeper wakes: one handler is cancelled, the thread ends late."""
    patient, stubborn = ids
    wait_until(lambda: (patient, 1) in read_runs(ground.handlers).cancelled, 10)
    wait_until(lambda: (stubborn, 1) in read_runs(ground.handlers).finished, STUBBORN_SECONDS + 10)
    runs = read_runs(ground.handlers)
    assert {(patient, 2), (stubborn, 2)} <= runs.finished
    assert (patient, 1) not in runs.finished
