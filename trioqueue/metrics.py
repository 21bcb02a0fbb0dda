"""Listens to events and counts them for Prometheus; asks the store, when scraped, how many jobs there are.

What this node counted carries the label `node`, because a scrape may reach any of several processes
behind one port. What the store says is the same in all of them, and carries none.
"""

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from trioqueue.errors import StoreUnavailable
from trioqueue.events import (
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    Event,
    JobCancelled,
    JobEnqueued,
    JobsExpired,
    JobsRescued,
    StoreFailed,
)
from trioqueue.jobs.job import FINAL, AttemptOutcome, Job, NodeId, Status
from trioqueue.store.protocol import Count

MOST_VALUES = 200
"""Of a label that clients choose; later ones are shown as `OTHER`. Each value costs Prometheus memory."""

MOST_PAIRS = 1000
"""Of queue and type together."""

OTHER = "other"

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Seconds: jobs take from milliseconds to an hour."""

CACHE_SECONDS = 1.0
"""So long an answer of the store is good for: many scrapers cost it no more than one."""

STORE_SECONDS = 3.0
"""So long a scrape waits for the store. Prometheus gives up after ten."""

NODE = "node"
LANE = (NODE, "queue", "type")

ReadCounts = Callable[[], Awaitable[Sequence[Count]]]
ReadDueIn = Callable[[], Awaitable[float | None]]

Lane = tuple[str, str]
"""Queue and type, as labels show them."""


@dataclass(frozen=True, slots=True)
class StoreSays:
    """What the store said when it was last asked."""

    counts: Sequence[Count]
    due_in: float | None


class Lanes:
    """Turns what clients choose into labels, of which there are never too many."""

    def __init__(self) -> None:
        self._queues: set[str] = set()
        self._types: set[str] = set()
        self._lanes: dict[Lane, Lane] = {}

    def __getitem__(self, job: Job) -> Lane:
        key = (job.queue, job.type)
        lane = self._lanes.get(key)
        return self._new(key) if lane is None else lane

    def _new(self, key: Lane) -> Lane:
        if len(self._lanes) >= MOST_PAIRS:
            return (OTHER, OTHER)
        queue, type = key
        lane = (_capped(queue, self._queues), _capped(type, self._types))
        if OTHER not in lane:  # what is cut off must not fill the memory either
            self._lanes[key] = lane
        return lane


class Histogram:
    """How often a duration fell into each bucket, and the sum of all."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        total, buckets = 0, []
        for bound, count in zip([*map(float, BUCKETS), "+Inf"], self.counts, strict=True):
            total += count
            buckets.append((str(bound), float(total)))
        return buckets


class Metrics:
    """The numbers of one node. Plain dictionaries, since every job pays for each of its events."""

    def __init__(self, node: NodeId, *, workers: int, store: str) -> None:
        """`store`: the kind of store, for `trioqueue_build_info`."""
        self._node = node
        self._workers = workers
        self._store = store
        self._lanes = Lanes()
        self._enqueued: Counter[Lane] = Counter()
        self._attempts: Counter[tuple[Lane, AttemptOutcome]] = Counter()
        self._finished: Counter[tuple[Lane, Status]] = Counter()
        self._waits: dict[Lane, Histogram] = {}
        self._runs: dict[Lane, Histogram] = {}
        self._leases_lost = 0
        self._rescued = 0
        self._store_errors: Counter[str] = Counter()
        self._busy: Callable[[], int] = lambda: 0
        self._counts: ReadCounts | None = None
        self._due_in: ReadDueIn | None = None
        self._says: StoreSays | None = None
        self._asked_at: float | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def __repr__(self) -> str:
        return f"<Metrics of {self._node}>"

    def watch(self, *, busy: Callable[[], int], counts: ReadCounts, due_in: ReadDueIn) -> None:
        """From now on a scrape can ask how many workers run an attempt, and what the store holds."""
        self._busy, self._counts, self._due_in = busy, counts, due_in

    def notice(self, event: Event) -> None:
        """Count the event."""
        match event:
            case AttemptStarted(job=job, waited_seconds=seconds):
                _observe(self._waits, self._lanes[job], seconds)
            case AttemptEnded(job=job, outcome=outcome, status=status, seconds=seconds):
                lane = self._lanes[job]
                self._attempts[lane, outcome] += 1
                _observe(self._runs, lane, seconds)
                if status in FINAL:
                    self._finished[lane, status] += 1
            case JobEnqueued(job=job):
                self._enqueued[self._lanes[job]] += 1
            case AttemptLost(job=job):
                self._leases_lost += 1
                self._attempts[self._lanes[job], AttemptOutcome.LOST] += 1
            case JobCancelled(job=job):
                self._count_finished([job])
            case JobsRescued(jobs=jobs):
                self._rescued += len(jobs)
                self._count_finished(jobs)
            case JobsExpired(jobs=jobs):
                self._count_finished(jobs)
            case StoreFailed(call=call):
                self._store_errors[call] += 1
            case _:
                pass  # nobody counts it

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The body and the content type: OpenMetrics when `accept` asks for it, else plain text.

        It never fails because the store is away: what the store would say is left out then.
        """
        await self._ask_store()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Every series as it is now; `CollectorRegistry` asks for it."""
        yield from self._counted()
        yield from self._seen_now()
        if self._says is not None:
            yield from _stored(self._says)

    def describe(self) -> list[Metric]:
        """Nothing: names need no check in a registry that has one collector."""
        return []

    def _count_finished(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job.is_final:
                self._finished[self._lanes[job], job.status] += 1

    async def _ask_store(self) -> None:
        now = trio.current_time()
        if self._asked_at is not None and now < self._asked_at + CACHE_SECONDS:
            return
        says: StoreSays | None = None
        if self._counts is not None and self._due_in is not None:
            # Whoever cannot reach it has said so; here `trioqueue_store_up` does.
            with trio.move_on_after(STORE_SECONDS), suppress(StoreUnavailable):
                says = StoreSays(await self._counts(), await self._due_in())
        self._says, self._asked_at = says, trio.current_time()

    def _counted(self) -> Iterator[Metric]:
        node = self._node
        enqueued = CounterMetricFamily("trioqueue_jobs_enqueued", "Jobs this node accepted.", labels=LANE)
        for lane, count in self._enqueued.items():
            enqueued.add_metric([node, *lane], count)
        attempts = CounterMetricFamily(
            "trioqueue_job_attempts", "Attempts that ended on this node.", labels=(*LANE, "outcome")
        )
        for (lane, outcome), count in self._attempts.items():
            attempts.add_metric([node, *lane, outcome], count)
        finished = CounterMetricFamily(
            "trioqueue_jobs_finished", "Jobs this node brought to their end.", labels=(*LANE, "status")
        )
        for (lane, status), count in self._finished.items():
            finished.add_metric([node, *lane, status], count)
        lost = CounterMetricFamily(
            "trioqueue_leases_lost", "Attempts that ended after their lease had.", labels=[NODE]
        )
        lost.add_metric([node], self._leases_lost)
        rescued = CounterMetricFamily(
            "trioqueue_jobs_rescued", "Jobs this node took over from silent nodes.", labels=[NODE]
        )
        rescued.add_metric([node], self._rescued)
        errors = CounterMetricFamily(
            "trioqueue_store_errors", "Calls that could not reach the store.", labels=(NODE, "call")
        )
        for call, count in self._store_errors.items():
            errors.add_metric([node, call], count)
        yield from (enqueued, attempts, finished, lost, rescued, errors)
        yield self._histogram("trioqueue_job_wait_seconds", "From run_at to the start.", self._waits)
        yield self._histogram("trioqueue_job_run_seconds", "How long attempts ran.", self._runs)

    def _histogram(self, name: str, words: str, lanes: dict[Lane, Histogram]) -> Metric:
        family = HistogramMetricFamily(name, words, labels=LANE)
        for lane, histogram in lanes.items():
            family.add_metric([self._node, *lane], histogram.buckets(), histogram.sum)
        return family

    def _seen_now(self) -> Iterator[Metric]:
        for name, words, value in (
            ("trioqueue_workers", "Jobs this node runs at the same time.", self._workers),
            ("trioqueue_workers_busy", "Attempts that run now.", self._busy()),
            ("trioqueue_store_up", "Whether the store answered this scrape.", self._says is not None),
        ):
            gauge = GaugeMetricFamily(name, words, labels=[NODE])
            gauge.add_metric([self._node], float(value))
            yield gauge
        info = InfoMetricFamily("trioqueue_build", "What runs here.", labels=[NODE])
        facts = {
            "version": version("trioqueue"),
            "python": platform.python_version(),
            "store": self._store,
        }
        info.add_metric([self._node], facts)
        yield info


def _stored(says: StoreSays) -> Iterator[Metric]:
    """The gauges that every process on the store answers alike."""
    jobs: Counter[tuple[str, Status]] = Counter()
    shown: set[str] = set()
    # In the order of their names, so that every process leaves out the same queues.
    queues = {queue: _capped(queue, shown) for queue in sorted({count.queue for count in says.counts})}
    for count in says.counts:
        jobs[queues[count.queue], count.status] += count.jobs
    gauge = GaugeMetricFamily("trioqueue_queue_jobs", "Jobs in the store.", labels=("queue", "status"))
    for queue in dict.fromkeys(queues.values()):
        for status in Status:
            gauge.add_metric([queue, status], jobs[queue, status])
    yield gauge
    overdue = 0.0 if says.due_in is None else max(-says.due_in, 0.0)
    yield GaugeMetricFamily(
        "trioqueue_oldest_due_seconds", "How long the first due job has waited for a claim.", value=overdue
    )


def _observe(lanes: dict[Lane, Histogram], lane: Lane, seconds: float) -> None:
    histogram = lanes.get(lane)
    if histogram is None:
        histogram = lanes[lane] = Histogram()
    histogram.observe(seconds)


def _capped(value: str, shown: set[str]) -> str:
    if value in shown:
        return value
    if len(shown) >= MOST_VALUES:
        return OTHER
    shown.add(value)
    return value
