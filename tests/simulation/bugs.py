"""Planted bugs: each is a mutation of the product that the simulator must find, switched on by name.

They are mistakes that real job queues have shipped. A simulator that finds none of them proves nothing,
so tests/simulation/test_bugs.py runs it with each.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace as replace_fields
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any
from unittest.mock import patch

import outcome
import trio
from msgspec.structs import replace

from trioqueue.errors import StoreUnavailable
from trioqueue.jobs import lifecycle
from trioqueue.jobs.job import Job, JobId, NewJob, NodeId, Status, new_job_id
from trioqueue.jobs.lifecycle import Transition
from trioqueue.jobs.outcome import Lost
from trioqueue.runtime.dispatcher import Dispatcher
from trioqueue.runtime.leases import Leases
from trioqueue.runtime.settler import Ended, Settler
from trioqueue.service.service import Service
from trioqueue.store import changes
from trioqueue.store.protocol import Hint
from trioqueue.store.rows import job_from_row, microseconds
from trioqueue.store.sqlite import operations
from trioqueue.store.sqlite import queries as sqlite_queries
from trioqueue.store.sqlite import store as sqlite_store
from trioqueue.store.sqlite.store import SqliteStore
from trioqueue.store.sqlite.transaction import Transaction
from trioqueue.store.sqlite.writer import Writer

Bug = Callable[[], AbstractContextManager[object]]

A_MOMENT = 0.05
"""What lies between a mistake and its consequence: a round trip, a flush."""


def rewritten(**queries: tuple[str, str]) -> AbstractContextManager[object]:
    """Part of a query of the SQLite store replaced by another text. Fails when that part is not there."""
    original = sqlite_queries.read_queries

    def read() -> Mapping[str, str]:
        found = dict(original())
        for name, (part, by) in queries.items():
            assert part in found[name], f"{name}.sql has changed; the planted bug must follow"
            found[name] = found[name].replace(part, by)
        return found

    return patch.object(sqlite_store, "read_queries", read)


# Fencing


def no_epoch_in_complete() -> AbstractContextManager[object]:
    return rewritten(held=("AND epoch = :epoch ", ""))


def no_epoch_in_renew() -> AbstractContextManager[object]:
    return rewritten(renew=("AND epoch = :epoch ", ""))


def epoch_reset_on_retry() -> AbstractContextManager[object]:
    settled = changes.settled

    def forgetful(job: Job, transition: Transition, now: Any) -> Job:
        after = settled(job, transition, now)
        return replace(after, epoch=0) if after.status is Status.PENDING else after

    return patch.object(changes, "settled", forgetful)


def node_name_as_identity() -> AbstractContextManager[object]:
    return patch("trioqueue.node.new_node_id", lambda host, pid, random: NodeId(host))


# Rescue


def rescue_by_read_then_write() -> AbstractContextManager[object]:
    async def rescue(self: SqliteStore, *, limit: int) -> Sequence[Job]:
        await trio.lowlevel.checkpoint()
        now = microseconds(self._clock.now())
        rows = list(self._reader.read("expired", {"now": now, "limit": limit}))
        if not rows:
            return []
        await trio.sleep(A_MOMENT)  # the list goes to the caller, and comes back as a write
        write = partial(_lose, seqs=[row[0] for row in rows], random=self._random)
        jobs = await self._writer.submit(write)
        self._ring_if_due(jobs)
        return jobs

    def _lose(transaction: Transaction, seqs: Sequence[int], random: Any) -> list[Job]:
        lost = []
        for seq in seqs:
            columns = transaction._queries["job"].replace("WHERE id = :id", f"WHERE seq = {int(seq)}")
            for row in list(transaction.connection.execute(columns)):
                job = job_from_row(row[1:])
                if job.node is not None:
                    outcome_of = Lost(str(job.node))
                    end = operations._end_attempt
                    lost.append(end(transaction, seq, job, outcome_of, random.random(), None))
        return lost

    return patch.object(SqliteStore, "rescue", rescue)


def rescue_ignores_lease_until() -> AbstractContextManager[object]:
    return rewritten(
        expired=("AND lease_until <= :now", "AND :now IS NOT NULL"),
        rescue_is_due=("AND lease_until <= :now", ""),
    )


def crash_count_not_counted() -> AbstractContextManager[object]:
    after_crash = lifecycle._after_crash

    def lenient(job: Job, node: str, jitter: float) -> Transition:
        return replace_fields(after_crash(job, node, jitter), crash_count=job.crash_count)

    return patch.object(lifecycle, "_after_crash", lenient)


def unique_key_freed_on_expiry() -> AbstractContextManager[object]:
    rescue = operations.rescue

    def freeing(transaction: Transaction, *args: Any, **kwargs: Any) -> list[Job]:
        jobs = rescue(transaction, *args, **kwargs)
        for job in jobs:
            transaction.connection.execute("UPDATE jobs SET unique_key = NULL WHERE id = ?", (job.id,))
        return jobs

    return patch.object(operations, "rescue", freeing)


# Time


def host_clock_in_run_at() -> AbstractContextManager[object]:
    new_job = Service._new_job

    async def hasty(self: Service, request: Any) -> NewJob:
        new = await new_job(self, request)
        if new.delay_seconds is None:
            return new
        run_at = self._clock.now() + timedelta(seconds=new.delay_seconds)
        return replace(new, run_at=run_at, delay_seconds=None)

    return patch.object(Service, "_new_job", hasty)


# Acknowledging


def insert_retried_without_id() -> AbstractContextManager[object]:
    enqueue = operations.enqueue
    seen: set[JobId] = set()

    def anew(transaction: Transaction, jobs: Sequence[NewJob]) -> Any:
        again = [
            replace(new, id=new_job_id(transaction.now, Random(new.id))) if new.id in seen else new
            for new in jobs
        ]
        seen.update(new.id for new in jobs)
        return enqueue(transaction, again)

    return patch.object(operations, "enqueue", anew)


def ack_before_commit() -> AbstractContextManager[object]:
    async def commit_next(self: Writer) -> None:
        batch = [self._queue.popleft() for _ in range(len(self._queue))]
        operations_of = [submitted.operation for submitted in batch]
        try:
            answers = await self._run_sync(partial(_rehearse, self, operations_of))
        except Exception as error:
            answers = [outcome.Error(StoreUnavailable(str(error))) for _ in operations_of]
        for submitted, answer in zip(batch, answers, strict=True):
            trio.lowlevel.reschedule(submitted.task, answer)
        await trio.sleep(A_MOMENT)
        with suppress(Exception):
            await self._run_sync(partial(self._commit, operations_of))

    def _rehearse(writer: Writer, operations_of: Sequence[Any]) -> list[Any]:
        answers: list[Any] = []
        try:
            with writer._transaction() as transaction:
                for operation in operations_of:
                    try:
                        answers.append(outcome.Value(operation(transaction)))
                    except Exception as error:
                        answers.append(outcome.Error(error))
                raise _Undo
        except _Undo:
            return answers

    return patch.object(Writer, "_commit_next", commit_next)


class _Undo(Exception):
    """Rolls a rehearsed transaction back."""


def completion_buffer_not_flushed() -> AbstractContextManager[object]:
    record = Settler._record

    async def record_later(self: Settler, batch: list[Ended]) -> list[tuple[Ended, Job | None]]:
        await trio.sleep(A_MOMENT)  # in the hope of company
        return [] if self._closed else await record(self, batch)

    async def nothing_to_give_back(self: Leases) -> None:
        await trio.lowlevel.checkpoint()

    stack = ExitStack()
    stack.enter_context(patch.object(Settler, "_record", record_later))
    stack.enter_context(patch.object(Leases, "give_back", nothing_to_give_back))
    return stack


def claims_too_many_and_gives_none_back() -> AbstractContextManager[object]:
    async def forget(self: Leases, *, older_than: float = 0.0) -> None:
        await trio.lowlevel.checkpoint()
        for held in [held for held in self._held.values() if not held.begun]:
            self._forget(held)
        self.ended.ring()

    stack = ExitStack()
    stack.enter_context(patch.object(Dispatcher, "look_ahead", property(lambda self: self._capacity)))
    stack.enter_context(patch.object(Leases, "release_waiting", forget))
    return stack


# Cancelling


def cancel_unconditional() -> AbstractContextManager[object]:
    async def cancel(self: SqliteStore, job_id: JobId) -> Job:
        job = await self._writer.submit(partial(_cancel, job_id=job_id))
        self._neighbours.ring(Hint.CANCEL)
        return job

    def _cancel(transaction: Transaction, job_id: JobId) -> Job:
        for row in list(transaction.run("job", {"id": job_id})):
            job = job_from_row(row[1:])
            ended = replace(
                job, status=Status.CANCELLED, node=None, lease_until=None, finished_at=transaction.now
            )
            return transaction.keep(row[0], job, ended)
        return operations.cancel(transaction, job_id)

    return patch.object(SqliteStore, "cancel", cancel)


BUGS: dict[str, tuple[Bug, str | None]] = {
    "no epoch in complete": (no_epoch_in_complete, "store"),
    "no epoch in renew": (no_epoch_in_renew, "zombies"),
    "epoch reset on retry": (epoch_reset_on_retry, None),
    "rescue by read then write": (rescue_by_read_then_write, "zombies"),
    "rescue ignores lease_until": (rescue_ignores_lease_until, None),
    "host clock in run_at": (host_clock_in_run_at, "clocks"),
    "node name as identity": (node_name_as_identity, "crashes"),
    "insert retried without id": (insert_retried_without_id, "store"),
    "ack before commit": (ack_before_commit, "crashes"),
    "completion buffer not flushed": (completion_buffer_not_flushed, "deploys"),
    "claims too many and gives none back": (claims_too_many_and_gives_none_back, "deploys"),
    "crash_count not counted": (crash_count_not_counted, "crashes"),
    "unique key freed on expiry": (unique_key_freed_on_expiry, "unique"),
    "cancel unconditional": (cancel_unconditional, "cancels"),
}
"""By name: the mutation, and the trouble in which it shows. The fifteenth comes with schedules."""
