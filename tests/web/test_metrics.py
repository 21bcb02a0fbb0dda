"""What Prometheus sees: exact numbers, whatever the store does, and never too many series."""

import re
from typing import Any

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from tests.conftest import ROOT
from tests.helpers import NOON, make_job
from tests.story.conftest import Client, StartClient, start
from trioqueue import Context, Handlers
from trioqueue.errors import StoreUnavailable
from trioqueue.events import (
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    JobEnqueued,
    JobsExpired,
    JobsRescued,
    StoreFailed,
)
from trioqueue.jobs.job import AttemptOutcome, Job, NodeId, Status
from trioqueue.metrics import MOST_PAIRS, MOST_VALUES, Metrics
from trioqueue.store.protocol import Count

__all__ = ["start"]  # a fixture

ALICE = NodeId("alice")
ROW = re.compile(r"^\| `(trioqueue_\w+)` \| (\w+) \| (.*?) \|", re.MULTILINE)


@pytest.fixture
def store_url() -> str:
    return "memory:"


def handlers() -> Handlers:
    registry = Handlers()

    @registry.handler("nap")
    async def nap(ctx: Context, seconds: float) -> None:
        await trio.sleep(seconds)

    @registry.handler("fail", max_attempts=2)
    async def fail(ctx: Context) -> None:
        raise ValueError("no")

    return registry


class Scraped:
    """The samples of one answer."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def values(self, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


async def scrape(client: Client) -> Scraped:
    response = await client.site.test_client().get("/metrics")
    assert response.status_code == 200
    assert response.content_type.startswith("text/plain")
    return Scraped(str(await response.get_data(as_text=True)))


async def test_jobs_are_counted_exactly(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start(handlers(), worker_count=2)
    naps = [await client.post("/jobs", {"type": "nap", "payload": {"seconds": 3}}) for _ in range(4)]
    for _, job in naps:
        await client.finished(job["id"])
    _, failing = await client.post("/jobs", {"type": "fail", "queue": "odd"})
    await client.finished(failing["id"])
    _, later = await client.post("/jobs", {"type": "fail", "delay_seconds": 1000})
    await client.post(f"/jobs/{later['id']}/cancel")
    await trio.sleep(1)
    found = await scrape(client)

    assert found("trioqueue_jobs_enqueued_total", queue="default", type="nap") == 4
    assert found("trioqueue_job_attempts_total", type="nap", outcome="completed") == 4
    assert found("trioqueue_job_attempts_total", queue="odd", type="fail", outcome="failed") == 2
    assert found("trioqueue_jobs_finished_total", type="nap", status="completed") == 4
    assert found("trioqueue_jobs_finished_total", queue="odd", status="dead") == 1
    assert found("trioqueue_jobs_finished_total", queue="default", status="cancelled") == 1
    assert found("trioqueue_job_run_seconds_count", type="nap") == 4
    assert found("trioqueue_job_run_seconds_sum", type="nap") == pytest.approx(12, abs=0.1)
    assert found("trioqueue_job_wait_seconds_sum", type="nap") == pytest.approx(6, abs=0.2)
    assert found("trioqueue_job_run_seconds_bucket", type="nap", le="2.5") == 0
    assert found("trioqueue_job_run_seconds_bucket", type="nap", le="5.0") == 4
    assert found("trioqueue_queue_jobs", queue="default", status="completed") == 4
    assert found("trioqueue_queue_jobs", queue="odd", status="dead") == 1
    assert found("trioqueue_store_up") == 1
    assert found("trioqueue_build_info", store="memory") == 1


async def test_busy_workers_and_the_oldest_due_job_show(
    start: StartClient, autojump_clock: MockClock
) -> None:
    client = await start(handlers(), worker_count=2, job_queue_capacity=1)
    for _ in range(9):
        await client.post("/jobs", {"type": "nap", "payload": {"seconds": 60}})
    await trio.sleep(30)
    found = await scrape(client)

    assert (found("trioqueue_workers"), found("trioqueue_workers_busy")) == (2, 2)
    assert found("trioqueue_oldest_due_seconds") == pytest.approx(30, abs=0.5)


async def test_openmetrics_for_those_who_ask(start: StartClient, autojump_clock: MockClock) -> None:
    client = await start(handlers())
    await client.post("/jobs", {"type": "nap", "payload": {"seconds": 1}})
    accept = {"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}
    response = await client.site.test_client().get("/metrics", headers=accept)

    assert response.content_type.startswith("application/openmetrics-text")
    assert response.headers["Connection"] == "close"
    text = str(await response.get_data(as_text=True))
    names = {family.name for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert "trioqueue_jobs_enqueued" in names


async def test_two_nodes_in_one_process_count_for_themselves(
    start: StartClient, autojump_clock: MockClock
) -> None:
    one, two = await start(handlers(), worker_count=1), await start(handlers(), worker_count=1)
    for client in (one, two, two):
        await client.post("/jobs", {"type": "fail", "delay_seconds": 100})
    first, second = await scrape(one), await scrape(two)

    assert first("trioqueue_jobs_enqueued_total") == 1
    assert second("trioqueue_jobs_enqueued_total") == 2
    assert first.values("node").isdisjoint(second.values("node"))


def a_node() -> Metrics:
    return Metrics(ALICE, workers=3, store="memory")


async def text_of(metrics: Metrics) -> Scraped:
    return Scraped((await metrics.scrape(""))[0].decode())


async def test_a_store_that_is_away_takes_only_its_own_numbers_along(autojump_clock: MockClock) -> None:
    metrics = a_node()
    away: list[str] = []

    async def counts() -> list[Count]:
        if "hangs" in away:
            await trio.sleep_forever()
        if away:
            raise StoreUnavailable("the disk is full")
        return [Count("default", "work", Status.PENDING, 7)]

    async def due_in() -> float:
        return -4.0

    metrics.watch(busy=lambda: 1, counts=counts, due_in=due_in)
    metrics.notice(JobEnqueued(job=make_job()))
    assert (await text_of(metrics))("trioqueue_queue_jobs", status="pending") == 7

    away.append("full")
    assert (await text_of(metrics))("trioqueue_queue_jobs") == 7  # for a second
    for trouble in ("full", "hangs"):
        away.append(trouble)
        await trio.sleep(1)
        found = await text_of(metrics)
        assert found("trioqueue_store_up") == 0
        assert found("trioqueue_jobs_enqueued_total") == 1
        assert "trioqueue_queue_jobs" not in {sample.name for sample in found.samples}

    away.clear()
    await trio.sleep(1)
    found = await text_of(metrics)
    assert (found("trioqueue_store_up"), found("trioqueue_oldest_due_seconds")) == (1, 4)


async def test_clients_cannot_make_series_without_end(autojump_clock: MockClock) -> None:
    metrics = a_node()
    names = [f"name-{number}" for number in range(MOST_VALUES + 50)]

    async def counts() -> list[Count]:
        return [Count(name, "work", Status.PENDING, 1) for name in names]

    async def due_in() -> None:
        return None

    metrics.watch(busy=lambda: 0, counts=counts, due_in=due_in)
    for name in names:
        metrics.notice(JobEnqueued(job=make_job(type=name)))
        metrics.notice(JobEnqueued(job=make_job(queue=name)))
    for queue in names[:60]:
        for type in names[:60]:
            metrics.notice(JobEnqueued(job=make_job(queue=queue, type=type)))
    found = await text_of(metrics)

    assert len(found.values("type")) == MOST_VALUES + 1
    assert found("trioqueue_queue_jobs") == MOST_VALUES + 50
    assert found("trioqueue_queue_jobs", queue="other") == 50
    assert found("trioqueue_jobs_enqueued_total") == 2 * len(names) + 3600
    series = [sample for sample in found.samples if sample.name == "trioqueue_jobs_enqueued_total"]
    assert len(series) <= MOST_PAIRS + 2 * MOST_VALUES


def everything() -> Metrics:
    """A node to which everything has happened."""
    metrics = a_node()
    job = make_job(status=Status.DEAD)
    jobs: list[Job] = [job]
    facts: Any = {"job": job, "node": ALICE, "worker": 1}
    ended = AttemptOutcome.FAILED
    for event in (
        JobEnqueued(job=job),
        AttemptStarted(**facts, at=NOON, waited_seconds=0.5),
        AttemptEnded(**facts, outcome=ended, status=Status.DEAD, error=None, seconds=4000.0),
        AttemptLost(**facts, outcome=ended),
        JobsRescued(node=ALICE, jobs=jobs),
        JobsExpired(node=ALICE, jobs=jobs),
        StoreFailed(node=ALICE, call="enqueue", reason="gone"),
    ):
        metrics.notice(event)

    async def counts() -> list[Count]:
        return [Count("default", "work", Status.DEAD, 1)]

    async def due_in() -> float:
        return 3.0

    metrics.watch(busy=lambda: 0, counts=counts, due_in=due_in)
    return metrics


async def test_what_happens_to_jobs_without_a_worker_is_counted(autojump_clock: MockClock) -> None:
    found = await text_of(everything())
    assert found("trioqueue_jobs_finished_total", status="dead") == 3
    assert found("trioqueue_job_attempts_total", outcome="lost") == found("trioqueue_leases_lost_total") == 1
    assert found("trioqueue_jobs_rescued_total") == 1
    assert found("trioqueue_store_errors_total", call="enqueue") == 1
    assert found("trioqueue_job_run_seconds_bucket", le="3600.0") == 0
    assert found("trioqueue_job_run_seconds_bucket", le="+Inf") == 1


async def test_the_table_of_metrics_is_true(autojump_clock: MockClock) -> None:
    found = await text_of(everything())
    there: dict[str, tuple[str, set[str]]] = {}
    for family in found.families:
        for sample in family.samples:
            name = sample.name if family.type != "histogram" else family.name
            there[name] = (family.type, set(sample.labels) - {"le"} | there.get(name, ("", set()))[1])
    table = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall((ROOT / "docs" / "metrics.md").read_text())
    }
    assert table == there
