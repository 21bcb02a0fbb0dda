"""The contract on one SQLite file. Writes go through the writer; reads are short and run on the loop."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    suppress,
)
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import trio

from trioqueue.clock import Clock, RunSync
from trioqueue.errors import JobNotFound, NotSupported, StoreUnavailable
from trioqueue.jobs.job import Attempt, Claim, Job, JobId, Json, NewJob, NodeId, Status
from trioqueue.store.cursors import LAST_PLACE, cursor_of, place_of
from trioqueue.store.protocol import (
    ENDS,
    Bell,
    Completion,
    Count,
    Enqueued,
    Hint,
    JobFilter,
    NextUpkeep,
    NodeFacts,
    NodeSeen,
    Page,
    Redriven,
    Renewal,
    Settlement,
    seconds_until_first,
)
from trioqueue.store.rows import (
    attempt_from_row,
    instant,
    instant_or_none,
    job_from_row,
    microseconds,
    nodes_from_rows,
)
from trioqueue.store.sqlite import operations
from trioqueue.store.sqlite.claiming import Claims
from trioqueue.store.sqlite.connection import prepare
from trioqueue.store.sqlite.neighbours import Neighbours, open_neighbours
from trioqueue.store.sqlite.queries import read_queries
from trioqueue.store.sqlite.reader import Reader
from trioqueue.store.sqlite.settling import Settlements
from trioqueue.store.sqlite.transaction import is_due
from trioqueue.store.sqlite.writer import InDoubt, Writer


class SqliteStore:
    """Keeps jobs in one file, which the processes of one machine may share."""

    def __init__(
        self,
        *,
        url: str,
        clock: Clock,
        random: Random,
        writer: Writer,
        reader: Reader,
        neighbours: Neighbours,
    ) -> None:
        self._url = url
        self._clock = clock
        self._random = random
        self._writer = writer
        self._reader = reader
        self._neighbours = neighbours
        self._claims = Claims(writer, neighbours)
        self._settlements = Settlements(writer, random)

    def __repr__(self) -> str:
        return f"<SqliteStore {self._url}>"

    @property
    def url(self) -> str:
        return self._url

    def listen(self, bell: Bell) -> None:
        self._neighbours.listen(bell)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        try:
            answers = await self._writer.submit(partial(operations.enqueue, jobs=jobs))
        except InDoubt as doubt:
            answers = await self._enqueue_again(jobs, doubt)
        self._ring_if_due([answer.job for answer in answers if answer.created])
        return answers

    async def _enqueue_again(self, jobs: Sequence[NewJob], doubt: InDoubt) -> list[Enqueued]:
        """Once more, with the same ids. `doubt` again when that fails, too: the jobs may have been kept.

        Not cancelled in between, when nobody would learn that the jobs are there; the writer answers soon.
        """
        try:
            with trio.CancelScope(shield=True):
                answers = await self._writer.submit(partial(operations.enqueue, jobs=jobs))
        except StoreUnavailable as error:
            raise doubt from error
        # Nobody else knows these ids: a job that has one is taken for the one that was just made. So is
        # one that an earlier call of the same caller has kept, if that call is repeated: `created` says
        # too much then, and there is one job all the same.
        first_with = {new.id: n for n, new in reversed(list(enumerate(jobs)))}
        return [
            Enqueued(answer.job, created=answer.created or first_with.get(answer.job.id) == n)
            for n, answer in enumerate(answers)
        ]

    async def get(self, job_id: JobId) -> Job:
        await trio.lowlevel.checkpoint()
        for row in self._reader.read("job", {"id": job_id}):
            return job_from_row(row[1:])
        raise JobNotFound(job_id)

    async def attempts(self, job_id: JobId) -> list[Attempt]:
        await self.get(job_id)
        return [attempt_from_row(row) for row in self._reader.read("attempts", {"id": job_id})]

    async def list(self, filter: JobFilter, *, limit: int, cursor: str | None = None) -> Page:
        await trio.lowlevel.checkpoint()
        columns = {"status": filter.status, "type": filter.type, "queue": filter.queue}
        rows = self._reader.read(
            "jobs" if filter.tag is None else "jobs_with_tag",
            {
                **columns,
                "tag": filter.tag,
                "before": LAST_PLACE if cursor is None else place_of(cursor),
                "limit": limit + 1,  # one more tells whether there is another page
            },
            filters="".join(f"AND {name} = :{name} " for name, value in columns.items() if value is not None),
        )
        jobs = [job_from_row(row[1:]) for row in rows[:limit]]
        return Page(jobs, cursor_of(rows[limit - 1][0]) if len(rows) > limit else None)

    async def claim(
        self, *, node: NodeId, types: frozenset[str] | None, limit: int, lease_seconds: float
    ) -> Sequence[Claim]:
        return await self._claims.claim(node=node, types=types, limit=limit, lease_seconds=lease_seconds)

    async def next_due_in(self, types: frozenset[str] | None) -> float | None:
        await trio.lowlevel.checkpoint()
        lanes = self._reader.read("next_due")
        firsts = [first for type, *lane in lanes if types is None or type in types for first in lane]
        due = [instant(first) for first in firsts if first is not None]
        return (min(due) - self._clock.now()).total_seconds() if due else None

    async def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> Sequence[Renewal]:
        return await self._writer.submit(
            partial(operations.renew, claims=claims, lease_seconds=lease_seconds)
        )

    async def progress(self, claim: Claim, progress: Json) -> None:
        await self._writer.submit(partial(operations.progress, claim=claim, progress=progress))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Job | None]:
        settled = await self._settlements.settle(settlements)
        self._ring_if_due([job for job in settled if job is not None])
        return settled

    def transaction(self, claim: Claim, *, worker: int | None) -> AbstractAsyncContextManager[Completion]:
        raise NotSupported("transactions", needs="a PostgreSQL store")

    async def release(self, claims: Sequence[Claim]) -> int:
        released = await self._writer.submit(partial(operations.release, claims=claims))
        if released:
            self._neighbours.ring(Hint.WORK)
        return released

    async def cancel(self, job_id: JobId) -> Job:
        job = await self._writer.submit(partial(operations.cancel, job_id=job_id))
        if job.status is Status.PROCESSING:
            self._neighbours.ring(Hint.CANCEL)
        return job

    async def redrive(self, job_ids: Sequence[JobId]) -> Sequence[Redriven]:
        answers = await self._writer.submit(partial(operations.redrive, job_ids=job_ids))
        self._ring_if_due([answer.job for answer in answers if answer.job and not answer.refusal])
        return answers

    async def rescue(self, *, limit: int) -> Sequence[Job]:
        await trio.lowlevel.checkpoint()
        dead = self._neighbours.dead()
        if not dead and not self._rescue_is_due():
            return []
        jobs = await self._writer.submit(
            partial(operations.rescue, dead=dead, limit=limit, random=self._random)
        )
        if len(jobs) < limit:  # the dead hold nothing any more
            for node in dead:
                self._neighbours.forget(node)
        self._ring_if_due(jobs)
        return jobs

    def _rescue_is_due(self) -> bool:
        now = self._clock.now()
        values = {"now": microseconds(now), "silent_before": operations.silent_before(now)}
        [(is_due,)] = self._reader.read("rescue_is_due", values)
        return bool(is_due)

    async def expire(self, *, limit: int) -> Sequence[Job]:
        await trio.lowlevel.checkpoint()
        if not self._reader.read("late", {"now": microseconds(self._clock.now()), "limit": 1}):
            return []
        return await self._writer.submit(partial(operations.expire, limit=limit))

    async def prune(self, retention: Mapping[Status, timedelta], *, limit: int) -> int:
        return await self._writer.submit(partial(operations.prune, retention=retention, limit=limit))

    async def next_upkeep_in(self, retention: Mapping[Status, timedelta]) -> NextUpkeep:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        [row] = self._reader.read("next_upkeep")
        lease_until, deadline_at, *ended = [instant_or_none(first) for first in row]
        old = (
            at + retention[status]
            for status, at in zip(ENDS, ended, strict=True)
            if at is not None and status in retention
        )
        return NextUpkeep(
            rescue=0.0 if self._neighbours.dead() else seconds_until_first([lease_until], now),
            expire=seconds_until_first([deadline_at], now),
            prune=seconds_until_first(old, now),
        )

    async def counts(self) -> Sequence[Count]:
        await trio.lowlevel.checkpoint()
        rows = self._reader.read("counters")
        return [Count(queue, type, Status(status), jobs) for queue, type, status, jobs in rows]

    async def dedicate(self, *, demo: bool) -> bool:
        return await self._writer.submit(partial(operations.dedicate, demo=demo))

    async def beat(self, node: NodeId, *, facts: NodeFacts | None = None, stopping: bool = False) -> None:
        await self._writer.submit(partial(operations.beat, node=node, facts=facts, stopping=stopping))

    async def nodes(self) -> Sequence[NodeSeen]:
        await trio.lowlevel.checkpoint()
        return nodes_from_rows(self._reader.read("nodes"), self._clock.now())

    async def leave(self, node: NodeId) -> None:
        """A node that has ended well holds nothing that it does not know of, and is not listed any more."""
        await self._claims.give_back_doubtful()
        await self._writer.submit(partial(operations.forget_node, node=node))

    def _ring_if_due(self, jobs: Sequence[Job]) -> None:
        now = self._clock.now()
        if any(is_due(job, now) for job in jobs):
            self._neighbours.ring(Hint.WORK)


@asynccontextmanager
async def open_sqlite(
    path: Path,
    *,
    url: str,
    clock: Clock,
    random: Random,
    node: NodeId,
    run_sync: RunSync[Any],
    flushed: bool = True,
    neighbours: AbstractContextManager[Neighbours] | None = None,
) -> AsyncIterator[SqliteStore]:
    """The store in the file at `path`, which is created when it is not there.

    `neighbours`: by default those who share the directory beside the file.
    """
    await run_sync(partial(prepare, path, flushed=flushed))
    queries = read_queries()
    writer = Writer(path, queries, clock, run_sync, flushed=flushed)
    failure: Exception | None = None
    with (
        closing(Reader(path, queries)) as reader,
        neighbours or open_neighbours(path.with_name(path.name + "-nodes"), node) as joined,
    ):
        async with trio.open_nursery() as listening:
            listening.start_soon(joined.run)
            async with trio.open_nursery() as writing:
                writing.start_soon(writer.run)
                store = SqliteStore(
                    url=url, clock=clock, random=random, writer=writer, reader=reader, neighbours=joined
                )
                try:
                    yield store
                except Exception as error:
                    failure = error  # raised below: our nurseries would wrap it in groups
                finally:
                    try:
                        with trio.CancelScope(shield=True), suppress(StoreUnavailable):
                            await store.leave(node)
                    finally:
                        writer.close()
            # Whatever was handed to the writer has been committed or refused.
            listening.cancel_scope.cancel()
        # Nobody rings any more.
    # The directory does not list this node any more, and both connections are closed.
    if failure is not None:
        raise failure
