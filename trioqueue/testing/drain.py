"""Runs everything that is due, and whatever comes of it, until nothing is left; then tells what happened."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio

from trioqueue.clock import is_virtual
from trioqueue.events import AttemptEnded, Event, JobsExpired, JobsRescued
from trioqueue.jobs.job import AttemptOutcome, JobId, Status
from trioqueue.store.protocol import Store
from trioqueue.testing.clock import quiet
from trioqueue.testing.cluster import Cluster
from trioqueue.testing.errors import NotDrained

DUE_SECONDS = 0.001
"""What is due so soon is due: floating-point time and microseconds differ by less."""

AGAIN_SECONDS = 1.0
"""So soon it looks again whether a node has learnt what the store knows already."""

FAILURES = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT)


@dataclass(slots=True)
class Tally:
    """What became of the jobs that were worked on."""

    attempts: int = 0
    failures: int = 0
    """Attempts that failed or timed out, whatever became of the job later."""
    snoozes: int = 0
    completed: int = 0
    cancelled: int = 0
    dead: int = 0

    def add_attempt(self, outcome: AttemptOutcome, status: Status) -> None:
        self.attempts += 1
        self.failures += outcome in FAILURES
        self.snoozes += outcome is AttemptOutcome.SNOOZED
        self.add_status(status)

    def add_status(self, status: Status) -> None:
        self.completed += status is Status.COMPLETED
        self.cancelled += status is Status.CANCELLED
        self.dead += status is Status.DEAD


@dataclass(slots=True)
class Drained(Tally):
    """What a drain has done, all in all and by type."""

    by_type: Mapping[str, Tally] = field(default_factory=dict)


async def drain(cluster: Cluster, *, with_delayed: bool, longest_seconds: float) -> Drained:
    """Work until nothing is due, or, `with_delayed`, until nothing is pending.

    Nodes that the test has started do it; where there is none, one is started for it. Raises
    `NotDrained` when `longest_seconds` have not been enough.
    """
    place = len(cluster.events)
    store = await cluster.observer()
    async with AsyncExitStack() as stack:
        if not cluster.nodes:
            stack.push_async_callback(cluster.stop, await cluster.start())
        cluster.stir()
        with trio.move_on_after(longest_seconds) as patience:
            while True:
                await quiet()
                length = len(cluster.events)
                is_left = await _is_left(store, cluster.types, with_delayed=with_delayed)
                if not is_left and not any(node.leases_left for node in cluster.nodes):
                    break
                # An outcome may be recorded and the node not know it yet, when its answer was lost.
                with trio.move_on_after(math.inf if is_left else AGAIN_SECONDS):
                    await cluster.events.longer_than(length)
    if patience.cancelled_caught:
        raise NotDrained(longest_seconds, await _left(store), is_virtual=is_virtual())
    return _tally(cluster.events.since(place), cluster.events.types)


async def _is_left(store: Store, types: frozenset[str], *, with_delayed: bool) -> bool:
    live = {Status.PROCESSING, Status.PENDING} if with_delayed else {Status.PROCESSING}
    if any(count.status in live and count.type in types for count in await store.counts()):
        return True
    due_in = await store.next_due_in(types)
    return due_in is not None and due_in <= DUE_SECONDS


async def _left(store: Store) -> str:
    counts = [count for count in await store.counts() if count.status in (Status.PENDING, Status.PROCESSING)]
    return "\n".join(f"  {count.jobs} {count.type} {count.status}" for count in counts)


def _tally(events: Sequence[Event], types: Mapping[JobId, str]) -> Drained:
    drained = Drained()
    by_type: defaultdict[str, Tally] = defaultdict(Tally)
    for event in events:
        match event:
            case AttemptEnded(job=job, outcome=outcome, status=status):
                for tally in (drained, by_type[job.type]):
                    tally.add_attempt(outcome, status)
            case JobsRescued(job_ids=job_ids, dead_ids=dead_ids, cancelled_ids=cancelled_ids):
                ended = dict.fromkeys(dead_ids, Status.DEAD) | dict.fromkeys(cancelled_ids, Status.CANCELLED)
                for job_id in job_ids:
                    for tally in (drained, by_type[types[job_id]]):
                        tally.add_attempt(AttemptOutcome.LOST, ended.get(job_id, Status.PENDING))
            case JobsExpired(job_ids=job_ids):
                for job_id in job_ids:
                    for tally in (drained, by_type[types[job_id]]):
                        tally.add_status(Status.DEAD)
    drained.by_type = dict(by_type)
    return drained
